"""The one exception for what a user can mend, and how a module that runs as a command shows it: a sentence, no traceback."""

import inspect
import sys
from collections.abc import Callable


class UserError(Exception):
    """Its message is a whole sentence that says where and how."""


def command(main: Callable) -> None:
    """Run `python -m <module> <arguments of main>`; what a user can mend ends it with one sentence."""
    asked = inspect.signature(main)
    try:
        asked.bind(*sys.argv[1:])
    except TypeError:
        module = sys.modules["__main__"].__spec__.name
        sys.exit(f"usage: python -m {module} {' '.join(f'<{name}>' for name in asked.parameters)}")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
