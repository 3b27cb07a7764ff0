"""The exception for what a user can mend, shown as one sentence and without a traceback."""

import errno
import inspect
import signal
import sys
from collections.abc import Callable

# Errors of the operating system that are the machine's, not the code's: full, forbidden, broken.
MACHINES = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ELOOP,
    errno.ENOTDIR,
}


class UserError(Exception):
    """Its message is a whole sentence: where the mistake is, and how to mend it."""

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows in place of a traceback."""
        return [str(self)]


def usage(parameter: inspect.Parameter) -> str:
    """An argument as it stands in a usage line; in brackets if it may be left out."""
    if parameter.kind is parameter.VAR_POSITIONAL:
        return f"[<{parameter.name}> ...]"
    if parameter.default is not parameter.empty:
        return f"[<{parameter.name}>]"
    return f"<{parameter.name}>"


def command(main: Callable) -> None:
    """Run `python -m <module> <arguments of main>`.

    What a user can mend ends it with one sentence, and so do an interrupt and a full disk.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as `helpers.run.stage` starts
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signature = inspect.signature(main)
    try:
        signature.bind(*sys.argv[1:])
    except TypeError:
        module = sys.modules["__main__"].__spec__.name
        arguments = " ".join(map(usage, signature.parameters.values()))
        sys.exit(f"usage: python -m {module} {arguments}")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except OSError as error:
        if error.errno not in MACHINES:
            raise
        sys.exit(f"{error.filename or 'a file'}: {error.strerror}; mend that and run again")
