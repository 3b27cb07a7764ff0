"""The profiles in `params/`: every notebook's parameters, read and checked as a whole.

A profile is a folder: `shared.yaml` holds what its stages share, and one YAML a stage the rest.
`helpers.run.reruns` writes the checked parameters to files, for the notebooks and for make.
"""

from helpers.profile import together
from helpers.profile.reading import parameters, read_files
from helpers.profile.schema import Model, Variants


def load_variants(profile: str) -> Variants:
    """Which models a profile has, and how many notebooks run at once."""
    return parameters(read_files(profile), "shared", {})


def load_profile(profile: str) -> dict[str, Model]:
    """Every notebook's parameters, checked.

    Returns:
        By name: `01_generate`, where texts of the corpus are trained on; `02_finetune/<variant>`,
        where something is trained; `03_grade/<variant>`, `04_plot`.

    Raises:
        UserError: one sentence about the first thing that is wrong.
    """
    files = read_files(profile)
    variants = parameters(files, "shared", {})
    graded = models_of(variants)
    trained = {variant: values for variant, values in graded.items() if values["mix"]}
    given = {}
    if any("chats" not in values["mix"] for values in trained.values()):
        given["01_generate"] = {}
    for variant, values in trained.items():
        given[f"02_finetune/{variant}"] = {"variant": variant, **values}
    for variant, values in graded.items():
        given[f"03_grade/{variant}"] = {"variant": variant, **values}
    given["04_plot"] = {
        "generated": "01_generate" in given,
        "trained": list(trained),
        "graded": list(graded),
        "figures": f"runs/{profile}/figures",
    }
    notebooks = {}
    for name, derived in given.items():
        notebooks[name] = parameters(files, name.split("/")[0], {"profile": profile, **derived})
    together.check(files, variants, notebooks)
    return notebooks


def models_of(variants: Variants) -> dict[str, dict]:
    """All models, by variant: students as they are, others, each student on each mix and seed.

    A variant's name begins with its student, where there are several.
    """
    students = {}
    for student, path in variants.students.items():
        students[f"{student}-" if len(variants.students) > 1 else ""] = (student, path)
    models = {f"{prefix}base": path for prefix, (_, path) in students.items()} | variants.models
    graded = {name: {"student": model, "mix": {}} for name, model in models.items()}
    for prefix, (student, path) in students.items():
        for mix, texts in variants.mixes_of(student).items():
            for seed in variants.training_seeds:
                values = {"student": path, "mix": texts, "training_seed": seed}
                graded[f"{prefix}{mix}-s{seed}"] = values
    return graded
