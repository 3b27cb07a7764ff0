"""One make a run's folder: stages of the same make work side by side, those of another are refused.

The lock is the operating system's (`flock`) on `runs/<profile>/lock`. Who works holds it, the
notebook's kernel too, so a stage that outlives its make still has it, and a lock that nobody holds
any more cannot be left behind. The file says who they are.
"""

import contextlib
import errno
import fcntl
import os
import socket
import sys
import time
from typing import IO

from helpers import paths
from helpers.errors import UserError

MAKE = "MAKE_NUMBER"  # environment variable, set by the Makefile: which make a stage belongs to
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # some cluster file systems


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def refusal(profile: str, workers: list[str]) -> str:
    """The sentence for who comes second; `workers` are the lines of those that came before."""
    here = socket.gethostname()
    living = []
    for worker in workers:
        label, machine, process, since = worker.split("\t")
        if machine != here or is_alive(int(process)):
            living.append(f"{label} (process {process} on {machine}, since {since})")
    who = ", ".join(living) or "a notebook that is about to end"  # its stage was killed
    return f"runs/{profile} is in use: {who}; wait until it has ended, or end it, then run again"


def hold(profile: str, label: str) -> IO[str]:
    """Take the lock of a run's folder for as long as the returned file is open.

    Raises:
        UserError: another make's stages work in it, says which; or the folder cannot be written.
    """
    make = os.environ.get(MAKE, f"process {os.getpid()}")
    path = paths.run(profile) / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (held until this process ends)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); nothing has run") from None
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)  # nobody else is there
            file.write(f"{make}\n")
            file.flush()
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise UserError(f"{path}: cannot be locked ({error.strerror})") from None
        print(f"{path}: no locks here; run one make at a time", file=sys.stderr)
        return file
    file.seek(0)
    holder, *workers = file.read().splitlines()
    if holder != make:
        file.close()
        raise UserError(refusal(profile, workers))
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    file.write(f"{label}\t{socket.gethostname()}\t{os.getpid()}\t{since}\n")
    file.flush()
    return file
