"""Files of settings that a user names."""

from pathlib import Path
from typing import Any

from equipose.errors import ConfigError


def _text_of(path: Path) -> str:
    """A file of settings. Raises ConfigError with the remedy if it is no UTF-8 text that every job can read again."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name a file of settings in it")
    if not path.exists():
        raise ConfigError(f"{path} does not exist: correct the path")
    if not path.is_file():
        raise ConfigError(f"{path} can be read only once, and each job reads it: write it to a file")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}: line {line} is not UTF-8 text: save the file as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error


def read_given(path: Path) -> dict[str, Any]:
    """The settings of a file that a user names. Raises ConfigError if it has none that can be read."""
    import yaml  # here: `equipose --help` does not need it

    try:
        read = yaml.safe_load(_text_of(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {error}") from error
    if not isinstance(read, dict):
        raise ConfigError(f"{path} has no settings (`key: value`)")
    return read
