"""The one exception that means "the input is wrong", as opposed to "the program is"."""

import difflib

# What importing a module by a user's path raises: TypeError for ".a", ValueError for "".
IMPORT_ERRORS = (ImportError, AttributeError, SyntaxError, TypeError, ValueError)


class InputError(ValueError):
    """Bad input: a file, a configuration key, or an argument.

    The message is a single line that names what is wrong and what is allowed. The command line
    prints it and exits with status 2, without a traceback. Whatever does not print (a line break or
    a terminal's control characters in a key or a file's name) is escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """A text with line breaks and a terminal's control characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def did_you_mean(given: str, allowed: list[str]) -> str:
    """The end of an error message: the nearest allowed name, and all of them."""
    near = difflib.get_close_matches(str(given), allowed, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{hint}; allowed: {', '.join(allowed) or 'none'}"
