"""What 04_plot is told of a profile: what it claims, and its sweeps."""

from helpers.profile.parameters import Parameters
from helpers.profile.value_types import Count, Line, Name, Setting, Several


class Swept(Parameters):
    """A sweep of `Variants`, its models by name: `<student>-<mix>`, without a training seed."""

    models: list[str]  # that are graded as part of it
    along: str = ""
    at: dict[str, float] = {}


class Claim(Parameters):
    """What a profile claims of its mixes, besides `findings.FINDINGS`: model over against."""

    model: Name
    against: Name
    setting: Setting
    k: Several[Count]
    apart: bool = False  # only of queries all of whose pairs of skills are kept apart
    claim: Line = ""  # in words
