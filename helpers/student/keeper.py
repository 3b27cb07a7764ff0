"""A server that is started here ends with us, however we end: no GPU stays taken.

`python -m helpers.student.keeper <command>` stands between the two. It ends the server when its own
standard input closes, which is when whoever started it is gone; and should the keeper be killed
itself, a shell in the server's process group, which waits for that, kills the group.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from helpers.paths import ROOT

STOPPING = 20  # seconds that a server has to end before it is killed
LAST = 8  # lines of its output that an error shows


class Kept:
    """A command that runs until `end`, or until this process is gone; its output is in a file."""

    def __init__(self, command: Sequence[str], output: Path):
        self.output = output
        bin_folder = Path(sys.executable).parent  # `transformers` is there
        environment = {
            **os.environ,
            "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(ROOT),
        }
        output.parent.mkdir(parents=True, exist_ok=True)
        with open(output, "w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "helpers.student.keeper", *command],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.process.poll()

    def end(self) -> None:
        self.process.stdin.close()  # tells the keeper, as our end would
        self.process.wait()

    def last_words(self) -> str:
        """The last lines of the output, in one."""
        text = self.output.read_text(errors="replace")
        lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
        end = " / ".join(lines[-LAST:])[-1500:] or "(nothing)"
        return f"its output is in {self.output} and ends: {end}"


def stop(server: subprocess.Popen) -> None:
    """End a process and all of its group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOPPING)
            break
    with contextlib.suppress(ProcessLookupError):  # what the first of them left behind
        os.killpg(server.pid, signal.SIGKILL)


def keep(command: list[str]) -> int:
    """Run a command until it ends, or our standard input does; then end its whole group."""
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}")
        return 127
    # Nothing is ever written to it: `read` returns when the keeper is gone.
    guard = ["sh", "-c", "read _; kill -KILL 0"]
    subprocess.Popen(guard, stdin=subprocess.PIPE, process_group=server.pid)

    def watch():
        os.read(0, 1)  # nothing is ever written there: it returns when the other end is closed
        stop(server)

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: stop(server))
    code = server.wait()
    stop(server)
    return code if code >= 0 else 128 - code  # as a shell says that a signal ended it


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1:]))
