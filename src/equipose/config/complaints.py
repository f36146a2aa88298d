"""pydantic's errors in plain words: which key is wrong, what it holds, and what is wanted."""

import difflib
import re
from collections.abc import Collection
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

UNKNOWN = {"unexpected_keyword_argument", "extra_forbidden"}
"""What pydantic calls a key that a class does not have."""


def complaint(error: ValidationError, kind: Any, values: Any, key: str = "") -> str:
    """The first of pydantic's errors about `values` for a `kind`, as a sentence.

    `key` is the place of the values in a configuration.
    """
    # An unknown key first: it is often why another one is missing.
    first = min(error.errors(), key=lambda one: one["type"] not in UNKNOWN)
    keys, missing = _keys(first, values), first["type"] == "missing"
    if missing and isinstance(keys[-1], int):  # one of a list's values, which has no name
        keys, missing = keys[:-1], False
    shown = ".".join([key] * bool(key) + [str(part) for part in keys])
    schema = TypeAdapter(kind).json_schema()
    if first["type"] in UNKNOWN:
        known = _schema_at(schema, keys[:-1]).get("properties", {})
        return f"unknown key `{shown}`{suggest(str(keys[-1]), known)}"
    if first["loc"][-1:] == ("[key]",):
        name_schema = _property_names(_schema_at(schema, keys))
        return f"`{shown}` holds the name {first['input']!r}; wanted: {name_schema.get('description', 'another name')}"
    at = _schema_at(schema, keys)
    wanted = f"{at['description'].removesuffix('.')} ({limits(at)})" if "description" in at else limits(at)
    if missing:
        return f"`{shown}` is missing: {wanted}"
    if first["type"] == "twice":
        return f"`{shown}` names something twice: {list(first['input'])}"
    if first["type"] == "finite_number":
        wanted = "a finite number"
    where = f"`{shown}`" if shown else "all of it"
    return f"{where} is {_show(first['input'])}; wanted: {wanted}.{_hint(first)}"


def unknown_keys(error: ValidationError, values: Any) -> list[str]:
    """The keys among `values` that pydantic does not know, with dots."""
    return [".".join(map(str, _keys(one, values))) for one in error.errors() if one["type"] in UNKNOWN]


def suggest(name: str, known: Collection[str]) -> str:
    """The end of a sentence about an unknown `name`: the closest of the known ones, or all of them."""
    if close := difflib.get_close_matches(name, list(known), n=1):
        return f"; did you mean `{close[0]}`?"
    return f"; known: {', '.join(known) or 'none'}"


def limits(schema: dict[str, Any]) -> str:
    """The values that a JSON schema allows, in words."""
    if "enum" in schema:
        return _either([_word(value) for value in schema["enum"]])
    if "const" in schema:
        return _word(schema["const"])
    if "anyOf" in schema:
        return _either([limits(part) for part in schema["anyOf"]])
    kind = schema.get("type", "")
    if kind in ("integer", "number"):
        return f"a {'whole ' * (kind == 'integer')}number{_range(schema)}"
    if kind == "array":
        least, parts = schema.get("minItems", 0), schema.get("prefixItems") or [schema.get("items", {})]
        count = f" of {least}" if "prefixItems" in schema else f" of at least {least}" if least else ""
        return f"a list{count}, each {limits(parts[0])}"
    words = {"boolean": "true or false", "string": "a text", "null": "null", "object": "a map"}
    return words.get(kind, "a map")


def _range(schema: dict[str, Any]) -> str:
    least, above, most = (schema.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    if most is None:
        return f" of at least {least}" if least is not None else f" above {above}" if above is not None else ""
    return f" from {least} to {most}" if least is not None else f" above {above} and up to {most}"


def _either(words: list[str]) -> str:
    return " or ".join([*[", ".join(words[:-1])] * (len(words) > 1), words[-1]])


def _word(value: Any) -> str:
    return "null" if value is None else f"`{value}`" if isinstance(value, str) else str(value)


def _keys(error: ErrorDetails, values: Any) -> list[str | int]:
    """Where an error is: pydantic's location without what it adds about members of a union and about names."""
    keys: list[str | int] = []
    location = error["loc"][:-2] if error["loc"][-1:] == ("[key]",) else error["loc"]
    for part in location:
        if isinstance(values, dict):
            values = values.get(part)
        elif isinstance(values, list | tuple) and isinstance(part, int):
            values = values[part] if part < len(values) else None
        else:
            break
        keys.append(part)
    return keys


def _schema_at(schema: dict[str, Any], keys: list[str | int]) -> dict[str, Any]:
    """The part of a JSON schema about the value at `keys`; without a description of its own, with that of its map."""
    definitions, at = schema.get("$defs", {}), schema
    for part in keys:
        inner = at.get("properties", {}).get(part)
        if inner is None and isinstance(part, int):
            inner = at["prefixItems"][part] if "prefixItems" in at else at.get("items")
        if inner is None:
            inner = at.get("additionalProperties") or next(iter(at.get("patternProperties", {}).values()), None)
        if not isinstance(inner, dict):
            return {}
        inherited = {"description": at["description"]} if "description" in at else {}
        at = inherited | definitions.get(inner.get("$ref", "").removeprefix("#/$defs/"), {}) | inner
    return at


def _property_names(schema: dict[str, Any]) -> dict[str, Any]:
    return schema.get("propertyNames", {})


def _show(value: Any) -> str:
    return "empty" if value in ([], {}, "") else repr(value)


def _hint(error: ErrorDetails) -> str:
    """How to write a number that YAML does not read as a number, or not as a whole one."""
    value = error["input"]
    text = re.fullmatch(r"([-+]?\d+)(\.\d*)?(?:[eE]([-+]?)(\d+))?", value) if isinstance(value, str) else None
    whole = error["type"] == "int_type" and (text or isinstance(value, float)) and float(value).is_integer()
    if text is None:
        return f" A whole number has no decimal point: write {value:.0f}." if whole else ""
    digits, fraction, sign, power = text.groups()
    if whole:
        value = f"{float(value):.0f}"
    elif power:
        written = f"{digits}{fraction or '.0'}e{sign or '+'}{power}"
        return f" YAML reads it as a text: write {written}, with the exponent's sign and without quotes."
    return f" YAML reads it as a text: write {value}, without quotes."
