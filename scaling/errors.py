"""The error that a user can mend."""


class InputError(ValueError):
    """Bad input: the message says what, where (file, row, column, key) and what would be right, in one line."""
