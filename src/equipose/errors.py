"""What goes wrong by a user's doing."""


class ConfigError(ValueError):
    """Something the user can mend: the message names the key or the file, and the remedy.

    It is one line that any terminal can show, whatever a broken file has put into it.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(letter if letter.isprintable() else " " for letter in message))


class FileWarning(UserWarning):
    """Something in a user's file that is read all the same, and that the user should know of."""

    def __init__(self, message: str) -> None:
        super().__init__("".join(letter if letter.isprintable() else " " for letter in message))
