"""A profile's own claims, and its sweeps as 04_plot needs them."""

from helpers.profile.parameters import Parameters
from helpers.profile.value_types import Count, Line, Name, Setting, Several


class Swept(Parameters):
    """A sweep of `Variants`, its models by name: `<student>-<mix>`, without a training seed."""

    models: list[str]  # that are graded as part of it
    along: str = ""
    at: dict[str, float] = {}


class Claim(Parameters):
    """A claim of a profile's own, besides `findings.FINDINGS`: `model` scores above `against`."""

    model: Name
    against: Name
    setting: Setting
    k: Several[Count]
    apart: bool = False  # only of queries all of whose pairs of skills are kept apart
    claim: Line = ""  # in words
