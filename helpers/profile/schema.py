"""Every parameter, a class for each stage; `load.py` reads them from `params/`.

One long file, so that there is one place to look up what may stand in a YAML. Which models there
are is in `variants.py`.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

import pydantic
from pydantic import Discriminator, Field, Tag

from helpers import paths
from helpers.chat.endpoint import Endpoint
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profile.claims import Claim, Swept
from helpers.profile.parameters import Parameters
from helpers.profile.value_types import (
    Budget,
    Caption,
    Count,
    Device,
    Few,
    FiguresFolder,
    File,
    FileOrFolder,
    JudgeName,
    Line,
    Minutes,
    Mix,
    Name,
    NewTokens,
    RepositoryFile,
    Seed,
    Setting,
    Several,
    Share,
    ShareApart,
    Student,
    Temperature,
    Texts,
    Tokens,
    Whole,
    Word,
)
from helpers.results.scores import mix_of, model_of
from helpers.student.server import Server
from helpers.task.catalog import (
    Pool,
    Query,
    load_skills,
    load_things,
    load_topics,
    split,
)
from helpers.task.mixes import counts_of
from helpers.task.points import FIRST_JUDGE, Rules
from helpers.task.prompts import Pack, load_pack
from helpers.task.queries import evaluation_queries, padded, training_queries
from helpers.training.recipe import Recipe
from helpers.training.topology import read_topology


class Experiment(Parameters):
    """What all stages share."""

    profile: Name
    seed: Seed


class Tasks(Experiment):
    """Where the queries come from and how they are worded."""

    skills: RepositoryFile
    topics: RepositoryFile
    training_categories: Several[Word]
    training_topics: Count | Several[Word]
    generation_prompts: RepositoryFile
    grading_prompts: RepositoryFile
    evaluation_ks: Several[Few]
    evaluation_queries: Count
    pairs_apart: ShareApart = 0.0  # of the pairs of skills: no training text shows both

    def pools(self) -> dict[str, Pool]:
        """Settings I, II, III."""
        return split(
            load_skills(ROOT / self.skills),
            load_topics(ROOT / self.topics),
            training_categories=self.training_categories,
            training_topics=self.training_topics,
            seed=self.seed,
        )


class Writer(Endpoint):
    """A teacher, a judge, or a model that is asked as it is."""

    max_tokens: int = Field(default=1024, ge=64, le=2**20)  # no text or grading fits in fewer


class Author(Writer):
    """A teacher or a model that is asked: it writes plain text. JSON schemas are for judges."""

    json_schema: Literal[False] = False


class SecondJudge(Writer):
    """Another judge over the same answers."""

    enabled: bool = True  # false: `make plan` prices it, and it is not asked
    # Its own, as a judge with json_schema needs; empty: the first judge's.
    grading_prompts: RepositoryFile | Literal[""] = ""


class Grading(Tasks):
    """How texts are graded, the teacher's and the students'."""

    judge: Writer
    sentence_counter: Literal["reference", "sentencex"] = "reference"
    deduct_named_skills: bool = False
    budget: Budget = None

    def rules(self) -> Rules:
        return Rules(self.sentence_counter, self.deduct_named_skills)

    def pack(self, judge: Endpoint | None = None) -> Pack:
        """All prompts, with those that a judge is asked, by default the first one.

        Raises:
            UserError: a pack that is wrong, or asks for another form of reply than the judge's.
        """
        judge = judge or self.judge
        grading = getattr(judge, "grading_prompts", "") or self.grading_prompts
        pack = load_pack(ROOT / self.generation_prompts, ROOT / grading)
        if pack.json_schema != judge.json_schema:
            raise UserError(
                f"grading_prompts = {grading}: json_schema is {pack.json_schema} there, and"
                f" {judge.json_schema} of the judge {judge.model}; a judge with json_schema: true"
                " takes params/prompts/json/grading.json"
            )
        return pack


class Generate(Grading):
    teacher: Author
    texts: Texts
    things: RepositoryFile | Literal[""] = ""
    corpus: FileOrFolder | Literal[""] = ""
    corpus_grades: Literal["judge", "claimed"] = "judge"
    queries_per_text: float = Field(ge=1, le=1000)
    filter_gradings: Few

    def reserved(self) -> set:
        """Identities of the evaluation's queries that no training text may answer, from k = 2."""
        pool = self.pools()["I"]
        queries = []
        for k in set(self.evaluation_ks) - {1}:
            n = self.evaluation_queries
            queries += evaluation_queries(pool, k, n, seed=self.seed, setting="I")
        return {query.identity for query in queries}

    def queries(self, kind: str) -> Iterator[Query]:
        """Endless queries for texts of a kind, a key of `texts`.

        None is reserved for the evaluation; none has a pair of skills that is kept apart.

        Raises:
            UserError: too few skills, or things for a training topic; no query is left.
        """
        k, n = counts_of(kind)
        pool = self.pools()["I"]
        queries = training_queries(
            pool, k, seed=self.seed, avoid=self.reserved(), pairs_apart=self.pairs_apart
        )
        if not n:
            return queries
        if not self.things:
            raise UserError(f"{kind} mentions things; name a file of them as things")
        things = load_things(ROOT / self.things)
        for topic in pool.topics:
            if len(things.get(topic, ())) < n:
                raise UserError(f"{self.things}: texts {kind} need {n} things about {topic}")
        return padded(queries, n, things, seed=self.seed)


class Lora(Parameters):
    """Adapters of low rank beside the student's matrices, trained in place of all weights."""

    rank: int = Field(ge=1, le=1024)
    alpha: float = Field(gt=0, le=10_000)
    target: Literal["all-linear"] | Several[Name]


# Parameters of 02_finetune that `Recipe` has under the same names, and gets as they are.
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
    learning_rate: Share
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

    @pydantic.model_validator(mode="after")
    def _ends(self):
        if self.warmup > self.steps:
            raise ValueError(
                f"warmup = {self.warmup} of steps = {self.steps}: the warm-up would never end"
            )
        return self

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
            precision=read_topology(ROOT / self.topology).precision,
            **self.model_dump(include=SAME_IN_RECIPE),
        )

    def before_and_after(self) -> dict[str, str]:
        """The models whose answers 02 shows, by name; none where `shown_seeds` lacks this seed."""
        model = str(paths.training(self.profile, self.variant) / "model")
        pair = {"before": located(self.student), "after": model}
        return pair if self.training_seed in self.shown_seeds else {}


class Answers(Parameters):
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
    | Annotated[Author, Tag("address")]
    | Annotated[Answers, Tag("answers")],
    Discriminator(form_of),
]


class StudentServer(Server):
    json_schema: Literal[False] = False


class Grade(Grading):
    variant: str
    student: Answering
    mix: Mix
    student_turns: Few
    settings: Several[Setting]
    generations: Few
    gradings: Few
    new_tokens: NewTokens
    temperature: Temperature | None
    top_p: Share
    sample_batch: Count
    sample_dtype: Literal["float32", "bfloat16"]
    sample_device: Device
    serve: Line
    server: StudentServer
    second_judges: dict[JudgeName, SecondJudge] = {}

    def judges(self) -> dict[str, Endpoint]:
        """Everyone who grades, by name; `first` is the judge that the results are from."""
        others = {name: judge for name, judge in self.second_judges.items() if judge.enabled}
        return {FIRST_JUDGE: self.judge, **others}

    def packs(self) -> dict[str, Pack]:
        """The prompts of every judge, by name, of those that are not enabled too."""
        judges = {FIRST_JUDGE: self.judge, **self.second_judges}
        return {name: self.pack(judge) for name, judge in judges.items()}

    def checkpoint(self) -> str:
        """The folder or hub name of the model to grade: the variant's own, or `student` itself."""
        if self.mix:
            return str(paths.training(self.profile, self.variant) / "model")
        return located(self.student)


class Plot(Experiment):
    generated: bool  # are there texts of 01_generate?
    trained: list[str]
    graded: list[str]
    figures: FiguresFolder
    caption: Caption
    about: Line = ""
    over_generations: Literal["max", "mean"] = "max"
    claims: list[Claim] = []
    pairs_apart: ShareApart = 0.0
    swept: dict[Name, Swept] = {}

    @pydantic.model_validator(mode="after")
    def _claims_are_of_mixes(self):
        models = list(dict.fromkeys(map(model_of, self.graded)))
        for claim in self.claims:
            for mix in (claim.model, claim.against):
                named = rf"(.+-)?{re.escape(mix)}"
                if not any(re.fullmatch(named, model) for model in models):
                    raise ValueError(f"claims: {mix} is none of {', '.join(models)}")
            if claim.model == claim.against:
                raise ValueError(f"claims: {claim.model} is claimed to be better than itself")
            if claim.apart and 1 in claim.k:
                raise ValueError("claims: apart is of pairs of skills, and at k = 1 there are none")
        return self

    @pydantic.model_validator(mode="after")
    def _claims_are_different(self):
        seen = set()
        for c in self.claims:
            for k in c.k:
                row = (c.claim, c.model, c.against, c.setting, k, c.apart)
                if row in seen:
                    raise ValueError(
                        f"claims: {c.model} over {c.against}, setting {c.setting}, k = {k}, stands"
                        " twice"
                    )
                seen.add(row)
        return self

    def sizes(self) -> list[str]:
        """The sweeps whose mixes differ in their numbers of texts alone."""
        return [name for name, sweep in self.swept.items() if not sweep.at]

    def claimed(self) -> set[str]:
        """The sweeps that a claim is about: those with both of its mixes in `at`."""
        names = set()
        for name, sweep in self.swept.items():
            mixes = {mix_of(model) for model in sweep.at}
            for claim in self.claims:
                if {claim.model, claim.against} <= mixes:
                    names.add(name)
        return names

    def owners(self) -> dict[str, str]:
        """By model the first sweep that it is part of; main models are part of none."""
        owners = {}
        for name, sweep in self.swept.items():
            for model in sweep.models:
                owners.setdefault(model, name)
        return owners


STAGES = {"01_generate": Generate, "02_finetune": Finetune, "03_grade": Grade, "04_plot": Plot}
# What no YAML holds: the loader sets it.
DERIVED = set("profile variant student mix training_seed generated trained graded swept".split())


def located(student: str) -> str:
    """A folder of the repository, or a hub name as it is."""
    return str(ROOT / student) if (ROOT / student).is_dir() else student
