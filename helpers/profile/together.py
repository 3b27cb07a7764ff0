"""What no single key shows: counts that fit each other, files, models, prices behind names."""

import contextlib
import math
from pathlib import Path

import pandas as pd

from helpers.chat.endpoint import Endpoint, host
from helpers.chat.money import check_price
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profile.reading import Files, names, read_yaml
from helpers.profile.schema import Finetune, Generate, Grade, Model, Plot, Variants
from helpers.student import served
from helpers.task.catalog import Pool, counts_of

THIN = 10  # texts a query from which on they are much alike


def check(files: Files, variants: Variants, notebooks: dict[str, Model]) -> None:
    """Do a profile's values fit each other?

    Raises:
        UserError: one sentence about the first thing that does not.
    """
    generate, plot = notebooks["01_generate"], notebooks["04_plot"]
    finetune = next(p for p in notebooks.values() if isinstance(p, Finetune))
    grade = next(p for p in notebooks.values() if isinstance(p, Grade))
    with files.named("01_generate", "skills"):
        pools, pack = generate.pools(), generate.pack()
    with files.named("03_grade", "student_turns"):
        if grade.student_turns > len(pack.generation):
            turns = len(pack.generation)
            raise UserError(
                f"student_turns = {grade.student_turns}, and the prompt pack has {turns}"
            )
    with files.named("shared", "mixes"):
        check_mixes(variants, generate, made_in=files.source("01_generate", "texts"))
    with files.named("03_grade", "evaluation_ks"):
        check_skills(generate, grade, pools)
    with files.named("01_generate", "texts"):
        check_queries(generate)
    with files.named("02_finetune", "topology"):
        check_topology(finetune)
    with files.named("04_plot", "figures"):
        check_figures(plot)
    with files.named("01_generate", "teacher"):
        check_judges_alone("teacher", generate.teacher)
    for name in ("teacher", "judge"):
        with files.named("01_generate", name):
            check_endpoint(name, getattr(generate, name), generate, pools["III"])
    for name, judge in grade.second_judges.items():
        with files.named("03_grade", "second_judges"):
            check_endpoint(f"second_judges.{name}", judge, generate, pools["III"])
    with files.named("03_grade", "second_judges"):
        try:
            grade.packs()
        except UserError as error:
            raise UserError(f"second_judges: {error}") from None
    with files.named("03_grade", "server"):
        check_judges_alone("server", grade.server)
        check_price(grade.server, generate.budget)
        served.check(grade.serve, grade.server, grade.temperature)


def check_mixes(variants: Variants, generate: Generate, *, made_in: Path) -> None:
    """No mix takes more texts than 01_generate makes."""
    mixes = variants.mixes | (variants.sweep.mixes if variants.sweep else {})
    for mix, texts in mixes.items():
        if "chats" in texts:
            continue
        for k, n in texts.items():
            made = generate.texts.get(k, 0)
            if n > made:
                raise UserError(f"mix {mix} takes {n} texts of k = {k}, and {made_in} makes {made}")


def check_skills(generate: Generate, grade: Grade, pools: dict[str, Pool]) -> None:
    """Each setting has as many skills as are asked for at once."""
    largest = dict.fromkeys(grade.settings, max(grade.evaluation_ks))
    written = [counts_of(kind)[0] for kind in generate.texts]
    largest["I"] = max(*written, *grade.evaluation_ks)
    for setting, k in largest.items():
        skills = len(pools[setting].skills)
        if skills < k:
            raise UserError(f"k = {k} needs {k} skills, and setting {setting} has {skills}")


def feasibility(p: Generate) -> pd.DataFrame:
    """Are there enough queries for the texts?

    Returns:
        One row a k. Columns: k; distinct (queries of training skills and topics); reserved (for the
        evaluation; none at k = 1, where there are too few to keep any apart); left (for training);
        texts (that are wanted); texts a query; note (of so many that they will be much alike).
    """
    pool = p.pools()["I"]
    rows = []
    # Texts with things to mention have queries without number.
    for k, texts in sorted((int(kind), n) for kind, n in p.texts.items() if "+" not in kind):
        distinct = pool.distinct(k)
        reserved = min(distinct, p.evaluation_queries) if k > 1 and k in p.evaluation_ks else 0
        left = distinct - reserved
        share = texts / left if left else math.inf
        note = f"more than {THIN} texts a query: many will be alike" if share > THIN else ""
        rows.append((k, distinct, reserved, left, texts, round(share, 2), note))
    columns = ["k", "distinct", "reserved", "left", "texts", "texts a query", "note"]
    return pd.DataFrame(rows, columns=columns)


def check_queries(generate: Generate) -> None:
    """Some queries are left for training, and there are things to mention where they are asked."""
    for kind in generate.texts:
        generate.queries(kind, set())
    for row in feasibility(generate).itertuples():
        if not row.left:
            raise UserError(
                f"{row.texts} texts of k = {row.k} are wanted, and all of its {row.distinct}"
                " queries are kept for the evaluation; ask for fewer evaluation_queries, or give"
                " more skills or topics to the training"
            )


def check_topology(finetune: Finetune) -> None:
    """It is a YAML of accelerate's, with numbers that divide."""
    try:
        values = read_yaml(ROOT / finetune.topology)
    except UserError as error:
        raise UserError(f"topology = {error}") from None
    machines, processes = values.get("num_machines", 1), values.get("num_processes", 1)
    whole = all(type(n) is int and n > 0 for n in (machines, processes))
    mapping = isinstance(values.get("fsdp_config") or {}, dict)
    if "distributed_type" not in values or not whole or processes % machines or not mapping:
        raise UserError(
            f"topology = {finetune.topology}: accelerate's YAML has a distributed_type, and"
            " num_processes, a multiple of num_machines"
        )


def check_figures(plot: Plot) -> None:
    """No other profile draws to the same folder."""
    owner = plot.profile
    if plot.figures.startswith("runs/"):
        owner = plot.figures.split("/")[1]
    else:
        for other in set(names()) - {plot.profile}:
            # Another profile's mistakes are not told here.
            with contextlib.suppress(UserError):
                if plot.figures == read_yaml(ROOT / f"params/{other}/04_plot.yaml").get("figures"):
                    owner = other
    if owner != plot.profile:
        raise UserError(
            f"figures = {plot.figures} is where profile {owner} keeps its own; leave it out"
        )


def check_judges_alone(name: str, endpoint: Endpoint) -> None:
    if endpoint.json_schema:
        raise UserError(f"{name}.json_schema is for judges alone; take it out")


def check_endpoint(name: str, endpoint: Endpoint, generate: Generate, pool: Pool) -> None:
    """It can be asked for all skills and topics; with a budget, it has a price."""
    try:
        skills = [skill.name for skill in pool.skills]
        host(endpoint.base_url).check(endpoint.model, skills, list(pool.topics))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    check_price(endpoint, generate.budget)
