"""Every parameter there is, a class a stage; `load.py` reads them from `params/`."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

import pydantic
from pydantic import Discriminator, Field, Tag

from helpers import paths
from helpers.chat.endpoint import Endpoint
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profile.kinds import (
    Budget,
    Caption,
    Count,
    Device,
    Few,
    FiguresFolder,
    File,
    FileOrFolder,
    JudgeName,
    LearningRate,
    Line,
    Minutes,
    Mix,
    Mixes,
    MixOrNone,
    ModelName,
    Name,
    NewTokens,
    RepositoryFile,
    Seed,
    Several,
    Student,
    Temperature,
    Texts,
    Tokens,
    Whole,
    Word,
)
from helpers.profile.sentences import checked
from helpers.results.scores import mix_of
from helpers.student.served import Server
from helpers.task.catalog import (
    Pool,
    Query,
    counts_of,
    load_skills,
    load_things,
    load_topics,
    padded,
    split,
    training_queries,
)
from helpers.task.points import FIRST_JUDGE, Rules
from helpers.task.prompts import Pack, load_pack
from helpers.training import memory
from helpers.training.recipe import Recipe


class Model(pydantic.BaseModel):
    """Strict: a number in quotes is no number, and an unknown key is an error."""

    model_config = pydantic.ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False
    )

    @classmethod
    def of(cls, values: dict):
        """The parameters of a notebook, taken from its variables (`globals()`) and checked.

        Raises:
            UserError: one sentence that names the key, the value and what is allowed.
        """
        given = {name: values[name] for name in cls.model_fields if name in values}
        return checked(cls, given, where=lambda key: "parameters")


class Experiment(Model):
    """What all stages share."""

    profile: Name
    seed: Seed


class Tasks(Experiment):
    """Where the queries come from and how they are put."""

    skills: RepositoryFile
    topics: RepositoryFile
    training_categories: Several[Word]
    training_topics: Count | Several[Word]
    generation_prompts: RepositoryFile
    grading_prompts: RepositoryFile
    evaluation_ks: Several[Few]
    evaluation_queries: Count

    def pools(self) -> dict[str, Pool]:
        """Settings I, II, III."""
        return split(
            load_skills(ROOT / self.skills),
            load_topics(ROOT / self.topics),
            training_categories=self.training_categories,
            training_topics=self.training_topics,
            seed=self.seed,
        )


def in_words(endpoint: Endpoint) -> Endpoint:
    """A teacher's or student's, who writes texts."""
    if endpoint.json_schema:
        raise ValueError("json_schema is for judges alone; take it out")
    return endpoint


def with_room(endpoint: Endpoint) -> Endpoint:
    """A teacher's or judge's, who needs more words than a student of a test."""
    if endpoint.max_tokens < 64:
        raise ValueError(f"max_tokens = {endpoint.max_tokens}: no text or grading fits in that")
    return endpoint


class SecondJudge(Endpoint):
    """Another judge over the same answers."""

    enabled: bool = True  # false: `make plan` prices it, and it is not asked
    # Its own, as a judge with json_schema needs; empty: the first judge's.
    grading_prompts: RepositoryFile | Literal[""] = ""


class Grading(Tasks):
    """How texts are graded, the teacher's and the students'."""

    judge: Annotated[Endpoint, pydantic.AfterValidator(with_room)]
    sentence_counter: Literal["reference", "sentencex"] = "reference"
    deduct_named_skills: bool = False
    budget: Budget = None

    def rules(self) -> Rules:
        return Rules(self.sentence_counter, self.deduct_named_skills)

    def pack(self) -> Pack:
        return self.pack_for(self.judge, self.grading_prompts)

    def pack_for(self, judge: Endpoint, grading_prompts: str) -> Pack:
        """All prompts, with those that this judge is asked.

        Raises:
            UserError: a pack that is wrong, or asks for another form of reply than the judge's.
        """
        pack = load_pack(ROOT / self.generation_prompts, ROOT / grading_prompts)
        if pack.json_schema != judge.json_schema:
            raise UserError(
                f"grading_prompts = {grading_prompts} has"
                f" json_schema: {str(pack.json_schema).lower()}, and its judge {judge.model} has"
                f" {str(judge.json_schema).lower()}; a judge with json_schema: true takes"
                " params/prompts/json/grading.json"
            )
        return pack


class Generate(Grading):
    teacher: Annotated[
        Endpoint, pydantic.AfterValidator(with_room), pydantic.AfterValidator(in_words)
    ]
    texts: Texts
    things: RepositoryFile | Literal[""] = ""
    corpus: FileOrFolder | Literal[""] = ""
    corpus_grades: Literal["judge", "claimed"] = "judge"
    queries_per_text: float = Field(ge=1, le=1000)
    filter_gradings: Few

    def queries(self, kind: str, avoid: set) -> Iterator[Query]:
        """Endless queries for texts of a kind, a key of `texts`; none whose identity is in `avoid`.

        Raises:
            UserError: a file of things that has too few of them for a training topic.
        """
        k, n = counts_of(kind)
        pool = self.pools()["I"]
        queries = training_queries(pool, k, seed=self.seed, avoid=avoid)
        if not n:
            return queries
        if not self.things:
            raise UserError(f"texts: {kind} mentions things; name a file of them as things")
        things = load_things(ROOT / self.things)
        for topic in pool.topics:
            if len(things.get(topic, ())) < n:
                raise UserError(f"{self.things}: texts {kind} need {n} things about {topic}")
        return padded(queries, n, things, seed=self.seed)


class Lora(Model):
    """Adapters of low rank beside the student's matrices, trained in place of all weights."""

    rank: int = Field(ge=1, le=1024)
    alpha: float = Field(gt=0, le=10_000)
    target: Literal["all-linear"] | Several[Name]


SAME_IN_RECIPE = {
    "steps",
    "batch",
    "learning_rate",
    "warmup",
    "longer",
    "micro_tokens",
    "save_every",
    "save_minutes",
    "export_dtype",
    "lora",
    "compile",
}


class Finetune(Experiment):
    variant: str
    student: str
    mix: Mix
    training_seed: Seed
    student_turns: Few
    learned_turns: Literal["last", "all"]
    steps: Count
    batch: Count
    learning_rate: LearningRate
    warmup: Whole
    chat_tokens: Tokens
    longer: Literal["drop", "cut"]
    micro_tokens: Tokens
    save_every: Count
    save_minutes: Minutes
    export_dtype: Literal["float32", "bfloat16"]
    topology: RepositoryFile
    shown_seeds: list[Seed] = []
    lora: Lora | None = None
    compile: bool = False

    @pydantic.field_validator("warmup")
    @classmethod
    def _ends(cls, warmup: int, info: pydantic.ValidationInfo) -> int:
        steps = info.data.get("steps", warmup)
        if warmup > steps:
            raise ValueError(f"of steps = {steps}, the warm-up would never end")
        return warmup

    def recipe(self) -> Recipe:
        """The training run; its data is the file `chats.jsonl` in its folder."""
        out = paths.training(self.profile, self.variant)
        return Recipe(
            student=located(self.student),
            data=str(out / "chats.jsonl"),
            out=str(out),
            max_tokens=self.chat_tokens,
            turns=self.learned_turns,
            seed=self.training_seed,
            precision=memory.read_topology(ROOT / self.topology).precision,
            **self.model_dump(include=SAME_IN_RECIPE),
        )

    def examples(self) -> dict[str, str]:
        """Who answers a few tasks in 02, by name; nobody where `shown_seeds` lacks this seed."""
        if self.training_seed not in self.shown_seeds:
            return {}
        model = paths.training(self.profile, self.variant) / "model"
        return {"before": located(self.student), "after": str(model)}


class Answers(Model):
    """Answers to the evaluation's queries that somebody else made."""

    answers: File  # JSON lines: setting, k, topic, skills, generation, text


def form_of(model) -> str:
    if isinstance(model, str):
        return "place"
    is_file = isinstance(model, Answers) or (isinstance(model, dict) and "answers" in model)
    return "answers" if is_file else "address"


# Whose answers are graded: a model in a folder or of the hub, one at an address, or a file's.
Answering = Annotated[
    Annotated[Student, Tag("place")]
    | Annotated[Endpoint, Tag("address")]
    | Annotated[Answers, Tag("answers")],
    Discriminator(form_of),
]


class Grade(Grading):
    variant: str
    student: Answering
    mix: MixOrNone
    student_turns: Few
    settings: Several[Literal["I", "II", "III"]]
    generations: Few
    gradings: Few
    new_tokens: NewTokens
    temperature: Temperature | None
    top_p: float = Field(gt=0, le=1)
    sample_batch: Count
    sample_dtype: Literal["float32", "bfloat16"]
    sample_device: Device
    serve: Line
    server: Annotated[Server, pydantic.AfterValidator(in_words)]
    second_judges: dict[JudgeName, Annotated[SecondJudge, pydantic.AfterValidator(with_room)]] = {}

    @pydantic.field_validator("second_judges")
    @classmethod
    def _are_others(cls, judges: dict, info: pydantic.ValidationInfo) -> dict:
        for name, judge in judges.items():
            asked = judge.model_dump(exclude={"enabled", "grading_prompts"})
            if Endpoint(**asked) == info.data.get("judge"):
                raise ValueError(f"{name} is the first judge again; it would agree with itself")
        return judges

    def judges(self) -> dict[str, Endpoint]:
        """Everyone who grades, by name; `first` is the judge that the results are from."""
        others = {name: judge for name, judge in self.second_judges.items() if judge.enabled}
        return {FIRST_JUDGE: self.judge, **others}

    def packs(self) -> dict[str, Pack]:
        """The prompts of every judge, by name, of those that are not enabled too."""
        packs = {FIRST_JUDGE: self.pack()}
        for name, judge in self.second_judges.items():
            packs[name] = self.pack_for(judge, judge.grading_prompts or self.grading_prompts)
        return packs

    def checkpoint(self) -> str:
        """The model to grade that has a place: the variant's own, or `student` without a mix."""
        if self.mix:
            return str(paths.training(self.profile, self.variant) / "model")
        return located(self.student)


class Claim(Model):
    """What a profile claims of its mixes, besides `findings.FINDINGS`: model over against."""

    model: Name
    against: Name
    setting: Literal["I", "II", "III"]
    k: Several[Count]


class Plot(Experiment):
    trained: list[str]
    graded: list[str]
    figures: FiguresFolder
    caption: Caption
    about: Line = ""
    over_generations: Literal["max", "mean"] = "max"
    claims: list[Claim] = []

    @pydantic.field_validator("claims")
    @classmethod
    def of_mixes_that_are_graded(cls, claims: list[Claim], info) -> list[Claim]:
        models = [re.sub(r"-s\d+$", "", variant) for variant in info.data.get("graded", [])]
        mixes = sorted({mix_of(model) for model in models})
        for claim in claims:
            for mix in (claim.model, claim.against):
                if mix not in mixes:
                    raise ValueError(f"{mix} is none of the mixes ({', '.join(mixes)})")
        return claims


class Sweep(Model):
    """Mixes of different sizes, to compare kinds of texts at equal numbers of them."""

    student: Name  # the one of `students` that is trained on them
    mixes: Mixes


class Variants(Model):
    """Which models a profile has, and whose values it takes; in `shared.yaml`."""

    extends: Name | None = None  # the profile that every value missing here is taken from
    students: dict[Name, Student] = {}  # asked as they are, and trained on each mix
    models: dict[ModelName, Answering] = Field(default={}, validate_default=True)  # never trained
    mixes: Mixes = {}
    sweep: Sweep | None = None
    training_seeds: Several[Seed] = [0]
    jobs: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"]  # auto: a notebook a core

    @pydantic.field_validator("models")
    @classmethod
    def _or_students(cls, models: dict, info: pydantic.ValidationInfo) -> dict:
        if not models and info.data.get("students") == {}:
            raise ValueError("the profile has no students either: nobody to ask")
        return models

    @pydantic.field_validator("mixes")
    @classmethod
    def _of_students(cls, mixes: dict, info: pydantic.ValidationInfo) -> dict:
        if mixes and info.data.get("students") == {}:
            raise ValueError("mixes are for students to be trained on, and there are none")
        if both := sorted(set(mixes) & set(info.data.get("models", {}))):
            raise ValueError(f"{both[0]} is one of the models; give the mix another name")
        return mixes

    @pydantic.field_validator("sweep")
    @classmethod
    def _fits(cls, sweep: Sweep | None, info: pydantic.ValidationInfo) -> Sweep | None:
        if sweep is None:
            return None
        students = info.data.get("students", [sweep.student])  # wrong ones have their own sentence
        if sweep.student not in students:
            raise ValueError(
                f"student = {sweep.student}, and the students are {', '.join(students)}"
            )
        for mix in sweep.mixes:
            if mix in info.data.get("mixes", {}):
                raise ValueError(f"mix {mix!r} stands in mixes already; give it another name")
        return sweep


STAGES = {"01_generate": Generate, "02_finetune": Finetune, "03_grade": Grade, "04_plot": Plot}
# What no YAML holds: the loader sets it.
DERIVED = {"profile", "variant", "student", "mix", "training_seed", "trained", "graded"}


def located(student: str) -> str:
    """A folder of the repository, or a hub name as it is."""
    return str(ROOT / student) if (ROOT / student).is_dir() else student
