"""The one exception that means "the input is wrong", as opposed to "the program is"."""


class InputError(ValueError):
    """Bad input: a file, a configuration key, or an argument.

    The message is a single line that names what is wrong and what is allowed. The command line
    prints it and exits with status 2, without a traceback.
    """
