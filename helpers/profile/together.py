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
    grade = next(p for p in notebooks.values() if isinstance(p, Grade))
    with files.named("03_grade", "skills"):
        pools, pack = grade.pools(), grade.pack()
    with files.named("03_grade", "student_turns"):
        turns = len(pack.generation)
        if grade.student_turns > turns:
            raise UserError(
                f"student_turns = {grade.student_turns}, and the prompt pack has {turns}"
            )
    generate = notebooks.get("01_generate")
    if generate:
        with files.named("shared", "mixes"):
            check_mixes(variants, generate, made_in=files.source("01_generate", "texts"))
    with files.named("03_grade", "evaluation_ks"):
        check_skills(generate, grade, pools)
    if generate:
        with files.named("01_generate", "texts"):
            check_queries(generate)
        with files.named("02_finetune", "topology", "topology = "):
            check_topology(next(p for p in notebooks.values() if isinstance(p, Finetune)))
        with files.named("01_generate", "teacher", "teacher: "):
            check_endpoint(generate.teacher, grade, pools["III"])
    with files.named("04_plot", "figures"):
        check_figures(notebooks["04_plot"])
    for name, model in variants.models.items():
        if isinstance(model, Endpoint):
            with files.named("shared", "models", f"models.{name}: "):
                if model.json_schema:
                    raise UserError("json_schema is for judges alone; take it out")
                check_endpoint(model, grade, pools["III"])
    with files.named("03_grade", "judge", "judge: "):
        check_endpoint(grade.judge, grade, pools["III"])
    for name, judge in grade.second_judges.items():
        with files.named("03_grade", "second_judges", f"second_judges.{name}: "):
            check_endpoint(judge, grade, pools["III"])
    with files.named("03_grade", "second_judges", "second_judges: "):
        grade.packs()
    with files.named("03_grade", "server"):
        check_price(grade.server, grade.budget)
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


def check_skills(generate: Generate | None, grade: Grade, pools: dict[str, Pool]) -> None:
    """Each setting has as many skills as are asked for at once."""
    largest = dict.fromkeys(grade.settings, max(grade.evaluation_ks))
    if generate:
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
    for kind, texts in p.texts.items():
        k, things = counts_of(kind)
        if things:  # those texts have queries without number
            continue
        distinct = pool.distinct(k)
        reserved = 0
        if k > 1 and k in p.evaluation_ks:
            reserved = min(distinct, p.evaluation_queries)
        left = distinct - reserved
        share = texts / left if left else math.inf
        note = f"more than {THIN} texts a query: many will be alike" if share > THIN else ""
        rows.append((k, distinct, reserved, left, texts, round(share, 2), note))
    columns = ["k", "distinct", "reserved", "left", "texts", "texts a query", "note"]
    return pd.DataFrame(sorted(rows), columns=columns)


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
    values = read_yaml(ROOT / finetune.topology)
    machines = values.get("num_machines", 1)
    processes = values.get("num_processes", 1)
    is_whole = all(type(n) is int and n > 0 for n in (machines, processes))
    is_mapping = isinstance(values.get("fsdp_config") or {}, dict)
    has_type = "distributed_type" in values
    if not (has_type and is_mapping and is_whole and processes % machines == 0):
        raise UserError(
            f"{finetune.topology}: accelerate's YAML has a distributed_type, and"
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


def check_endpoint(endpoint: Endpoint, grade: Grade, pool: Pool) -> None:
    """It can be asked for all skills and topics; with a budget, it has a price."""
    skills = [skill.name for skill in pool.skills]
    host(endpoint.base_url).check(endpoint.model, skills, list(pool.topics))
    check_price(endpoint, grade.budget)
