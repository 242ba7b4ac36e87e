"""The one exception that means "the input is wrong", as opposed to "the program is"."""


class InputError(ValueError):
    """Bad input: a file, a configuration key, or an argument.

    The message is a single line that names what is wrong and what is allowed. The command line
    prints it and exits with status 2, without a traceback. Whatever does not print (a line break or
    a terminal's control characters in a key or a file's name) is escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))
