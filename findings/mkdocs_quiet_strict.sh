#!/usr/bin/env bash
# mkdocs 1.6.1: `mkdocs build --strict --quiet` succeeds where `mkdocs build --strict` fails.
#
# --strict makes warnings, such as a link to a page that is not there, an error. --quiet is meant to print less. What
# surprises: together they do not print less and fail, they pass, since the warnings that --quiet silences are not
# counted either. It matters where a build of documents is a check: in a Makefile or in continuous integration, where
# one asks for quiet output, broken links then go unnoticed.
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
echo "site_name: example" > mkdocs.yml
echo "A link to [a page that is not there](gone.md)." > docs/index.md

strict=0; mkdocs build --strict > strict.txt 2>&1 || strict=$?
quiet=0; mkdocs build --strict --quiet > quiet.txt 2>&1 || quiet=$?
echo "--strict:          exit code $strict; it says: $(grep -o "'index.md' contains a link.*" strict.txt)"
echo "--strict --quiet:  exit code $quiet; it says: $(cat quiet.txt)"
[ "$strict" = 1 ] && grep -q "Aborted with 1 warnings in strict mode" strict.txt || { echo "changed: --strict does not fail"; exit 1; }
[ "$quiet" = 0 ] || { echo "changed: --quiet no longer hides the failure"; exit 1; }
