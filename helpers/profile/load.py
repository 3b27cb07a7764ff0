"""The profiles in `params/`: read, checked as a whole, and written out for the notebooks and for make.

A profile is a folder: `shared.yaml` holds what its stages share, and one YAML a stage the rest. `python -m helpers.profile.load
mini` checks a whole profile before anything runs, and writes to `runs/mini/params/` one file a notebook with exactly the
values that notebook takes, and `runs/mini/notebooks.mk`, the list of notebooks for make. A file whose values did not
change is not touched, so an edited comment reruns nothing.
"""

import hashlib
import os
import re
from pathlib import Path

import yaml

from helpers import paths
from helpers.chat.endpoint import Endpoint, host
from helpers.chat.money import price_of
from helpers.errors import UserError, command
from helpers.files import sha256
from helpers.paths import ROOT
from helpers.profile.schema import DERIVED, STAGES, Model, Variants, checked, unknown_key
from helpers.student import served
from helpers.task.catalog import counts_of
from helpers.task.points import FIRST_JUDGE
from helpers.training import recipe


class OnceEach(yaml.SafeLoader):
    """A key that stands twice is an error; YAML itself takes the last."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), OnceEach)
    except FileNotFoundError:
        raise UserError(
            f"{path.relative_to(ROOT)}: no such file; a profile has shared.yaml and one YAML a stage"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UserError(
            f"{path.relative_to(ROOT)}: not YAML ({' '.join(str(e).split())})"
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"{path.relative_to(ROOT)}: holds no keys")
    return values


def names() -> list[str]:
    return sorted(p.parent.name for p in (ROOT / "params").glob("*/shared.yaml"))


def load_profile(profile: str) -> dict[str, Model]:
    """Every notebook's parameters, checked: `01_generate`, `02_finetune/<variant>`, `03_grade/<variant>`, `04_plot`.

    Raises:
        UserError: one sentence about the first thing that is wrong.
    """
    if profile not in names():
        raise UserError(
            f"PROFILE={profile}: no such profile; the profiles are {', '.join(names())}"
        )
    folder = Path("params") / profile
    shared = read_yaml(ROOT / folder / "shared.yaml")
    known = {
        name for model in (*STAGES.values(), Variants) for name in model.model_fields
    } - DERIVED
    for key in shared:
        if key not in known:
            raise UserError(unknown_key(folder / "shared.yaml", key, sorted(known)))
    variants = checked(
        Variants,
        {k: v for k, v in shared.items() if k in Variants.model_fields},
        where=lambda key: folder / "shared.yaml",
    )

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
        return checked(
            model,
            values,
            where=lambda key: folder / ("shared.yaml" if key in common else f"{stage}.yaml"),
        )

    prefix = "{student}-" if len(variants.students) > 1 else ""
    bases = {
        f"{prefix.format(student=s)}base": {"student": path, "mix": {}}
        for s, path in variants.students.items()
    }
    sweep = variants.sweep
    trained = {
        f"{prefix.format(student=s)}{mix}-s{seed}": {
            "student": path,
            "mix": texts,
            "training_seed": seed,
        }
        for s, path in variants.students.items()
        for mix, texts in (
            variants.mixes | (sweep.mixes if sweep and s == sweep.student else {})
        ).items()
        for seed in variants.training_seeds
    }
    notebooks = {"01_generate": one("01_generate")}
    notebooks |= {
        f"02_finetune/{v}": one("02_finetune", variant=v, **d) for v, d in trained.items()
    }
    notebooks |= {
        f"03_grade/{v}": one("03_grade", variant=v, **d) for v, d in (bases | trained).items()
    }
    notebooks["04_plot"] = one(
        "04_plot",
        trained=list(trained),
        graded=[*bases, *trained],
        figures=f"runs/{profile}/figures",
    )
    check_together(folder, variants, notebooks)
    return notebooks


def check_together(folder: Path, variants: Variants, notebooks: dict[str, Model]) -> None:
    """What no single key shows: files that must be there, counts that must fit each other."""
    generate, finetune = (
        notebooks["01_generate"],
        next(v for k, v in notebooks.items() if k.startswith("02")),
    )
    grade = next(v for k, v in notebooks.items() if k.startswith("03"))
    shared = folder / "shared.yaml"
    try:
        pools, pack = generate.pools(), generate.pack()
    except UserError as error:
        raise UserError(f"{shared}: {error}") from None
    sweep = variants.sweep.mixes if variants.sweep else {}
    mixes = variants.mixes | sweep
    if variants.sweep and variants.sweep.student not in variants.students:
        known = ", ".join(variants.students)
        raise UserError(
            f"{shared}: sweep.student = {variants.sweep.student}: the students are {known}"
        )
    for mix in (*variants.mixes, *sweep):
        if (
            not re.fullmatch(r"\w+", mix)
            or mix == "base"
            or (mix in sweep and mix in variants.mixes)
        ):
            raise UserError(
                f"{shared}: mix {mix!r}: a mix has a name of its own, of letters, digits and _ only, and base is taken"
            )
    for mix, texts in mixes.items():
        if re.fullmatch("k[1-9]+", mix) and sorted(mix[1:]) != sorted(texts):
            raise UserError(
                f"{shared}: mix {mix} holds texts of k = {', '.join(texts)}; its name says something else"
            )
    for name, judge in grade.second_judges.items():
        if not re.fullmatch(r"\w+", name) or name == FIRST_JUDGE:
            raise UserError(
                f"{folder}/03_grade.yaml: second judge {name!r}: use letters, digits and _ only, and {FIRST_JUDGE} is taken"
            )
        if Endpoint(**judge.model_dump(exclude={"enabled"})) == grade.judge:
            raise UserError(
                f"{folder}/03_grade.yaml: second_judges.{name} is the first judge again; it would agree with itself"
            )
    for k in (*generate.texts, *(k for mix in mixes.values() for k in mix)):
        if not re.fullmatch(r"[1-9]\d*(\+[1-9]\d*)?", k):
            raise UserError(
                f"{shared}: {k!r} is no number of skills; write it as '1', '2', ...,"
                " or '1+2' for one skill and two things to mention"
            )
    for mix, texts in mixes.items():
        for k, n in texts.items():
            if n > generate.texts.get(k, 0):
                raise UserError(
                    f"{shared}: mix {mix} takes {n} texts of k = {k}, and {folder}/01_generate.yaml makes {generate.texts.get(k, 0)}"
                )
    written = [counts_of(kind)[0] for kind in generate.texts]
    most = {"I": max(*written, *generate.evaluation_ks)} | {
        s: max(grade.evaluation_ks) for s in grade.settings if s != "I"
    }
    for setting, k in most.items():
        if len(pools[setting].skills) < k:
            raise UserError(
                f"{shared}: k = {k} needs {k} skills, and setting {setting} has {len(pools[setting].skills)}"
            )
    for kind in generate.texts:
        try:
            generate.queries(kind, set())
        except UserError as error:
            raise UserError(f"{folder}/01_generate.yaml: {error}") from None
    if finetune.student_turns > len(pack.generation):
        raise UserError(
            f"{shared}: student_turns = {finetune.student_turns}, and the prompt pack has {len(pack.generation)}"
        )
    if finetune.warmup > finetune.steps:
        raise UserError(
            f"{folder}/02_finetune.yaml: warmup = {finetune.warmup} of steps = {finetune.steps}: the warm-up would never end"
        )
    if not (ROOT / finetune.topology).is_file():
        raise UserError(f"{folder}/02_finetune.yaml: topology = {finetune.topology}: no such file")
    read_yaml(ROOT / finetune.topology)
    figures = notebooks["04_plot"].figures
    if not (ROOT / figures).resolve().is_relative_to(ROOT):
        raise UserError(
            f"{folder}/04_plot.yaml: figures = {figures} lies outside of the repository; name a folder in it, or leave it out"
        )
    for other in set(names()) - {folder.name}:
        if figures == read_yaml(ROOT / f"params/{other}/04_plot.yaml").get(
            "figures", f"runs/{other}/figures"
        ):
            raise UserError(
                f"{folder}/04_plot.yaml: figures = {figures} is where profile {other} keeps its own; leave it out"
            )
    for name, student in variants.students.items():
        is_hub_name = student.count("/") == 1 and not student.startswith((".", "helpers/", "runs/"))
        if not is_hub_name and not (ROOT / student / "config.json").is_file():
            raise UserError(
                f"{shared}: students.{name} = {student}: neither a folder with a model nor a hub name owner/model"
            )
    for endpoint in (generate.teacher, generate.judge, *grade.second_judges.values()):
        try:
            skills, topics = [s.name for s in pools["III"].skills], list(pools["III"].topics)
            host(endpoint.base_url).check(endpoint.model, skills, topics)
        except UserError as error:
            raise UserError(f"{shared}: teacher, judge or a second judge: {error}") from None
        if generate.budget is not None and price_of(endpoint) is None:
            raise UserError(
                f"{shared}: budget = {generate.budget}, and params/prices.yaml has no price for model {endpoint.model}"
            )
    try:
        served.check(grade.serve, grade.server)
    except UserError as error:
        raise UserError(f"{folder}/03_grade.yaml: {error}") from None


def inputs(parameters: Model) -> str:
    """A hash of the files that parameters name: catalog, prompts, topology, a student's folder. They decide results too."""
    named = [
        ROOT / value
        for value in parameters.model_dump().values()
        if isinstance(value, str) and value
    ]
    files = [sha256(path) for path in named if path.is_file()]
    folders = [recipe.fingerprint(str(path)) for path in named if (path / "config.json").is_file()]
    return hashlib.sha256("".join(files + folders).encode()).hexdigest()[:16]


def write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def main(profile: str) -> None:
    """Check the profile; write each notebook's parameters and the list of notebooks for make."""
    notebooks, run = load_profile(profile), paths.run(profile)
    for old in set((run / "params").rglob("*.yaml")) - {
        run / f"params/{name}.yaml" for name in notebooks
    }:
        old.unlink()
    for name, parameters in notebooks.items():
        text = yaml.safe_dump(
            parameters.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        )
        write_if_changed(run / f"params/{name}.yaml", f"# inputs: {inputs(parameters)}\n{text}")
    jobs = read_yaml(ROOT / "params" / profile / "shared.yaml")["jobs"]
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    jobs = cores if jobs == "auto" else jobs
    lines = [f"JOBS := {jobs}", f"THREADS := {max(1, cores // jobs)}"]
    lines.append(f"FIGURES := {notebooks['04_plot'].figures}")
    for stage in ("02_finetune", "03_grade"):
        lines.append(
            f"{stage} := "
            + " ".join(f"{name}.ipynb" for name in notebooks if name.startswith(stage))
        )
    # A fine-tuned model is graded after it is trained; a base at any time.
    trained = [name.split("/")[1] for name in notebooks if name.startswith("02")]
    lines += [f"$(RUN)/03_grade/{v}.ipynb: $(RUN)/02_finetune/{v}.ipynb" for v in trained]
    write_if_changed(run / "notebooks.mk", "\n".join(lines) + "\n")


if __name__ == "__main__":
    command(main)
