"""What goes wrong and can be mended by the user: one line that names the thing and the remedy.

The command line prints the line alone and ends with status 1 (an input) or 2 (the call itself);
`--debug` adds the traceback.
"""


class MaskmendError(ValueError):
    """Base of every error that the user can mend. The message is one line."""


class InputError(MaskmendError):
    """A file of the user cannot be used. The message starts with the file's name."""


class ConfigError(MaskmendError):
    """A configuration is wrong. The message names the field."""


class RunError(MaskmendError):
    """A run folder is missing something, or holds something foreign. The message names the file."""
