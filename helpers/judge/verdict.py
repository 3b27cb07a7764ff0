"""What the readers of a judge's reply, as free text or as JSON, return and raise."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """The points of one grading, each 0 or 1, in the rubric's order; or None and why."""

    points: tuple[int, ...] | None
    reason: str = ""


class Doubt(Exception):
    """Why a reply cannot be read."""
