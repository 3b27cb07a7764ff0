"""The schema of every parameter, and the profiles in `params/`.

A profile is a folder: `shared.yaml` holds what its stages share, and one YAML a stage the rest. `python -m helpers.params
mini` checks a whole profile before anything runs, and writes to `runs/mini/params/` one file a notebook with exactly the
values that notebook takes, and `runs/mini/notebooks.mk`, the list of notebooks for make. A file whose values did not
change is not touched, so an edited comment reruns nothing.
"""

import difflib
import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Literal, get_args

import pydantic
import yaml
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from helpers import paths, recipe, serving
from helpers.catalog import Pool, load_skills, load_topics, split
from helpers.chat import Endpoint, check_address
from helpers.errors import UserError
from helpers.money import price_of
from helpers.paths import ROOT
from helpers.prompts import Pack, load_pack
from helpers.recipe import Recipe
from helpers.serving import Server

FIRST = "first"  # the judge whose grades are the results; second judges have names of their own


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
    evaluation_ks: list[PositiveInt]
    evaluation_queries: PositiveInt

    def pools(self) -> dict[str, Pool]:
        """Settings I, II, III."""
        skills, topics = load_skills(ROOT / self.skills), load_topics(ROOT / self.topics)
        return split(skills, topics, training_categories=self.training_categories, training_topics=self.training_topics, seed=self.seed)

    def pack(self) -> Pack:
        return load_pack(ROOT / self.generation_prompts, ROOT / self.grading_prompts)


# In JSON and YAML the keys of a mapping are text: {"1": 1200} is 1200 texts of k = 1.
TextsPerK = dict[str, PositiveInt]
# US dollars that everything in the profile's ledger, all stages together, may cost; null for no limit.
Budget = Annotated[float, Field(ge=0, allow_inf_nan=False)] | None


class Grading(Tasks):
    """How texts are graded, the teacher's and the students'."""

    judge: Endpoint
    sentence_counter: Literal["reference", "sentencex"] = "reference"
    deduct_named_skills: bool = False


class SecondJudge(Endpoint):
    """Another judge over the same answers."""

    enabled: bool = True  # false: `make plan` prices it, and it is not asked


class Generate(Grading):
    teacher: Endpoint
    texts: TextsPerK
    queries_per_text: PositiveFloat
    filter_gradings: PositiveInt
    budget: Budget = None


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
    max_tokens: PositiveInt
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
            max_tokens=self.max_tokens,
            longer=self.longer,
            turns=self.learned_turns,
            seed=self.training_seed,
            micro_tokens=self.micro_tokens,
            save_every=self.save_every,
            save_minutes=self.save_minutes,
            export_dtype=self.export_dtype,
            precision=str(read_yaml(ROOT / self.topology).get("mixed_precision", "no")),
        )


class Grade(Grading):
    variant: str
    student: str
    mix: TextsPerK
    student_turns: PositiveInt
    settings: list[Literal["I", "II", "III"]]
    generations: PositiveInt
    gradings: PositiveInt
    new_tokens: PositiveInt
    temperature: NonNegativeFloat
    top_p: float = Field(gt=0, le=1)
    sample_batch: PositiveInt
    sample_dtype: Literal["float32", "bfloat16"]
    sample_device: str
    serve: str
    server: Server
    second_judges: dict[str, SecondJudge] = {}
    budget: Budget = None

    def judges(self) -> dict[str, Endpoint]:
        """Everyone who grades, by name; `first` is the judge that the results are from."""
        return {FIRST: self.judge, **{name: judge for name, judge in self.second_judges.items() if judge.enabled}}

    def checkpoint(self) -> str:
        """The model to grade: the variant's own, or the student as it is where the mix is empty."""
        return str(paths.training(self.profile, self.variant) / "model") if self.mix else located(self.student)


class Plot(Experiment):
    trained: list[str]
    graded: list[str]
    figures: str
    world: str
    over_generations: Literal["max", "mean"] = "max"


class Sweep(Model):
    """Mixes of different sizes, to compare kinds of texts at equal numbers of them."""

    student: str  # the one of `students` that is trained on them
    mixes: dict[str, TextsPerK]


class Variants(Model):
    """Which models a profile has; in `shared.yaml`."""

    students: dict[str, str]
    mixes: dict[str, TextsPerK]
    sweep: Sweep | None = None
    training_seeds: list[NonNegativeInt]
    jobs: NonNegativeInt


STAGES = {"01_generate": Generate, "02_finetune": Finetune, "03_grade": Grade, "04_plot": Plot}
DERIVED = {"profile", "variant", "student", "mix", "training_seed", "trained", "graded"}  # set here, in no YAML


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
            inner = inner if hasattr(inner, "model_fields") else next(m for m in get_args(inner) if hasattr(m, "model_fields"))
            raise UserError(unknown_key(where(key), name, list(inner.model_fields))) from None
        if error["type"] == "missing":
            raise UserError(f"{where(key)}: {name} is missing") from None
        message = error["msg"][0].lower() + error["msg"][1:]
        if name.endswith("key_env"):  # perhaps somebody wrote the key itself there
            raise UserError(f"{where(key)}: {name} is the name of an environment variable (letters, digits, _), never a key") from None
        raise UserError(f"{where(key)}: {name} = {error['input']!r} is wrong: {message}") from None


def unknown_key(file, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key.split(".")[-1], known, n=1)
    return f"{file}: unknown key {key}" + (f"; did you mean {near[0]}?" if near else f"; known keys are {', '.join(known)}")


def read_yaml(path: Path) -> dict:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.relative_to(ROOT)}: no such file; a profile has shared.yaml and one YAML a stage") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UserError(f"{path.relative_to(ROOT)}: not YAML ({' '.join(str(e).split())})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path.relative_to(ROOT)}: holds no keys")
    return values


def profiles() -> list[str]:
    return sorted(p.parent.name for p in (ROOT / "params").glob("*/shared.yaml"))


def load_profile(profile: str) -> dict[str, Model]:
    """Every notebook's parameters, checked: `01_generate`, `02_finetune/<variant>`, `03_grade/<variant>`, `04_plot`.

    Raises:
        UserError: one sentence about the first thing that is wrong.
    """
    if profile not in profiles():
        raise UserError(f"PROFILE={profile}: no such profile; the profiles are {', '.join(profiles())}")
    folder = Path("params") / profile
    shared = read_yaml(ROOT / folder / "shared.yaml")
    known = {name for model in (*STAGES.values(), Variants) for name in model.model_fields} - DERIVED
    for key in shared:
        if key not in known:
            raise UserError(unknown_key(folder / "shared.yaml", key, sorted(known)))
    variants = checked(Variants, {k: v for k, v in shared.items() if k in Variants.model_fields}, where=lambda key: folder / "shared.yaml")

    def one(stage: str, **derived) -> Model:
        """One notebook's parameters: its stage's file over the shared one over what is derived."""
        model, own = STAGES[stage], read_yaml(ROOT / folder / f"{stage}.yaml")
        for key in own:
            if key in DERIVED or key in shared:
                why = "is set by the profile" if key in DERIVED else "stands in shared.yaml already"
                raise UserError(f"{folder / stage}.yaml: {key} {why}; take it out")
        common = {k: v for k, v in shared.items() if k in model.model_fields}
        taken = {k: v for k, v in derived.items() if k in model.model_fields}
        values = {"profile": profile, **common, **taken, **own}
        return checked(model, values, where=lambda key: folder / ("shared.yaml" if key in common else f"{stage}.yaml"))

    prefix = "{student}-" if len(variants.students) > 1 else ""
    bases = {f"{prefix.format(student=s)}base": {"student": path, "mix": {}} for s, path in variants.students.items()}
    sweep = variants.sweep
    trained = {
        f"{prefix.format(student=s)}{mix}-s{seed}": {"student": path, "mix": texts, "training_seed": seed}
        for s, path in variants.students.items()
        for mix, texts in (variants.mixes | (sweep.mixes if sweep and s == sweep.student else {})).items()
        for seed in variants.training_seeds
    }
    notebooks = {"01_generate": one("01_generate")}
    notebooks |= {f"02_finetune/{v}": one("02_finetune", variant=v, **d) for v, d in trained.items()}
    notebooks |= {f"03_grade/{v}": one("03_grade", variant=v, **d) for v, d in (bases | trained).items()}
    notebooks["04_plot"] = one("04_plot", trained=list(trained), graded=[*bases, *trained])
    check_together(folder, variants, notebooks)
    return notebooks


def check_together(folder: Path, variants: Variants, notebooks: dict[str, Model]) -> None:
    """What no single key shows: files that must be there, counts that must fit each other."""
    generate, finetune = notebooks["01_generate"], next(v for k, v in notebooks.items() if k.startswith("02"))
    grade = next(v for k, v in notebooks.items() if k.startswith("03"))
    shared = folder / "shared.yaml"
    pools, pack = generate.pools(), generate.pack()
    sweep = variants.sweep.mixes if variants.sweep else {}
    mixes = variants.mixes | sweep
    if variants.sweep and variants.sweep.student not in variants.students:
        known = ", ".join(variants.students)
        raise UserError(f"{shared}: sweep.student = {variants.sweep.student}: the students are {known}")
    for mix in (*variants.mixes, *sweep):
        if not re.fullmatch(r"\w+", mix) or mix == "base" or (mix in sweep and mix in variants.mixes):
            raise UserError(f"{shared}: mix {mix!r}: a mix has a name of its own, of letters, digits and _ only, and base is taken")
    for mix, texts in mixes.items():
        if re.fullmatch("k[1-9]+", mix) and sorted(mix[1:]) != sorted(texts):
            raise UserError(f"{shared}: mix {mix} holds texts of k = {', '.join(texts)}; its name says something else")
    for name, judge in grade.second_judges.items():
        if not re.fullmatch(r"\w+", name) or name == FIRST:
            raise UserError(f"{folder}/03_grade.yaml: second judge {name!r}: use letters, digits and _ only, and {FIRST} is taken")
        if Endpoint(**judge.model_dump(exclude={"enabled"})) == grade.judge:
            raise UserError(f"{folder}/03_grade.yaml: second_judges.{name} is the first judge again; it would agree with itself")
    for k in (*generate.texts, *(k for mix in mixes.values() for k in mix)):
        if not k.isdecimal() or k == "0":
            raise UserError(f"{shared}: {k!r} is no number of skills; write it as '1', '2', ...")
    for mix, texts in mixes.items():
        for k, n in texts.items():
            if n > generate.texts.get(k, 0):
                raise UserError(
                    f"{shared}: mix {mix} takes {n} texts of k = {k}, and {folder}/01_generate.yaml makes {generate.texts.get(k, 0)}"
                )
    most = {"I": max(*map(int, generate.texts), *generate.evaluation_ks)} | {
        s: max(grade.evaluation_ks) for s in grade.settings if s != "I"
    }
    for setting, k in most.items():
        if len(pools[setting].skills) < k:
            raise UserError(f"{shared}: k = {k} needs {k} skills, and setting {setting} has {len(pools[setting].skills)}")
    if finetune.student_turns > len(pack.generation):
        raise UserError(f"{shared}: student_turns = {finetune.student_turns}, and the prompt pack has {len(pack.generation)}")
    if not (ROOT / finetune.topology).is_file():
        raise UserError(f"{folder}/02_finetune.yaml: topology = {finetune.topology}: no such file")
    for name, student in variants.students.items():
        is_hub_name = student.count("/") == 1 and not student.startswith((".", "helpers/", "runs/"))
        if not is_hub_name and not (ROOT / student / "config.json").is_file():
            raise UserError(f"{shared}: students.{name} = {student}: neither a folder with a model nor a hub name owner/model")
    for endpoint in (generate.teacher, generate.judge, *grade.second_judges.values()):
        check_address(endpoint.base_url)
        if generate.budget is not None and price_of(endpoint) is None:
            raise UserError(f"{shared}: budget = {generate.budget}, and params/prices.yaml has no price for model {endpoint.model}")
    try:
        serving.check(grade.serve, grade.server)
    except UserError as error:
        raise UserError(f"{folder}/03_grade.yaml: {error}") from None


def inputs(parameters: Model) -> str:
    """A hash of the files that parameters name: catalog, prompts, topology, a student's folder. They decide results too."""
    named = [ROOT / value for value in parameters.model_dump().values() if isinstance(value, str) and value]
    files = [recipe.sha256(path) for path in named if path.is_file()]
    folders = [recipe.fingerprint(str(path)) for path in named if (path / "config.json").is_file()]
    return hashlib.sha256("".join(files + folders).encode()).hexdigest()[:16]


def write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def main(profile: str) -> None:
    """Check the profile; write each notebook's parameters and the list of notebooks for make."""
    notebooks, run = load_profile(profile), paths.run(profile)
    for old in set((run / "params").rglob("*.yaml")) - {run / f"params/{name}.yaml" for name in notebooks}:
        old.unlink()
    for name, parameters in notebooks.items():
        text = yaml.safe_dump(parameters.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_if_changed(run / f"params/{name}.yaml", f"# inputs: {inputs(parameters)}\n{text}")
    jobs = read_yaml(ROOT / "params" / profile / "shared.yaml")["jobs"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    lines = [f"JOBS := {jobs or cores}", f"THREADS := {max(1, cores // (jobs or cores))}"]
    for stage in ("02_finetune", "03_grade"):
        lines.append(f"{stage} := " + " ".join(f"{name}.ipynb" for name in notebooks if name.startswith(stage)))
    # A fine-tuned model is graded after it is trained; a base at any time.
    trained = [name.split("/")[1] for name in notebooks if name.startswith("02")]
    lines += [f"$(RUN)/03_grade/{v}.ipynb: $(RUN)/02_finetune/{v}.ipynb" for v in trained]
    write_if_changed(run / "notebooks.mk", "\n".join(lines) + "\n")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
