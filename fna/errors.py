"""The one error for what a user can mend: one line that says what was wrong, with what, and what to do."""


class UserError(Exception):
    """A mistake in the input, not in the program: printed as one line, exit status 1, no traceback."""
