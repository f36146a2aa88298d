#!/usr/bin/env bash
# Snakemake 9.27.1: a Snakemake that ends removes the locks of another one that is still at work in the same folder.
#
# Two Snakemakes may work in one folder where their files differ; the files named in .snakemake/locks keep a third one
# from writing the same files. What surprises: the first that ends removes the whole folder of locks, so that a third
# Snakemake starts a job whose outputs the second one is making at that moment. It matters where several presets or
# pipelines share a folder: the same job runs twice at once, into the same files, without a word.
#
# Needs Python 3.11 or 3.12 with venv, and PyPI. Exit code 0: as described; 1: Snakemake behaves differently now.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet snakemake==9.27.1
export PATH="$folder/venv/bin:$PATH"
echo "snakemake $(snakemake --version)"
mkdir "$folder/work" && cd "$folder/work"
cat > Snakefile <<'END'
rule long:
    output: "long.txt"
    shell: "echo started >> starts.txt; until [ -e finish ]; do sleep 0.2; done; touch {output}"

rule short:
    output: "short.txt"
    shell: "touch {output}"
END

snakemake long.txt --cores 1 --quiet all &
second=$!
until [ -e starts.txt ]; do sleep 0.2; done
echo "locks while 'long' is at work:        $(ls .snakemake/locks | tr '\n' ' ')"
if snakemake long.txt --cores 1 > refused.txt 2>&1; then touch finish; wait $second; exit 1; fi
grep -q "cannot be locked" refused.txt
echo "a second Snakemake for 'long' now:   refused, Directory cannot be locked"

snakemake short.txt --cores 1 --quiet all
echo "locks once 'short' has ended:         $(ls .snakemake/locks 2> /dev/null | tr '\n' ' ')(none)"
[ -z "$(ls .snakemake/locks 2> /dev/null)" ] || { touch finish; wait $second; echo "changed: the lock is still there"; exit 1; }

snakemake long.txt --rerun-incomplete --cores 1 --quiet all &
third=$!
for _ in $(seq 150); do [ "$(wc -l < starts.txt)" = 2 ] && break; sleep 0.2; done
echo "jobs that make long.txt at this time: $(wc -l < starts.txt)"
starts=$(wc -l < starts.txt)
touch finish
wait $second $third || true
[ "$starts" = 2 ] || { echo "changed: the second job was not started"; exit 1; }
