"""Errors and warnings about a user's files and settings."""


class ConfigError(ValueError):
    """An error that the user can mend: the message names the key or the file, and the remedy.

    The message is one line that any terminal can show, even if it quotes a broken file.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(letter if letter.isprintable() else " " for letter in message))


class OtherParticles(ConfigError):
    """A folder has the poses of an earlier content of the same file."""


class FileWarning(UserWarning):
    """A warning about a user's file, which is read all the same."""

    def __init__(self, message: str) -> None:
        super().__init__("".join(letter if letter.isprintable() else " " for letter in message))
