"""The one kind of error that a user of a script is told of in one line."""


class InputError(ValueError):
    """What was given (arguments, a folder, data, a model) can't be used; the message is one line for the user.

    The scripts print it and exit with status 2. All other errors keep their traceback.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    if "trust_remote_code" in str(error):  # transformers names an option here that nothing of ours has
        return "it needs code of its own, which is never run"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
