"""The one kind of error that a user of a script is told of in one line."""


class InputError(ValueError):
    """What was given (arguments, a folder, data, a model) can't be used; the message is one line for the user.

    The scripts print it and exit with status 2. All other errors keep their traceback.
    """
