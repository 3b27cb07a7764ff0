"""What is read of a judge's reply, free text or structured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """The points of one grading, each 0 or 1, in the rubric's order; or None and why."""

    points: tuple[int, ...] | None
    reason: str = ""


class Doubt(Exception):
    """Why a reply cannot be read."""
