"""The one exception that a user sees as a line instead of a traceback."""


class UserError(Exception):
    """A mistake that the user can mend. Its text is one line: what is wrong, where, what to do."""
