"""The README's numbers come from the committed scores and from the plan."""

import itertools
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from transformers import AutoModelForCausalLM

from helpers.paths import ROOT
from helpers.profile import load
from helpers.results import agreement, findings, scores
from helpers.run import plan, profile_plan
from helpers.task.pairs import count_apart

README = (ROOT / "README.md").read_text()
PAGES = "\n".join(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))
PROSE = " ".join(PAGES.split())  # wherever its lines end
NUMBER = re.compile(r"[+-]?\d\.\d\d \[.*?\]")  # with its interval


@pytest.fixture(scope="module")
def table():
    return scores.read_csv(ROOT / "figures/scores.csv")


def test_tables_are_those_of_the_committed_scores():
    for markdown in findings.readme_tables(ROOT / "figures/scores.csv"):
        assert markdown in PAGES, "python -m helpers.results.findings prints the tables"


def test_its_own_numbers_stand_in_the_tables(table):
    verdicts = findings.findings(table, findings.with_own([]))
    unclaimed = findings.headline(findings.exploratory(table, verdicts)).to_csv()
    shown = unclaimed + "".join(findings.readme_tables(ROOT / "figures/scores.csv"))
    numbers = NUMBER.findall(README)
    assert numbers
    for number in numbers:
        assert number in shown, number


def test_its_table_is_full_marks_of_setting_one(table):
    means = scores.summary(table).set_index(["setting", "model", "k"])["mean"]["I"].unstack()
    rows = re.findall(r"^\| (\w+|.*`\w+`) ((?:\| \d\.\d\d )+)\|$", README, re.M)
    shown = {re.findall(r"\w+", name)[-1]: re.findall(r"[\d.]+", cells) for name, cells in rows}
    assert shown == {name: list(map("{:.2f}".format, row)) for name, row in means.iterrows()}


def test_single_answers_to_four_skills_are_as_readme_and_lecture_say(table):
    rows = table[(table.setting == "I") & (table.k == 4)]
    of = rows.groupby("model").full_marks.agg(["sum", "size", "mean"])
    few = [f"`{m}` in {of['sum'][m]:.0f} of {of['size'][m]}" for m in ("base", "padded")]
    assert f"{of['mean']['k123']:.0%}".replace("%", " of a hundred, ") + ", ".join(few) in PROSE
    words = f"those of single answers from {of['mean']['base']:.2f} to {of['mean']['k123']:.2f}"
    assert words in README


def test_its_first_request_is_answered_as_it_says(table):
    asked = table[(table.setting == "I") & (table.k == 4) & (table.seed == 0)]
    first = asked[asked["query"] == asked["query"].min()].set_index("model").full_marks
    assert first["k123"].tolist() == [0, 1, 1], "its second and third have full marks"
    assert not first["base"].any()


def test_how_many_pairs_are_kept_apart():
    generate = load.load_profile("mini")["01_generate"]
    names = [skill.name for skill in generate.pools()["I"].skills]
    pairs = [*itertools.combinations(names, 2)]
    apart = [pair for pair in pairs if count_apart(pair, generate.pairs_apart)]
    words = f"{len(apart)} of the {len(pairs)} pairs of training skills"
    assert words in README
    assert words.replace("of the", "of its") in PROSE


def test_its_pairs_kept_apart_are_those_of_the_scores(table):
    apart = scores.by_pairs(table)["kept apart"]
    k123, control, base = (apart[model][:4] for model in ("k123", "padded", "base"))
    assert "(32 queries)" in apart["k123"]
    words = f"`k123` has {k123}, the control {control}, the base {base} |"
    assert f"on the 32 queries of k = 2 that ask for such a pair {words}" in README


def test_what_is_said_of_mini_full_is_what_its_scores_say():
    path = ROOT / "figures/mini-full/scores.csv.gz"
    claims = load.load_profile("mini-full")["04_plot"].claims
    tables = findings.readme_tables(path, claims)
    assert tables[2] in PAGES
    of_second_base = PROSE.partition("## A second base")[2].partition(" # ")[0]
    numbers = NUMBER.findall(of_second_base)
    assert len(numbers) > 3
    for number in numbers:
        assert number in "".join(tables), number
    table = scores.read_csv(path)
    swapped = agreement.swap(table)
    assert f"{swapped.survives.sum()} of {len(swapped)} verdicts stay" in PROSE
    skills = agreement.agreement(table).set_index("criterion").loc["all skills"]
    assert (
        f"{skills.agreement:.0%} of the skills' points (Cohen's kappa {skills.kappa:.2f};"
        f" n = {skills.n:,})" in PROSE
    )
    five = (
        scores.summary(table)
        .set_index(["model", "setting", "k"])["mean"]
        .xs(("I", 5), level=["setting", "k"])
    )
    assert (
        f"reaches {five['five-k123']:.2f} at k = 5 in setting I, from {five['five-base']:.0f}."
        in PROSE
    )
    verdicts = findings.findings(table, findings.with_own(claims)).query("own").verdict
    assert f"{(verdicts == 'holds').sum()} of {len(verdicts)} gains hold" in PROSE
    changed = swapped[~swapped.survives]
    assert (changed[["first verdict", "verdict"]] == "undecided").any(axis="columns").all(), (
        "None is turned round, docs/results.md says"
    )
    counts = changed["first verdict"].value_counts()
    assert counts.to_dict() == {"does not hold": 5, "holds": 4, "undecided": 3}, (
        "docs/results.md says in words how many"
    )
    last = changed.query("model == 'three-k123' and against == 'three-k12' and k == 5").squeeze()
    assert (last["first verdict"], last.verdict) == ("undecided", "holds"), (
        "README and docs/results.md say what the correction for two bases does"
    )


def test_committed_scores_are_those_of_the_mini_profile(table):
    notebooks = load.load_profile("mini")
    grade = notebooks["03_grade/base"]
    assert set(table.model + table.seed.map("-s{}".format).where(table.model != "base", "")) == set(
        notebooks["04_plot"].graded
    )
    assert set(table.setting) == set(grade.settings)
    assert set(table.k) == set(grade.evaluation_ks)
    assert (
        table.groupby(["model", "seed", "setting", "k"])["query"].nunique()
        == grade.evaluation_queries
    ).all()
    assert (table.groupby(scores.KEY).generation.nunique() == grade.generations).all()


def test_its_models_are_a_profiles(copied):
    shared = copied("evaluate", "readme-for-test") / "shared.yaml"
    (snippet,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    values = yaml.safe_load(shared.read_text()) | yaml.safe_load(snippet)
    shared.write_text(yaml.safe_dump(values))
    assert {"03_grade/sol", "03_grade/granite"} < set(load.load_profile("readme-for-test"))


def test_it_fits_on_its_lines():
    assert len(README.splitlines()) <= 120


def test_size_and_cost():
    base = load.load_profile("mini")["03_grade/base"].checkpoint()
    weights = AutoModelForCausalLM.from_pretrained(base).num_parameters()
    assert f"{weights / 1e6:.2f} million parameters" in README
    notebooks = load.load_profile("paper")
    grades = [p for name, p in notebooks.items() if name.startswith("03")]
    parts = [
        plan.plan_generate(notebooks["01_generate"]),
        profile_plan.plan_grade(grades[0], models=len(grades)),
    ]
    dollars = pd.concat(parts).dollars.sum()
    assert "{:,.0f} to {:,.0f} US dollars".format(*dollars) in PROSE


def test_what_it_names_is_there():
    for path in re.findall(r"`((?:helpers|params|figures|notebooks|tests|docs)/[\w./-]+)`", README):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), target
    for module in Path(ROOT / "helpers").glob("*.py"):
        assert module.name == "__init__.py" or module.name in README, (
            f"{module.name} is missing from the tree"
        )
