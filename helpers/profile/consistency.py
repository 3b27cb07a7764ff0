"""Checks across keys: do counts fit each other, are named files, models and prices there?"""

import contextlib
from collections import Counter
from collections.abc import Iterator

import pandas as pd

from helpers.chat.endpoint import Endpoint, host
from helpers.chat.money import check_price
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profile.claims import Claim
from helpers.profile.error_messages import checked
from helpers.profile.parameters import Parameters
from helpers.profile.schema import Finetune, Generate, Grade
from helpers.profile.variants import Variants
from helpers.profile.yaml_files import KNOWN, Files, names, read_yaml, source
from helpers.results.scores import mix_of, model_of
from helpers.student import server
from helpers.task.mixes import below_in, counts_of, part_of
from helpers.task.pairs import count_apart, sets_together
from helpers.task.queries import draw, evaluation_queries, left_for_training
from helpers.training import topology

THIN = 10  # with so many texts a query, or more, texts are much alike


def check(files: Files, variants: Variants, notebooks: dict[str, Parameters]) -> None:
    """Check that a profile's values fit each other.

    Raises:
        UserError: one sentence about the first thing that does not.
    """

    @contextlib.contextmanager
    def named(stage: str, key: str, words: str = "") -> Iterator[None]:
        """Errors raised inside begin with the file that the key came from, and with `words`.

        An error that begins with a key is about that one.
        """
        try:
            yield
        except UserError as error:
            first, colon, _ = str(error).partition(": ")
            about = first if colon and first in KNOWN[stage] else key
            raise UserError(f"{source(files, stage, about)}: {words}{error}") from None

    generate = notebooks.get("01_generate")
    grade = next(p for p in notebooks.values() if isinstance(p, Grade))
    with named("03_grade", "skills"):
        pools = grade.pools()
    with named("03_grade", "grading_prompts"):
        turns = len(grade.pack().generation)
    with named("03_grade", "second_judges", "second_judges: "):
        grade.packs()
        for name, judge in grade.second_judges.items():
            if dict(grade.judge).items() <= dict(judge).items():
                raise UserError(f"{name} is the first judge again; it would agree with itself")
    with named("03_grade", "student_turns"):
        if grade.student_turns > turns:
            raise UserError(
                f"student_turns = {grade.student_turns}, and the prompt pack has {turns}"
            )
    with named("03_grade", "evaluation_ks"):
        for setting in grade.settings:
            pool, most = pools[setting], max(grade.evaluation_ks)
            next(draw(pool, most, seed=0, purpose=f"setting {setting}"))
    asked = {("shared", f"models.{name}"): model for name, model in variants.models.items()}
    asked["03_grade", "judge"] = grade.judge
    for name, judge in grade.second_judges.items():
        asked["03_grade", f"second_judges.{name}"] = judge
    if generate:
        asked["01_generate", "teacher"] = generate.teacher
        with named("01_generate", "texts", "texts: "):
            for kind in generate.texts:
                next(generate.queries(kind))
    skills = [skill.name for skill in pools["III"].skills]
    for (stage, name), endpoint in asked.items():
        if isinstance(endpoint, Endpoint):
            with named(stage, name.split(".")[0], f"{name}: "):
                host(endpoint.base_url).check(endpoint.model, skills, list(pools["III"].topics))
                check_price(endpoint, grade.budget)
    for name, sweep in variants.sweeps.items():
        if others := set(sweep.settings or ()) - set(grade.settings):
            with named("shared", "sweeps", f"sweeps: {name}: "):
                raise UserError(
                    f"setting {', '.join(sorted(others))} is none of 03_grade's settings"
                )
    for p in notebooks.values():
        if isinstance(p, Finetune):
            is_main = mix_of(model_of(p.variant)) in variants.mixes
            key = "mixes" if is_main else "sweeps"
            with named("shared", key, f"mix of {p.variant}: "):
                check_mix(p, generate)
            checked(topology.Settings, read_yaml(ROOT / p.topology), where=p.topology)
    with named("03_grade", "server"):
        check_price(grade.server, grade.budget)
        server.check(grade.serve, grade.server, grade.temperature)
    with named("04_plot", "claims"):
        check_claims(notebooks["04_plot"].claims, grade, notebooks)
    with named("04_plot", "figures"):
        check_figures(notebooks["04_plot"].figures, grade.profile)


def check_claims(claims: list[Claim], grade: Grade, notebooks: dict[str, Parameters]) -> None:
    """Check that each claim's setting and k are asked for, and its models graded there.

    Args:
        grade: how models that are part of no sweep are graded.
    """
    graded = [p for p in notebooks.values() if isinstance(p, Grade)]
    for claim in claims:
        pair = f"claims: {claim.model} over {claim.against}"
        if claim.apart and not grade.pairs_apart:
            raise UserError(f"{pair} is of pairs kept apart, and pairs_apart is 0")
        if claim.setting not in grade.settings or set(claim.k) - set(grade.evaluation_ks):
            raise UserError(
                f"{pair}, setting {claim.setting}, k = {claim.k}, is of more than is asked,"
                f" settings {grade.settings} and k = {grade.evaluation_ks}"
            )
        if claim.apart and not any(asked_apart(grade, claim.setting, k) for k in claim.k):
            raise UserError(
                f"{pair} is of pairs kept apart, and no query of k = {claim.k} in setting"
                f" {claim.setting} has all its pairs apart; take k: [2]"
            )
        for p in graded:
            model = model_of(p.variant)
            is_its = mix_of(model) in (claim.model, claim.against)
            if is_its and claim.setting not in p.settings:
                raise UserError(
                    f"{pair} is of setting {claim.setting}, and {model} is graded in"
                    f" {', '.join(p.settings)} alone"
                )


def asked_apart(grade: Grade, setting: str, k: int) -> int:
    """How many evaluation queries of several skills have all their pairs kept apart."""
    n, pool = grade.evaluation_queries, grade.pools()[setting]
    queries = evaluation_queries(pool, k, n, seed=grade.seed, setting=setting)
    pairs = k * (k - 1) // 2
    return sum(count_apart(query.names, grade.pairs_apart) == pairs > 0 for query in queries)


def check_mix(p: Finetune, generate: Generate) -> None:
    """Check that a mix takes no more texts, or pairs of skills, than 01_generate makes."""
    if "chats" in p.mix:
        return
    for kind, amount in p.mix.items():
        part, made = part_of(amount), generate.texts.get(kind, 0)
        if (n := part["texts"] - below_in(part)) > made:
            raise UserError(
                f"{n} texts of k = {kind} are asked for, and 01_generate makes {made}, as its"
                " texts says"
            )
        names = [skill.name for skill in generate.pools()["I"].skills]
        shown = sets_together(tuple(names), 2, generate.pairs_apart)
        if (pairs := part.get("pairs", 0)) > shown:
            raise UserError(f"{pairs} pairs of skills are asked for, and {shown} may be shown")


def feasibility(p: Generate) -> pd.DataFrame:
    """Are there enough queries for the texts?

    Returns:
        One row a k. Columns: k; distinct (queries of training skills and topics); reserved (for the
        evaluation; none at k = 1, where there are too few to reserve any); left (for training,
        without pairs of skills that are kept apart); texts (wanted); texts a query; note (a warning
        where texts will be much alike).
    """
    pool, avoid = p.pools()["I"], p.reserved()
    reserved = Counter(len(skills) for _, skills in avoid)
    rows = []
    for kind, texts in p.texts.items():
        k, things = counts_of(kind)
        if not things:  # with things there are queries without number
            left = left_for_training(pool, k, avoid=avoid, pairs_apart=p.pairs_apart)
            rows.append((k, pool.distinct(k), reserved[k], left, texts))
    table = pd.DataFrame(sorted(rows), columns=["k", "distinct", "reserved", "left", "texts"])
    share = table.texts / table.left
    notes = {True: f"more than {THIN} texts a query: many will be alike", False: ""}
    return table.assign(**{"texts a query": share.round(2), "note": (share > THIN).map(notes)})


def check_figures(folder: str, profile: str) -> None:
    """Check that no other profile draws to the same folder."""
    owners = [folder.split("/")[1]] if folder.startswith("runs/") else []
    for other in names():
        # Mistakes in another profile are not this one's.
        with contextlib.suppress(UserError):
            if folder == read_yaml(ROOT / f"params/{other}/04_plot.yaml").get("figures"):
                owners.append(other)
    for owner in set(owners) - {profile}:
        raise UserError(f"figures = {folder} is where profile {owner} keeps its own; leave it out")
