"""The package's rooms: an import goes to the same room or to one below, and no modules import in a circle.

`python tests/test_layout.py` prints the numbers of docs/layout.md.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = (
    "errors",
    "core",
    "config",
    "io",
    "data",
    "model",
    "poses",
    "training",
    "reconstruction",
    "workflow",
    "study",
    "figures",
    "pages",
    "cli",
)
"""From the lowest to the highest."""


def imports() -> dict[str, set[str]]:
    """The modules of the package that each of its modules imports, also inside of functions."""
    source = ROOT / "src"
    paths = {".".join(path.relative_to(source).with_suffix("").parts): path for path in source.glob("equipose/**/*.py")}
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    found: dict[str, set[str]] = {name: set() for name in paths}
    for name, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                whole = {f"{node.module}.{alias.name}" for alias in node.names} & paths.keys()
                found[name] |= whole or {node.module} & paths.keys()
    return found


def test_every_import_goes_to_the_same_room_or_to_one_below() -> None:
    upwards = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in others
        if "." in name and floor(other) > floor(name)
    ]
    assert not upwards


def test_no_modules_import_one_another_in_a_circle() -> None:
    left = imports()
    while free := [name for name, others in left.items() if not (others - {name}) & left.keys()]:
        left = {name: others for name, others in left.items() if name not in free}
    assert not left, "a circle among these"


def test_every_module_lies_in_a_room() -> None:
    package = ROOT / "src/equipose"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    assert rooms | {"cli", "errors"} == set(FLOORS)
    assert {path.stem for path in package.glob("*.py")} == {"__init__", "cli", "errors"}


def floor(module: str) -> int:
    parts = module.split(".")
    return FLOORS.index(parts[1]) if len(parts) > 1 else -1


if __name__ == "__main__":
    arrows = [(name, other) for name, others in imports().items() for other in others - {name}]
    between = {(floor(name), floor(other)) for name, other in arrows if min(floor(name), floor(other)) >= 0}
    sources = list((ROOT / "src").rglob("*.py"))
    print("modules", len(sources))
    print("rooms", len({path.parent for path in sources}) - 1)
    print("arrows between modules", len(arrows))
    print("arrows between rooms", sum(above != below for above, below in between))
    print("lines", sum(len(path.read_text().splitlines()) for path in sources))
