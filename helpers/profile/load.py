"""The profiles in `params/`: every notebook's parameters, read and checked as a whole.

A profile is a folder: `shared.yaml` holds what its stages share, and one YAML a stage the rest.
`helpers.run.reruns` writes the checked parameters to files, for the notebooks and for make.
"""

from helpers.profile import consistency
from helpers.profile.parameters import Parameters
from helpers.profile.variants import Variants
from helpers.profile.yaml_files import parameters_of, read_files
from helpers.results.scores import name_of


def load_variants(profile: str) -> Variants:
    """Which models a profile has, and how many notebooks run at once."""
    return parameters_of(read_files(profile), "shared", {})


def load_profile(profile: str) -> dict[str, Parameters]:
    """Every notebook's parameters, checked.

    Returns:
        By name: `01_generate`, where texts of the corpus are trained on; `02_finetune/<variant>`,
        where something is trained; `03_grade/<variant>`, `04_plot`.

    Raises:
        UserError: one sentence about the first thing that is wrong.
    """
    files = read_files(profile)
    variants = parameters_of(files, "shared", {})
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
        "swept": variants.swept(),
    }
    notebooks = {}
    for name, derived in given.items():
        stage, _, variant = name.partition("/")
        p = parameters_of(files, stage, {"profile": profile, **derived})
        if stage == "03_grade" and (sweep := graded[variant].get("sweep")):
            p = variants.sweeps[sweep].graded(p)
        notebooks[name] = p
    consistency.check(files, variants, notebooks)
    return notebooks


def models_of(variants: Variants) -> dict[str, dict]:
    """All models, by variant: students as they are, others, each student on each mix and seed.

    A variant's name begins with its student where there are several; `sweep` is the sweep that it
    is part of, empty for none.
    """
    models = {}
    for student, path in variants.students.items():
        models[name_of(variants.prefix(student), "base")] = path
    models |= variants.models
    graded = {name: {"student": model, "mix": {}} for name, model in models.items()}
    for student, path in variants.students.items():
        for mix, texts in variants.mixes_of(student).items():
            model = name_of(variants.prefix(student), mix)
            sweep = variants.sweep_of(student, mix)
            for seed in variants.training_seeds:
                values = {"student": path, "mix": texts, "training_seed": seed, "sweep": sweep}
                graded[f"{model}-s{seed}"] = values
    return graded
