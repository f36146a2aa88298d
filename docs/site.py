"""What mkdocs lacks for our site.

Pages of public names and of each room's modules; formulas as MathML, which needs no script; a check that pages find
what they load.
"""

import html
import re
import runpy
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PUBLIC = runpy.run_path(str(ROOT / "src/equipose/__init__.py"))["PUBLIC"]
ROOMS = re.compile(r"^  (\w+)/? {2,}(.+)$", re.MULTILINE)
LOADED = re.compile(r'<(?:script|link|img)\b[^>]*?\b(?:src|href)="(?!https?:|data:)([^"#?]+)')
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.+?)\\[)\]]</\1>', re.DOTALL)


def rooms() -> dict[str, str]:
    """What each room of the package is for, as docs/layout.md says."""
    listed = (ROOT / "docs/layout.md").read_text().split("src/equipose/", 1)[1].split("\ntests/", 1)[0]
    return {name: purpose for name, purpose in ROOMS.findall(listed) if (ROOT / "src/equipose" / name).is_dir()}


def on_config(config):
    names = [{name: f"docs/python/{name}.md"} for name in PUBLIC]
    config.nav.append({"Python": [{"From Python": "docs/python.md"}, *names]})
    config.nav.append({"API": [{room: f"docs/api/{room}.md"} for room in rooms()]})
    return config


def on_files(files: Files, config) -> Files:
    for room, purpose in rooms().items():
        modules = sorted((ROOT / "src/equipose" / room).glob("[!_]*.py"))
        text = f"# {room}\n\n{purpose}\n\n" + "\n\n".join(f"::: equipose.{room}.{path.stem}" for path in modules)
        files.append(File.generated(config, f"docs/api/{room}.md", content=text))
    for name, source in PUBLIC.items():
        text = f"# {name}\n\n`from equipose import {name}`\n\n::: equipose.{source}\n"
        files.append(File.generated(config, f"docs/python/{name}.md", content=text))
    return files


def on_page_content(content: str, **_) -> str:
    return FORMULA.sub(lambda found: _formula(found[2], found[1]), content)


def on_post_build(config) -> None:
    site = Path(config.site_dir)
    for page in site.rglob("*.html"):
        missing = [name for name in LOADED.findall(page.read_text()) if not (page.parent / name).exists()]
        if missing and page.name != "404.html":  # its paths are those of a site at the top of a server
            raise PluginError(f"{page.relative_to(site)} loads what the site does not have: {', '.join(missing)}")


def _formula(latex: str, tag: str) -> str:
    return convert(html.unescape(latex), display="inline" if tag == "span" else "block")
