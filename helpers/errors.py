"""The one exception for what a user can mend: its message is a whole sentence that says where and how."""


class UserError(Exception):
    """Shown without a traceback when a stage runs headless (`helpers.stage`)."""
