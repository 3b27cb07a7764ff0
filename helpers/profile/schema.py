"""The schema of every parameter, a class a stage; `profiles.py` reads them from `params/`."""

import difflib
import re
from collections.abc import Iterator
from typing import Annotated, Literal, TypeVar, get_args

import pydantic
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from helpers import paths
from helpers.chat.endpoint import Endpoint
from helpers.errors import UserError
from helpers.paths import ROOT
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

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def of(cls, values: dict):
        """The parameters of a notebook, taken from its variables (`globals()`) and checked.

        Raises:
            UserError: one sentence that names the key, the value and what is allowed.
        """
        given = {name: values[name] for name in cls.model_fields if name in values}
        return checked(cls, given, where=lambda key: "parameters")


def different(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError("it names something twice")
    return values


Value = TypeVar("Value")
Several = Annotated[list[Value], Field(min_length=1), pydantic.AfterValidator(different)]


class Experiment(Model):
    """What all stages share."""

    profile: str = Field(pattern=r"^[\w-]+$")
    seed: NonNegativeInt


class Tasks(Experiment):
    """Where the queries come from and how they are put."""

    skills: str
    topics: str
    training_categories: list[str]
    training_topics: PositiveInt | list[str]
    generation_prompts: str
    grading_prompts: str
    evaluation_ks: Several[PositiveInt]
    evaluation_queries: PositiveInt

    def pools(self) -> dict[str, Pool]:
        """Settings I, II, III."""
        skills, topics = load_skills(ROOT / self.skills), load_topics(ROOT / self.topics)
        return split(
            skills,
            topics,
            training_categories=self.training_categories,
            training_topics=self.training_topics,
            seed=self.seed,
        )

    def pack(self) -> Pack:
        return load_pack(ROOT / self.generation_prompts, ROOT / self.grading_prompts)


# In JSON and YAML the keys of a mapping are text: {"1": 1200} is 1200 texts of k = 1, and "1+2" are
# texts of one skill and two things to mention.
TextsPerK = dict[str, PositiveInt]
# US dollars that everything in the profile's ledger, all stages together, may cost; null for no limit.
Budget = Annotated[float, Field(ge=0, allow_inf_nan=False)] | None


class Grading(Tasks):
    """How texts are graded, the teacher's and the students'."""

    judge: Endpoint
    sentence_counter: Literal["reference", "sentencex"] = "reference"
    deduct_named_skills: bool = False

    def rules(self) -> Rules:
        return Rules(self.sentence_counter, self.deduct_named_skills)


class SecondJudge(Endpoint):
    """Another judge over the same answers."""

    enabled: bool = True  # false: `make plan` prices it, and it is not asked


class Generate(Grading):
    teacher: Endpoint
    texts: TextsPerK
    things: str = ""
    corpus: str = ""
    corpus_grades: Literal["judge", "claimed"] = "judge"
    queries_per_text: PositiveFloat
    filter_gradings: PositiveInt
    budget: Budget = None

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


class Finetune(Experiment):
    variant: str
    student: str
    mix: TextsPerK
    training_seed: NonNegativeInt
    student_turns: PositiveInt
    learned_turns: Literal["last", "all"]
    steps: PositiveInt
    batch: PositiveInt
    learning_rate: PositiveFloat
    warmup: NonNegativeInt
    chat_tokens: PositiveInt
    longer: Literal["drop", "cut"]
    micro_tokens: PositiveInt
    save_every: PositiveInt
    save_minutes: NonNegativeFloat
    export_dtype: Literal["float32", "bfloat16"]
    topology: str

    def recipe(self) -> Recipe:
        """The training run; its data is the file `chats.jsonl` in its folder."""
        out = paths.training(self.profile, self.variant)
        return Recipe(
            student=located(self.student),
            data=str(out / "chats.jsonl"),
            out=str(out),
            steps=self.steps,
            batch=self.batch,
            learning_rate=self.learning_rate,
            warmup=self.warmup,
            max_tokens=self.chat_tokens,
            longer=self.longer,
            turns=self.learned_turns,
            seed=self.training_seed,
            micro_tokens=self.micro_tokens,
            save_every=self.save_every,
            save_minutes=self.save_minutes,
            export_dtype=self.export_dtype,
            precision=memory.read_topology(ROOT / self.topology).precision,
        )


class Grade(Grading):
    variant: str
    student: str
    mix: TextsPerK
    student_turns: PositiveInt
    settings: Several[Literal["I", "II", "III"]]
    generations: PositiveInt
    gradings: PositiveInt
    new_tokens: PositiveInt
    temperature: NonNegativeFloat
    top_p: float = Field(gt=0, le=1)
    sample_batch: PositiveInt
    sample_dtype: Literal["float32", "bfloat16"]
    sample_device: str = Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    serve: str
    server: Server
    second_judges: dict[str, SecondJudge] = {}
    budget: Budget = None

    def judges(self) -> dict[str, Endpoint]:
        """Everyone who grades, by name; `first` is the judge that the results are from."""
        return {
            FIRST_JUDGE: self.judge,
            **{name: judge for name, judge in self.second_judges.items() if judge.enabled},
        }

    def checkpoint(self) -> str:
        """The model to grade: the variant's own, or the student as it is where the mix is empty."""
        return (
            str(paths.training(self.profile, self.variant) / "model")
            if self.mix
            else located(self.student)
        )


class Plot(Experiment):
    trained: list[str]
    graded: list[str]
    figures: str
    caption: str
    over_generations: Literal["max", "mean"] = "max"


class Sweep(Model):
    """Mixes of different sizes, to compare kinds of texts at equal numbers of them."""

    student: str  # the one of `students` that is trained on them
    mixes: dict[str, TextsPerK]


class Variants(Model):
    """Which models a profile has; in `shared.yaml`."""

    students: Annotated[dict[str, str], Field(min_length=1)]
    mixes: Annotated[dict[str, TextsPerK], Field(min_length=1)]
    sweep: Sweep | None = None
    training_seeds: Several[NonNegativeInt]
    jobs: PositiveInt | Literal["auto"]


STAGES = {"01_generate": Generate, "02_finetune": Finetune, "03_grade": Grade, "04_plot": Plot}
DERIVED = {
    "profile",
    "variant",
    "student",
    "mix",
    "training_seed",
    "trained",
    "graded",
}  # set here, in no YAML


def located(student: str) -> str:
    """A folder of the repository, or a hub name as it is."""
    return str(ROOT / student) if (ROOT / student).is_dir() else student


def checked(model: type, values: dict, *, where) -> Model:
    """An instance of the model, or a UserError with one sentence about the first wrong key; `where(key)` names its file."""
    try:
        return model(**values)
    except pydantic.ValidationError as e:
        # A misspelt key is both unknown and missing: the first is what helps.
        error = min(e.errors(), key=lambda error: error["type"] != "extra_forbidden")
        key = str(error["loc"][0])
        name = ".".join(str(part) for part in error["loc"])
        if error["type"] == "extra_forbidden":
            inner = model.model_fields[key].annotation if len(error["loc"]) > 1 else model
            inner = (
                inner
                if hasattr(inner, "model_fields")
                else next(m for m in get_args(inner) if hasattr(m, "model_fields"))
            )
            raise UserError(unknown_key(where(key), name, list(inner.model_fields))) from None
        if error["type"] == "missing":
            raise UserError(
                f"{where(key)}: {name} is missing"
                + ("" if "." in name else ", there and in shared.yaml")
            ) from None
        message = (error["msg"][0].lower() + error["msg"][1:]).removeprefix("value error, ")
        if error["loc"][-1] == "[key]":
            name, message = (
                ".".join(map(str, error["loc"][:-2])),
                "write a number of skills in quotes, as '1'",
            )
        elif isinstance(error["input"], str) and re.fullmatch(r"[-+]?\d+e[-+]?\d+", error["input"]):
            message = "YAML reads that as text; write a point in it, as 2.0e-4"
        if name.endswith("key_env"):  # perhaps somebody wrote the key itself there
            raise UserError(
                f"{where(key)}: {name} is the name of an environment variable (letters, digits, _), never a key"
            ) from None
        raise UserError(f"{where(key)}: {name} = {error['input']!r} is wrong: {message}") from None


def unknown_key(file, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key.split(".")[-1], known, n=1)
    return f"{file}: unknown key {key}" + (
        f"; did you mean {near[0]}?" if near else f"; known keys are {', '.join(known)}"
    )
