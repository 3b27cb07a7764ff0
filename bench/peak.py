"""Runs a command; says how long it took, and how much memory it and its children took at most.

`python bench/peak.py make reproduce`. Memory is the sum of proportional set sizes of all of them
together: what processes share is counted once.
"""

import subprocess
import sys
import time
from contextlib import suppress

import psutil

EVERY = 0.5  # seconds between looks


def pss(root: psutil.Process) -> dict[str, int]:
    """Bytes by process, the root and everything below it."""
    found = {}
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            found[f"{process.pid} {' '.join(process.cmdline())[:100]}"] = (
                process.memory_full_info().pss
            )
    return found


if __name__ == "__main__":
    start, most = time.monotonic(), {}
    child = subprocess.Popen(sys.argv[1:])
    while child.poll() is None:
        with suppress(psutil.NoSuchProcess):
            now = pss(psutil.Process(child.pid))
            most = max(most, now, key=lambda sizes: sum(sizes.values()))
        time.sleep(EVERY)
    print(
        f"{time.monotonic() - start:.0f} s; at most {sum(most.values()) / 2**30:.2f} GiB together,"
        " of these",
        file=sys.stderr,
    )
    for name, size in sorted(most.items(), key=lambda item: -item[1])[:12]:
        print(f"  {size / 2**20:6.0f} MiB  {name}", file=sys.stderr)
    sys.exit(child.returncode)
