"""How far a long loop is: a bar in JupyterLab, a calm line every few seconds in a headless stage.

Both go to stderr, which `helpers.run.stage` shows and leaves out of the executed notebook.
"""

import os
import sys
import time

from tqdm import tqdm

HEADLESS = "STAGE_LABEL"  # environment variable, set by `helpers.run.stage`: whose lines these are
EVERY = 5.0  # seconds between lines


class Progress:
    """`with Progress("answers", total) as p: ... p.advance(n)`; `p.note` ends the line."""

    def __init__(self, what: str, total: int):
        self.what, self.total = what, total
        self.done, self.note = 0, ""
        self.label = os.environ.get(HEADLESS)
        self.bar = None
        if not self.label:
            self.bar = tqdm(total=total, desc=what, file=sys.stderr, delay=1.0)
        self.start = self.last_line = time.monotonic()
        self.first = None  # work found done at the start says nothing about the speed

    def __enter__(self):
        return self

    def advance(self, n: int = 1) -> None:
        self.done += n
        if self.bar is not None:
            self.bar.set_postfix_str(self.note.removeprefix(", "), refresh=False)
            self.bar.update(n)
            return
        now = time.monotonic()
        if self.first is None:
            self.first, self.start = self.done, now
        if now - self.last_line >= EVERY and self.done < self.total:
            self.last_line = now
            self.print_line(now)

    def print_line(self, now: float) -> None:
        line = f"{self.label}: {self.what} {self.done:,} of {self.total:,}"
        speed = (self.done - self.first) / max(1e-9, now - self.start)
        if speed:
            line += f", about {(self.total - self.done) / speed:.0f} s left"
        print(f"{line}{self.note}", file=sys.stderr, flush=True)

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()
