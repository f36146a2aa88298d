#!/usr/bin/env bash
# hatchling 1.33.0: an editable install copies force-included files to where the package does not see them.
#
# `force-include` puts files from outside of a package into it, in the wheel. What surprises: `pip install --editable`
# copies them too, once, into site-packages/NAME, while the package itself is imported from the sources. So the file is
# installed and listed by pip, and importlib.resources does not find it; and where a package has no __init__.py, it finds
# the copy, which stays as it was when the original is edited. It matters to whoever maps data into a wheel: code that
# reads the data as package data works from the wheel and fails, or reads old data, in a checkout.
#
# Needs Python 3.11 or later with venv, and PyPI. Exit code 0: as described; 1: hatchling behaves differently now.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet hatchling==1.33.0 editables
export PATH="$folder/venv/bin:$PATH"
echo "hatchling $(pip show hatchling 2> /dev/null | sed -n 's/^Version: //p')"
cd "$folder" && mkdir -p project/src/regular project/src/namespace && cd project
touch src/regular/__init__.py src/namespace/module.py
echo "first" | tee data.txt > more.txt
cat > pyproject.toml <<'END'
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "example"
version = "1"
[tool.hatch.build]
dev-mode-dirs = ["src"]
[tool.hatch.build.targets.wheel]
packages = ["src/regular", "src/namespace"]
[tool.hatch.build.targets.wheel.force-include]
"data.txt" = "regular/data.txt"
"more.txt" = "namespace/data.txt"
END
pip install --quiet --quiet --no-build-isolation --editable .
site=$(python -c 'import site; print(site.getsitepackages()[0])')
echo "second" | tee data.txt > more.txt
look() { (cd / && python -c "
from importlib.resources import files
found = files('$1') / 'data.txt'
print(found.read_text().strip() if found.is_file() else 'not there')"); }
echo "site-packages/regular/data.txt:       $(cat "$site/regular/data.txt")"
echo "as package data of 'regular':         $(look regular)"
echo "as package data of 'namespace':       $(look namespace)"
echo "the files in the checkout, edited:    $(cat data.txt more.txt | uniq)"
[ "$(cat "$site/regular/data.txt")" = first ] || { echo "changed: no copy, or a link"; exit 1; }
[ "$(look regular)" = "not there" ] || { echo "changed: the package sees it"; exit 1; }
[ "$(look namespace)" = first ] || { echo "changed: the edited file is seen"; exit 1; }
