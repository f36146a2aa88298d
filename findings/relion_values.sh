#!/usr/bin/env bash
# RELION 3.1.3 writes star files that it does not read again: a value that begins with a number sign loses its quotes,
# and a quote before a blank is escaped by a bell, which its own reader drops as a blank.
# It matters because relion_star_handler ends well, and the next program stops at the file that it wrote.
# Needs relion (Debian: apt-get install relion); without it, it is unpacked here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
type relion_star_handler > /dev/null 2>&1 || apt-get install -y -qq relion=3.1.3* > /dev/null
dpkg-query --show --showformat='relion ${Version}\n' relion
optics='data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnVoltage #2\n_rlnSphericalAberration #3\n_rlnImagePixelSize #4\n1 300 2.7 2.5\n'
labels='\ndata_particles\n\nloop_\n_rlnImageName #1\n_rlnMicrographName #2\n_rlnOpticsGroup #3\n'
handle() { relion_star_handler --i "$1" --o "$2" --select rlnOpticsGroup --minval 0 > log 2>&1; }
tried() { # name, value
  printf "$optics$labels" > "$1.star"
  printf '1@a.mrcs %s 1\n' "$2" >> "$1.star"
  handle "$1.star" "$1_written.star" || { echo "$1: is not read at all now"; exit 1; }
  echo "$1: reads $2, writes: $(grep -a 1@a "$1_written.star" | cat -v | tr -s ' ')"
  if handle "$1_written.star" "$1_again.star"; then echo "$1: reads its own file now"; exit 1; fi
  echo "$1: then: $(grep -a -m 1 'columns than' log)"
}
tried sign '"#1"'
tried quote "'a\" b'"
