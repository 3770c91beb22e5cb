"""The one kind of exception that is the user's to mend: its text is all they need to see."""


class UserError(ValueError):
    """One sentence: what was found, where, and what to do. The command line prints it without a traceback."""
