"""What "bad input" must look like everywhere: one line that names what is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fedgloss.errors import InputError


@contextmanager
def refused(*words: object) -> Iterator[None]:
    """The block must raise InputError with a single line that contains all `words`."""
    with pytest.raises(InputError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message
