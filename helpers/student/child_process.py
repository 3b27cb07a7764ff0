"""Starts a server that ends when this process ends, however it ends: no GPU stays taken.

A shell starts a guard and becomes the server. The guard stands in the server's process group and
reads from a pipe whose other end this process alone holds: when this process is gone, the pipe
closes, and the guard ends the group. (A parent-death signal would reach the server alone, and not
what it has started.)
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from helpers.paths import ROOT

GUARDED = """
exec 3<&0
(trap "" TERM; read _ <&3; kill -TERM 0; sleep 5; kill -KILL 0) &
exec "$@" 3<&- </dev/null
"""
STOPPING = 20  # seconds that a server has to end before it is killed
LAST = 1000  # characters of its output that an error shows


class ChildProcess:
    """A command that runs until `end`, or until this process is gone; its output is in a file."""

    def __init__(self, command: Sequence[str], output: Path):
        self.output = output
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        output.parent.mkdir(parents=True, exist_ok=True)
        with open(output, "w") as stream:
            self.process = subprocess.Popen(
                ["sh", "-c", GUARDED, "serve", *command],
                cwd=ROOT,
                env={**os.environ, "PATH": path},  # `transformers` stands beside this Python
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def end(self) -> None:
        """End the whole group: the server, the processes it started, and the guard."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self.process.pid, number)
                self.process.wait(STOPPING)

    def last_words(self) -> str:
        """The end of the output, in one line."""
        words = " ".join(self.output.read_text(errors="replace").split())
        return f"its output is in {self.output} and ends: {words[-LAST:] or '(nothing)'}"
