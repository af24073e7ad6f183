"""The one kind of error that a user of a script is told of in one line."""


class InputError(ValueError):
    """What was given (arguments, a folder, data, a model) can't be used; the message is one line for the user.

    The scripts print it and exit with status 2. All other errors keep their traceback.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message, with the next one where it ends in a colon; or its type if it has none."""
    if "trust_remote_code" in str(error):  # transformers names an option here that nothing of ours has
        return "it needs code of its own, which is never run"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0]} {lines[1].strip()}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]
