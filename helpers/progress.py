"""How far a long loop is: a bar in JupyterLab, a calm line every few seconds in a headless stage.

Both go to stderr, which `helpers.run.stage` shows and leaves out of the executed notebook.
"""

import os
import sys

from tqdm import tqdm

HEADLESS = "STAGE_LABEL"  # environment variable, set by `helpers.run.stage`: whose lines these are
EVERY = 5.0  # seconds between lines


class Progress(tqdm):
    """`with Progress("answers", total) as p: ... p.advance(n)`; `p.note` ends the line.

    A loop that takes only a moment shows nothing. The time left is estimated from the speed since
    the last display.
    """

    def __init__(self, what: str, total: int):
        self.label = os.environ.get(HEADLESS)
        self.note = ""
        settings = {"delay": 1.0}
        if self.label:
            settings = {"delay": EVERY, "mininterval": EVERY, "leave": False}
        super().__init__(
            desc=what, total=total, file=sys.stderr, miniters=0, smoothing=1, **settings
        )

    def advance(self, n: int = 1) -> None:
        if self.n == 0:
            self.last_print_n = n  # what is found done at the start says nothing about the speed
        self.set_postfix_str(self.note.removeprefix(", "), refresh=False)
        self.update(n)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, or print the line; tqdm calls it when it is time, and at the end."""
        if not self.label:
            super().display(msg, pos)
        elif msg is None and self.n < self.total:
            line = f"{self.label}: {self.desc} {self.n:,} of {self.total:,}"
            if rate := self.format_dict["rate"]:
                line += f", about {(self.total - self.n) / rate:.0f} s left"
            print(f"{line}{self.note}", file=sys.stderr, flush=True)
