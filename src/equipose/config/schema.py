"""Writes the files that describe a configuration, from the classes of settings.py.

`python -m equipose.config.schema` rewrites workflow/schemas/config.schema.yaml, which editors read, and the defaults of
config.yaml with their comments, in the order in which they stand there. Run it after a change in settings.py: a test
fails until then.
"""

import re
import textwrap
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from equipose.config.complaints import limits
from equipose.config.settings import (
    Config,
    Configuration,
    EvaluationConfig,
    Figures,
    ModelConfig,
    Preparation,
    PreparationConfig,
    Resources,
    Simulation,
    SimulationConfig,
    Training,
)

CHECKOUT = Path(__file__).parents[3]
CONFIG, SCHEMA = CHECKOUT / "config.yaml", CHECKOUT / "workflow/schemas/config.schema.yaml"

SECTIONS = {
    "simulation": Simulation,
    "preparation": Preparation,
    "training": Training,
    "evaluation": EvaluationConfig,
    "figures": Figures,
    "resources": Resources,
}
"""The parts of config.yaml that hold only defaults."""

WIDTH = 120
HEAD = "# Written by `python -m equipose.config.schema` from src/equipose/config/settings.py: change that file.\n"


def schema_text() -> str:
    """The JSON schema of a configuration, as YAML."""
    kinds = tuple[Configuration, SimulationConfig, PreparationConfig, ModelConfig]
    definitions = _strict(TypeAdapter(kinds).json_schema()["$defs"])
    whole, simulated, own, model = (
        definitions.pop(kind.__name__) for kind in (Configuration, SimulationConfig, PreparationConfig, ModelConfig)
    )
    for line in (simulated, own, model):
        del line["properties"]["name"]  # it is the key of the line
        line["required"].remove("name")
    model["properties"]["label"] = {"type": "string", "description": "the model's name in tables and figures (LaTeX)"}
    _set_lines(whole["properties"]["datasets"], {"anyOf": [simulated, own]})
    _set_lines(whole["properties"]["models"], model)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole, "$defs": definitions}
    return HEAD + yaml.safe_dump(schema, sort_keys=False, allow_unicode=True, width=WIDTH, default_flow_style=None)


def config_text(text: str) -> str:
    """The text of config.yaml with the values and comments of all defaults as settings.py has them."""
    present = yaml.safe_load(text)
    for section, kind in SECTIONS.items():
        lines = [f"{section}: # {kind.__doc__}", *_lines(kind(), present[section], "  ")]
        block = re.compile(rf"^{section}:.*\n(?:  .*\n)+", re.MULTILINE)
        made = "\n".join([*lines, ""]).replace("\\", r"\\")  # `sub` reads a backslash as the start of an escape
        text = block.sub(made, text, count=1)
    return text


def _lines(settings: Config, present: dict[str, Any], indent: str) -> list[str]:
    """Settings as lines of YAML, each with its description, in the order of the `present` ones."""
    lines = []
    properties = TypeAdapter(type(settings)).json_schema()["properties"]
    for name in sorted(properties, key=[*present, *properties].index):
        described, value = properties[name], getattr(settings, name)
        comment = described["description"]
        if "enum" in described or {"const"} <= {key for part in described.get("anyOf", []) for key in part}:
            comment += f" ({limits(described)})"
        line = f"{indent}{name}:" + ("" if isinstance(value, Config) else f" {_yaml(value)}")
        if len(f"{line} # {comment}") <= WIDTH:
            lines.append(f"{line} # {comment}")
        else:
            lines += textwrap.wrap(comment, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
            lines.append(line)
        if isinstance(value, Config):
            lines += _lines(value, present.get(name, {}), indent + "  ")
    return lines


def _yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=WIDTH).removesuffix("...\n").strip()


def _strict(node: Any) -> Any:
    """A schema without pydantic's titles, in which a map by name allows only names of its pattern."""
    if isinstance(node, list):
        return [_strict(part) for part in node]
    if not isinstance(node, dict):
        return node
    strict = {key: _strict(value) for key, value in node.items() if key != "title" or not isinstance(value, str)}
    if "patternProperties" in strict:
        strict["additionalProperties"] = False
    return strict


def _set_lines(by_name: dict[str, Any], line: dict[str, Any]) -> None:
    """Give the lines of a map by name their schema."""
    (pattern,) = by_name["patternProperties"]
    by_name["patternProperties"] = {pattern: line}


def main() -> None:
    SCHEMA.write_text(schema_text())
    CONFIG.write_text(config_text(CONFIG.read_text()))


if __name__ == "__main__":
    main()
