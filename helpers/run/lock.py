"""Only one make works in a run's folder at a time.

`python -m helpers.run.lock <profile> make ...` takes the lock and becomes that make.

The lock is the operating system's (`flock`) on `runs/<profile>/lock`. Make and the stages that it
starts inherit it, so a stage that outlives its make still has it, and a lock that nobody holds any
more cannot be left behind. The file says who took it.

The chat client's `filelock` would not do: its lock ends with the process that took it. This one is
handed on to the program that this process becomes, and to all that it starts.
"""

import fcntl
import os
import socket
import sys
import time

from helpers import paths
from helpers.errors import UserError, command


def main(profile: str, program: str, *arguments: str) -> None:
    """Take the lock of a run's folder and become the program, which holds it until all its ends.

    Raises:
        UserError: another make works in it (the message says which), or it cannot be written.
    """
    path = paths.run(profile) / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (held on purpose)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); nothing has run") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise UserError(
            f"runs/{profile} is in use by {file.read()}, or by a notebook that it started;"
            " wait until they have ended, or end them, then run again"
        ) from None
    except OSError:  # some cluster file systems have no locks
        print(f"{path}: cannot be locked; run one make at a time", file=sys.stderr)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}, since {since}")
    file.flush()
    os.set_inheritable(file.fileno(), True)
    os.execvp(program, [program, *arguments])


if __name__ == "__main__":
    command(main)
