#!/usr/bin/env bash
# Snakemake 9.27.1: a benchmark file's cpu_time and max_rss can miss the last 30 seconds of every job.
#
# The column `s` is the true wall time. What surprises: cpu_time and max_rss are those of the last sample. A sample is
# taken twice a second for some 15 seconds, then every 30, and none when the job ends. So a job that works for 25
# seconds and takes 400 MB after 20 is said to have used 15 seconds and a few MB. It matters for whoever publishes
# processor times, sizes a cluster's requests by max_rss, or adds up many jobs of less than a minute: the sum can be half
# of the truth, with two decimals and no warning. GNU time and the operating system's own counters tell the true values.
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
cat > work.py <<'END'
import resource
import time

def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

end = time.monotonic() + 25
block = b""
while time.monotonic() < end:
    if not block and end - time.monotonic() < 5:
        block = b"x" * 400_000_000
    sum(range(10_000))
with open("truth.txt", "w") as file:
    print(used(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=file)
END
cat > Snakefile <<'END'
rule work:
    output: "truth.txt"
    benchmark: "benchmark.tsv"
    shell: "python work.py"
END
snakemake --cores 1 --quiet all
python - <<'END'
import csv

with open("benchmark.tsv") as file:
    row = next(csv.DictReader(file, delimiter="\t"))
with open("truth.txt") as file:
    seconds, peak = map(float, file.read().split())
print(f"wall time:        {float(row['s']):.0f} s in the benchmark file")
print(f"processor time:   {float(row['cpu_time']):.1f} s in the benchmark file, {seconds:.1f} s by getrusage")
print(f"peak memory:      {float(row['max_rss']):.0f} MB in the benchmark file, {peak:.0f} MB by getrusage")
as_described = float(row["cpu_time"]) < 0.8 * seconds and float(row["max_rss"]) < 0.5 * peak
raise SystemExit(0 if as_described else "changed: the last seconds of the job are seen")
END
