"""The error that a person can put right."""


class UserError(Exception):
    """Says in one line what is wrong and what to do; the command line shows it without a traceback."""
