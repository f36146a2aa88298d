#!/usr/bin/env bash
# mkdocs 1.6.1: `exclude_docs` leaves out the theme's own files, too, and `--strict` does not see that pages have lost their style.
#
# exclude_docs has patterns of files in the folder of documents. One that says "nothing but these" begins with `/*`, as in
# .gitignore. What surprises: the patterns are also laid on the files that the theme brings, which are in no folder of
# documents, so that the site has neither style sheets nor scripts. Pages still load them. No warning is given, --strict passes,
# and nothing is listed as excluded. It matters where the folder of documents is a whole repository, of which only some
# files are pages. The way out is to name the theme's folders as exceptions: `!/css`, or `!/assets` for mkdocs-material.
#
# Needs Python 3.11 or later with venv, and PyPI. Exit code 0: as described; 1: mkdocs behaves differently now.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet mkdocs==1.6.1
export PATH="$folder/venv/bin:$PATH"
mkdocs --version | cut -d' ' -f1-3
mkdir -p "$folder/work/docs" && cd "$folder/work"
echo "# A page" > docs/index.md
printf 'site_name: example\n' > all.yml
printf 'site_name: example\nexclude_docs: |\n  /*\n  !/index.md\n' > chosen.yml

for name in all chosen; do
    code=0; mkdocs build --strict --config-file $name.yml --site-dir "$folder/$name" > $name.txt 2>&1 || code=$?
    loaded=$(grep -o 'href="css/base.css"' "$folder/$name/index.html")
    there=$(test -e "$folder/$name/css/base.css" && echo there || echo missing)
    echo "$name: exit code $code; the page has $loaded; css/base.css is $there; warnings: $(grep -c WARNING $name.txt || true)"
    echo "$code $there" > $name.outcome
done
[ "$(cat all.outcome)" = "0 there" ] || { echo "changed: without exclude_docs the style is not there"; exit 1; }
[ "$(cat chosen.outcome)" = "0 missing" ] || { echo "changed: the theme's files stay, or --strict fails"; exit 1; }
