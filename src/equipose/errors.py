"""What goes wrong by a user's doing."""


class ConfigError(ValueError):
    """Something the user can mend: the message names the key or the file, and the remedy."""
