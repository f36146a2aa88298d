#!/usr/bin/env bash
# With `snakemake --sdm conda`, run once in the new environment, from the repository's root.
set -euo pipefail
pip install --no-deps -r requirements-nodeps.txt -e .
