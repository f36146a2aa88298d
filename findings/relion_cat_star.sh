#!/usr/bin/env bash
# RELION 3.1.3 reads the first of two tables of one name, and leaves the rows of the second out without a word.
# It matters because particle sets are joined by `cat a.star b.star`: each program ends well, with half of the particles.
# Needs relion (Debian: apt-get install relion); without it, it is installed here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
type relion_star_handler > /dev/null 2>&1 || apt-get install -y -qq relion=3.1.3* > /dev/null
dpkg-query --show --showformat='relion ${Version}\n' relion
star() { # name, images: a star file of RELION 3.1
  printf 'data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnVoltage #2\n_rlnSphericalAberration #3\n_rlnImagePixelSize #4\n1 300 2.7 2.5\n\n' > "$1"
  printf '\ndata_particles\n\nloop_\n_rlnImageName #1\n_rlnOpticsGroup #2\n' >> "$1"
  for image in $2; do printf '%s@a.mrcs 1\n' "$image" >> "$1"; done
  printf '\n' >> "$1"
}
star a.star "1 2 3"
star b.star "4 5"
cat a.star b.star > joined.star
rows() { grep -c @a.mrcs "$1"; }
relion_star_handler --i joined.star --o read.star --select rlnOpticsGroup --minval 0 > log 2>&1
echo "joined by cat:       $(rows joined.star) rows; read: $(rows read.star)"
relion_star_handler --combine --i "a.star b.star" --o combined.star > log2 2>&1
echo "joined by --combine: $(rows combined.star) rows"
if grep -i -e warning -e error log; then echo "changed: it says something"; exit 1; fi
[ "$(rows joined.star)" = 5 ] && [ "$(rows read.star)" = 3 ] && [ "$(rows combined.star)" = 5 ] || { echo "changed"; exit 1; }
