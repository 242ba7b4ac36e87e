"""The one exception that means "the input is wrong", as opposed to "the program is"."""

import difflib
import importlib
import traceback
from collections.abc import Sequence
from typing import Any

OWN_ERRORS = (Exception, SystemExit)
"""What code of the user's own may raise while it is imported or called."""
SHOWN = 24
"""More allowed names than these are not listed."""


class InputError(ValueError):
    """Bad input: a file, a configuration key, or an argument.

    The message is a single line that names what is wrong and what is allowed. The command line
    prints it and exits with status 2, without a traceback. Whatever does not print (a line break or
    a terminal's control characters in a key or a file's name) is escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def of_system(error: OSError) -> InputError:
    """What the system has refused, such as room on a full disk, as the line to show."""
    where = f"{error.filename}: " if error.filename else ""
    return InputError(f"{where}{error.strerror or error}")


def printable(text: str) -> str:
    """A text with line breaks and a terminal's control characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def did_you_mean(given: str, allowed: Sequence[str]) -> str:
    """The end of an error message: the nearest allowed name, and all of them.

    Of a long list the nearest come first, and the rest is counted.
    """
    near = _nearest(str(given), allowed)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    names, more = ", ".join(allowed) or "none", ""
    if len(allowed) > SHOWN:
        names = ", ".join([*dict.fromkeys([*near, *allowed])][:SHOWN])
        more = f" and {len(allowed) - SHOWN} more"
    return f"{hint}; allowed: {names}{more}"


def _nearest(given: str, allowed: Sequence[str]) -> list[str]:
    """Those of the allowed names that are like this one, the most likely first.

    A name that has all of it, such as one that was cut short, comes before one of its length.
    """

    def missed(name: str) -> int:
        matcher = difflib.SequenceMatcher(None, name, given, autojunk=False)
        return len(given) - sum(block.size for block in matcher.get_matching_blocks())

    return sorted(difflib.get_close_matches(given, allowed, n=SHOWN), key=missed)


def from_path(path: str) -> Any:
    """What "package.module:name" names; raises any of OWN_ERRORS, which `cause` puts in words."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def reason(error: BaseException) -> str:
    """The first line of an error's message that says something, or else its type."""
    return next(filter(str.strip, str(error).splitlines()), type(error).__name__)


def cause(error: BaseException) -> str:
    """An error of the user's own code in a few words, with the line that raised it."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    # An import that fails ends in Python's own machinery, or in the function above.
    inside = [f for f in frames[1:] if f.filename != __file__ and "importlib" not in f.filename]
    inside = [frame for frame in inside if not frame.filename.startswith("<")]
    if isinstance(error, ModuleNotFoundError) and not inside:
        text += "; PYTHONPATH must name the folder that holds the file"
    return f"{text}, {inside[-1].filename} line {inside[-1].lineno}" if inside else text
