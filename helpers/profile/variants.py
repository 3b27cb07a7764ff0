"""Which models a profile has, and what is compared of them: students, mixes, sweeps."""

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from helpers.profile.claims import Swept
from helpers.profile.parameters import Parameters
from helpers.profile.schema import Answering, Grade
from helpers.profile.value_types import (
    Caption,
    Mixes,
    MixName,
    ModelName,
    Name,
    Seed,
    Setting,
    Several,
    Student,
)
from helpers.results.scores import name_of


class Sweep(Parameters):
    """Mixes for one student that answer a question of their own.

    They are left out of the figures of a profile's main mixes. A mix may stand in several sweeps,
    always with the same texts: it is trained once, and graded as the first of them says.
    """

    student: Name  # the one of `students` that is trained on them
    mixes: Mixes = {}
    along: Caption = ""  # what the numbers in `at` are; without numbers: how many texts in all
    at: dict[MixName | Literal["base"], float] = {}  # by mix, of the sweep or of the profile
    settings: Several[Setting] | None = None  # that they are graded in; null: the profile's
    second_judges: bool = True  # false: they are graded by the first judge alone

    @pydantic.model_validator(mode="after")
    def _says_what_it_is(self):
        if not self.mixes and not self.at:
            raise ValueError("it has neither mixes nor numbers (at)")
        if bool(self.at) != bool(self.along):
            raise ValueError("along says what the numbers of at are: it takes both, or neither")
        return self

    def graded(self, p: Grade) -> Grade:
        """How a model of the sweep is graded, where `p` is how the profile's others are."""
        own = {"settings": self.settings or p.settings}
        if not self.second_judges:
            own["second_judges"] = {}
        return p.model_copy(update=own)


class Variants(Parameters):
    """Which models a profile has, and whose values it takes; in `shared.yaml`."""

    extends: Name | None = None  # the profile that every value missing here is taken from
    students: dict[Name, Student] = {}  # asked as they are, and trained on each mix
    models: dict[ModelName, Answering] = {}  # never trained
    mixes: Mixes = {}
    sweeps: dict[Name, Sweep] = {}
    training_seeds: Several[Seed] = [0]
    jobs: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"]  # auto: a notebook a core

    @pydantic.model_validator(mode="after")
    def _names_fit(self):
        if not self.students and not self.models:
            raise ValueError("models is wrong: the profile has no students either: nobody to ask")
        if self.mixes and not self.students:
            raise ValueError("mixes are for students to be trained on, and there are none")
        for name in self.models:
            if name in self.mixes:
                raise ValueError(f"mixes: {name} is the name of a model, too")
        swept = {}
        for name, sweep in self.sweeps.items():
            if sweep.student not in self.students:
                raise ValueError(
                    f"sweeps: {name}: student = {sweep.student}, and the students are"
                    f" {', '.join(self.students) or 'none'}"
                )
            for mix, texts in sweep.mixes.items():
                if mix in self.mixes or mix in self.models:
                    raise ValueError(f"sweeps: {name}: {mix} is the name of a model or main mix")
                if swept.setdefault(mix, texts) != texts:
                    raise ValueError(f"sweeps: {name}: {mix} holds other texts in another sweep")
        for name, sweep in self.sweeps.items():
            known = ["base", *self.mixes_of(sweep.student)]
            if unknown := set(sweep.at) - set(known):
                raise ValueError(
                    f"sweeps: {name}: at: {', '.join(sorted(unknown))} is no mix of"
                    f" {sweep.student}, whose mixes are {', '.join(known)}"
                )
        return self

    def mixes_of(self, student: str) -> dict[str, dict]:
        """What a student is trained on."""
        mixes = dict(self.mixes)
        for sweep in self.sweeps.values():
            if sweep.student == student:
                mixes |= sweep.mixes
        return mixes

    def sweep_of(self, student: str, mix: str) -> str:
        """The first of the student's sweeps that has the mix; empty for a main one."""
        for name, sweep in self.sweeps.items():
            if sweep.student == student and mix in sweep.mixes:
                return name
        return ""

    def prefix(self, student: str) -> str:
        """How a model's name begins: with its student, where there are several."""
        return student if len(self.students) > 1 else ""

    def swept(self) -> dict[str, Swept]:
        """The sweeps as 04_plot has them: their models by name."""
        result = {}
        for name, sweep in self.sweeps.items():
            prefix = self.prefix(sweep.student)
            models = [name_of(prefix, mix) for mix in sweep.mixes]
            at = {name_of(prefix, mix): number for mix, number in sweep.at.items()}
            result[name] = Swept(models=models, along=sweep.along, at=at)
        return result
