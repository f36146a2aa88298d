#!/usr/bin/env bash
# gemmi reads the first factor of an assembly's operators alone, without a word.
#
# mmCIF writes a biological assembly's copies as an expression. `(1-2)(3-4)` is a product: each of the operators 1 and 2
# after each of 3 and 4, four copies. Viruses and filaments in the PDB have such ones, `(1-60)(61-88)` and `P(1-60)`.
# gemmi 0.7.5 makes two copies of `(1-2)(3-4)`, those of operators 1 and 2, and raises nothing. A density made from it
# lacks half of the particle. A list, `1-2,3-4`, is read whole.
#
# Writes only into a folder of its own. Prints what gemmi does, and fails if that is something else.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gemmi==0.7.5
"$folder/venv/bin/python" - <<'PYTHON'
import gemmi

ATOM = "HETATM 1 C C1 . UNL A 1 ? ? 10.0 0.0 0.0 1 20 ? 1 A 1"
NAMES = ["group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id", "label_asym_id"]
NAMES += ["label_entity_id", "label_seq_id", "pdbx_PDB_ins_code", "Cartn_x", "Cartn_y", "Cartn_z", "occupancy"]
NAMES += ["B_iso_or_equiv", "pdbx_formal_charge", "auth_seq_id", "auth_asym_id", "pdbx_PDB_model_num"]
CELLS = ["matrix[1][1]", "matrix[1][2]", "matrix[1][3]", "vector[1]", "matrix[2][1]", "matrix[2][2]", "matrix[2][3]"]
CELLS += ["vector[2]", "matrix[3][1]", "matrix[3][2]", "matrix[3][3]", "vector[3]"]


def entry(expression: str) -> str:
    """One atom, and operators that move it: 1 by nothing, 2 by 100 Å along x, 3 by nothing, 4 by 7 Å along y."""
    moves = {1: (0, 0), 2: (100, 0), 3: (0, 0), 4: (0, 7)}
    lines = ["data_x", "loop_", *(f"_atom_site.{name}" for name in NAMES), ATOM]
    details = ("id", "details", "method_details", "oligomeric_details", "oligomeric_count")
    lines += ["loop_", *(f"_pdbx_struct_assembly.{name}" for name in details), "1 ? ? ? ?"]
    lines += ["loop_", *(f"_pdbx_struct_assembly_gen.{n}" for n in ("assembly_id", "oper_expression", "asym_id_list"))]
    lines += [f"1 '{expression}' A"]
    lines += ["loop_", "_pdbx_struct_oper_list.id", "_pdbx_struct_oper_list.type"]
    lines += [f"_pdbx_struct_oper_list.{cell}" for cell in CELLS]
    lines += [f"{name} ? 1 0 0 {x} 0 1 0 {y} 0 0 1 0" for name, (x, y) in moves.items()]
    return "\n".join(lines) + "\n"


def copies(expression: str) -> list[tuple[float, float]]:
    structure = gemmi.make_structure_from_block(gemmi.cif.read_string(entry(expression))[0])
    structure.transform_to_assembly("1", gemmi.HowToNameCopiedChain.Dup)
    return sorted((atom.pos.x, atom.pos.y) for chain in structure[0] for residue in chain for atom in residue)


print("gemmi", gemmi.__version__)
for expression, right in {
    "1-2": [(10, 0), (110, 0)],
    "1-2,4": [(10, 0), (10, 7), (110, 0)],
    "(1-2)(3-4)": [(10, 0), (10, 7), (110, 0), (110, 7)],
}.items():
    found = copies(expression)
    print(f"{expression:11} the file describes {right}, gemmi builds {found}")
    if "(" in expression:
        assert found == [(10, 0), (110, 0)], "gemmi has changed: look whether products are built now"
    else:
        assert found == right
PYTHON
