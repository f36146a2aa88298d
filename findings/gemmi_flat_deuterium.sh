#!/usr/bin/env bash
# gemmi's FlatStructure gives deuterium the number 119 among its elements, and every other element its atomic number.
#
# `FlatStructure(structure).elements` is the fast way to all atoms' elements as an array. For a protein it holds 1, 6, 7,
# 8 and 16, so that one takes it for atomic numbers. It is gemmi's own index, in which D follows oganesson. For the same
# atom `atom.element.atomic_number` is 1. Whoever weighs atoms by this array gives a deuterium 20 times the weight of a
# carbon: a neutron structure's density and centre of mass are wrong, and nothing is raised.
#
# Writes only into a folder of its own. Exit code 0: as described; 1: gemmi behaves differently now.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet gemmi==0.7.5 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import gemmi

structure, model, chain, residue = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A"), gemmi.Residue()
residue.name, residue.seqid = "DOD", gemmi.SeqId("1")
for name in ("H", "D", "C", "O", "Zn"):
    atom = gemmi.Atom()
    atom.name, atom.element = name, gemmi.Element(name)
    residue.add_atom(atom)
chain.add_residue(residue)
model.add_chain(chain)
structure.add_model(model)
flat = gemmi.FlatStructure(structure).elements.tolist()
one_by_one = [atom.element.atomic_number for atom in structure[0]["A"][0]]
print("gemmi", gemmi.__version__)
print("elements of FlatStructure, of H, D, C, O, Zn:", flat)
print("atomic numbers, atom by atom:                ", one_by_one)
as_described = flat == [1, 119, 6, 8, 30] and one_by_one == [1, 1, 6, 8, 30]
raise SystemExit(0 if as_described else "changed: deuterium has another number")
PYTHON
