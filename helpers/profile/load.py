"""The profiles in `params/`: checked as a whole, and written out for the notebooks and for make.

`python -m helpers.profile.load mini` checks a whole profile before anything runs, and writes to
`runs/mini/params/` one file a notebook with exactly the values that notebook takes, and
`runs/mini/notebooks.mk`, the list of notebooks for make. A file whose values did not change is not
touched, so an edited comment reruns nothing.
"""

import hashlib
import os
from pathlib import Path

import yaml

from helpers import paths
from helpers.errors import command
from helpers.files import sha256
from helpers.paths import ROOT
from helpers.profile import together
from helpers.profile.reading import names, read_files, read_yaml
from helpers.profile.schema import Model, Variants
from helpers.training import recipe

__all__ = ["load_profile", "load_variants", "names", "read_yaml"]


def load_variants(profile: str) -> Variants:
    """Which models a profile has, and how many notebooks run at once."""
    return read_files(profile).checked("shared", {})


def load_profile(profile: str) -> dict[str, Model]:
    """Every notebook's parameters, checked.

    Returns:
        By name: `01_generate`, `02_finetune/<variant>`, `03_grade/<variant>`, `04_plot`.

    Raises:
        UserError: one sentence about the first thing that is wrong.
    """
    files = read_files(profile)
    variants = files.checked("shared", {})
    bases, trained = bases_of(variants), trained_of(variants)
    given = {
        "01_generate": {},
        **{f"02_finetune/{name}": {"variant": name, **of} for name, of in trained.items()},
        **{f"03_grade/{name}": {"variant": name, **of} for name, of in (bases | trained).items()},
        "04_plot": {
            "trained": list(trained),
            "graded": [*bases, *trained],
            "figures": f"runs/{profile}/figures",
        },
    }
    notebooks = {
        name: files.checked(name.split("/")[0], {"profile": profile, **derived})
        for name, derived in given.items()
    }
    together.check(files, variants, notebooks)
    return notebooks


def prefix(variants: Variants, student: str) -> str:
    """What a variant's name begins with: its student, where there are several."""
    return f"{student}-" if len(variants.students) > 1 else ""


def bases_of(variants: Variants) -> dict[str, dict]:
    """The students as they are, by variant."""
    return {
        f"{prefix(variants, student)}base": {"student": path, "mix": {}}
        for student, path in variants.students.items()
    }


def trained_of(variants: Variants) -> dict[str, dict]:
    """What is trained, by variant: each student on each mix with each seed."""
    trained = {}
    for student, path in variants.students.items():
        mixes = dict(variants.mixes)
        if variants.sweep and student == variants.sweep.student:
            mixes |= variants.sweep.mixes
        for mix, texts in mixes.items():
            for seed in variants.training_seeds:
                variant = f"{prefix(variants, student)}{mix}-s{seed}"
                trained[variant] = {"student": path, "mix": texts, "training_seed": seed}
    return trained


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
    jobs = load_variants(profile).jobs
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
