"""The page of a reconstruction of several classes: their maps side by side, verdicts, and links to their own pages."""

from pathlib import Path
from typing import Any

from equipose.core.surface import molecule_fraction
from equipose.io.maps import read_map
from equipose.pages.page import mesh, read_template


def build(folder: Path, summary: dict[str, Any], template: Path, title: str) -> str:
    """The page of the classes in `folder`, whose reconstruction.json is `summary`."""
    rows = []
    for each in summary["reconstructed"]:
        volume = read_map(folder / each["folder"] / "volume.mrc")[0]
        row = each | {"state": each["verdict"]["state"].replace("_", " "), "count": sum(each["particles"])}
        rows.append(
            row | {"alike": summary["halves_alike"][each["class"] - 1]} | mesh(volume, molecule_fraction(volume))
        )
    made = {row["class"] for row in rows}
    left = [
        {"class": number, "particles": counts, "alike": alike}
        for number, (counts, alike) in enumerate(zip(summary["particles"], summary["halves_alike"], strict=True), 1)
        if number not in made
    ]
    return read_template(template).render(title=title, summary=summary, rows=rows, left=left)
