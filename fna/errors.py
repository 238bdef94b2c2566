"""The one error for what a user can mend: one line that says what was wrong, with what, and what to do."""


class UserError(Exception):
    """A mistake in the input, not in the program: printed as one line, exit status 1, no traceback."""

    def __init__(self, message: str) -> None:
        """One line, whatever names and other libraries' words in ``message`` hold."""
        super().__init__(" ".join(str(message).splitlines()))


def not_installed(what: str, error: ModuleNotFoundError) -> UserError:
    """The sentence for a package that ``what`` needs and that is not there."""
    return UserError(f"{what} needs {error.name}, which is not installed here; install it, or fna without --no-deps.")
