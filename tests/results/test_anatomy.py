"""Where points are lost: shares against counting by hand, products where the truth is known."""

import numpy as np
import pandas as pd
import pytest

from helpers.results import anatomy, anatomy_plots, scores
from helpers.task.points import Points

SKILLS = ("irony", "litotes", "metaphor", "simile", "straw man")


def answers(points_of, *, models=("base", "k12"), settings=("I",), ks=(1, 2, 3), queries=30):
    """A tidy table, two answers a query. `points_of(k, skills)` gives an answer's k + 3 points."""
    rng = np.random.default_rng(0)
    rows = []
    for setting in settings:
        for k in ks:
            for query in range(queries):
                skills = rng.permutation(SKILLS)[:k]
                for model in models:
                    for generation in range(2):
                        points = points_of(k, skills)
                        rows.append(
                            {
                                "model": model,
                                "kind": model,
                                "texts": 0,
                                "seed": 0,
                                "judge": "first",
                                "setting": setting,
                                "k": k,
                                "query": query,
                                "skills": "; ".join(skills),
                                "generation": generation,
                                "votes": "".join(str(int(point)) for point in points),
                                "full_marks": float(all(points)),
                            }
                        )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def independent_points():
    """Each skill's point with a chance of its own, topic, sense and sentences nearly always."""
    rng = np.random.default_rng(1)
    chance = dict(zip(SKILLS, (0.5, 0.6, 0.7, 0.8, 0.9), strict=True))

    def points_of(k, skills):
        return rng.random(k + 3) < [*(chance[skill] for skill in skills), 0.95, 0.95, 0.95]

    return answers(points_of, settings=("I", "II"), queries=100)


def test_what_is_missing_against_counting(independent_points):
    missing = anatomy.missing(independent_points)
    sums = missing.groupby(scores.CELL)["mean"].sum()
    assert sums.tolist() == pytest.approx([1] * len(sums))
    cell = independent_points.query("model == 'k12' and setting == 'I' and k == 3")
    more = "skill missing, and more"
    faults = []
    for votes in cell.votes:
        points = Points.of(list(map(int, votes)))
        both = "0" in votes[:3] and "0" in votes[3:]
        faults.append(more if both else points.fault() or "full marks")
    assert more in faults
    own = missing.query("model == 'k12' and setting == 'I' and k == 3").set_index("outcome")
    for outcome, row in own.iterrows():
        assert row["mean"] == pytest.approx(faults.count(outcome) / len(faults))
        assert row.low <= row["mean"] <= row.high
        assert row.queries == 100, "a query counts once"


def test_points_by_position_and_by_skill_against_counting(independent_points):
    cell = independent_points.query("model == 'base' and setting == 'II' and k == 3")
    positions = anatomy.skill_points(independent_points, "position")
    own = positions.query("model == 'base' and setting == 'II' and k == 3")
    assert own.position.tolist() == [1, 2, 3], "skills only"
    for row in own.itertuples():
        assert row.mean == pytest.approx(cell.votes.str[row.position - 1].astype(int).mean())
    skills = anatomy.skill_points(independent_points, "criterion").set_index(
        [*scores.CELL, "criterion"]
    )
    shown = []
    for row in cell.itertuples():
        names = row.skills.split("; ")
        if "litotes" in names:
            shown.append(int(row.votes[names.index("litotes")]))
    litotes = skills.loc[("base", "II", 3, "litotes")]
    assert litotes["mean"] == pytest.approx(np.mean(shown))
    assert litotes.queries == len(shown) / 2


def test_independent_points_give_their_product(independent_points):
    found = anatomy.independent(independent_points)
    for at, far in (("at_1", 0.16), ("at_k", 0.08)):  # 20 queries a skill at k = 1
        assert (found[f"{at}_low"] <= found[at]).all()
        assert (found[at] <= found[f"{at}_high"]).all()
        assert (found["mean"] - found[at]).abs().max() < far
        assert abs((found["mean"] - found[at]).mean()) < 0.05, "nothing is lost in combining"
    by_hand = anatomy.independent(answers(lambda k, skills: [k == 1] * k + [1] * 3, ks=(1, 2)))
    assert by_hand["at_1"].tolist() == [1] * 4
    assert by_hand.query("k == 2").at_k.tolist() == [0, 0]


def test_skills_that_displace_each_other_have_fewer_full_marks_than_their_product():
    rng = np.random.default_rng(2)

    def one_of_two(k, skills):
        return [1, 1, 1, 1] if k == 1 else [*rng.permutation([1, 0]), 1, 1, 1]

    found = anatomy.independent(answers(one_of_two, ks=(1, 2))).query("k == 2")
    assert found["mean"].tolist() == [0, 0]
    assert found.at_k.tolist() == pytest.approx([0.25, 0.25], abs=0.06)
    assert found.at_1.tolist() == [1, 1]


def test_skills_that_were_not_asked_for_alone_have_the_mean_rate():
    table = answers(lambda k, skills: [1] * (k + 3), ks=(1, 2), queries=40)
    alone = table[(table.k != 1) | (table.skills == "irony")]
    assert anatomy.independent(alone).at_1.tolist() == [1] * 4
    assert anatomy.independent(table[table.k > 1]).at_1.isna().all(), "without k = 1 there is none"


def test_answers_without_a_grading_are_left_out(independent_points):
    table = independent_points.copy()
    table.loc[table["query"] < 10, ["votes", "full_marks"]] = ["", np.nan]
    for found in (
        anatomy.missing(table),
        anatomy.skill_points(table, "position"),
        anatomy.independent(table),
    ):
        assert set(found.queries) == {90}


def test_the_figures_have_a_panel_a_model_and_setting(independent_points, tmp_path):
    here = {"caption": "in a test"}

    missing = anatomy.missing(independent_points)
    positions = anatomy.skill_points(independent_points, "position")
    skills = anatomy.skill_points(independent_points, "criterion")
    independent = anatomy.independent(independent_points)

    def figures():
        yield anatomy_plots.missing_by_k(missing, **here)
        yield anatomy_plots.points_by_position(positions, **here)
        yield anatomy_plots.points_by_skill(skills, **here)
        yield anatomy_plots.combining_by_k(independent, **here)

    for figure, again in zip(figures(), figures(), strict=True):
        assert len([axis for axis in figure.axes if axis.get_subplotspec()]) >= 4
        assert "in a test" in figure.caption
        assert "95% interval" in figure.caption
        for name, drawn in (("a.svg", figure), ("b.svg", again)):
            drawn.savefig(tmp_path / name, metadata={"Date": None})
        assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_two_students_have_rows_of_panels(independent_points):
    two = pd.concat(
        independent_points.assign(model=student + "-" + independent_points.model)
        for student in ("five", "three")
    )
    figure = anatomy_plots.points_by_position(
        anatomy.skill_points(two, "position"), caption="in a test"
    )
    assert len(figure.axes) == 2 * 2 * 2
    labels = [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]
    assert labels == [f"{s}, setting {i}" for s in ("five", "three") for i in ("I", "II")]


def test_gradings_that_differ_are_listed_with_their_votes():
    place = {"setting": "I", "k": 2, "generation": 0, "judge": "first", "gradings": 3}
    rows = []
    for query, votes in enumerate(("11111 11111 11111", "11111 10111 11101")):
        rows.append({**place, "query": query, "skills": "metaphor; simile", "votes": votes})
    table = pd.DataFrame(rows)
    differing = anatomy.not_unanimous(table)
    assert differing[["query", "criterion", "votes"]].to_numpy().tolist() == [
        [1, "simile", "1 0 1"],
        [1, "makes sense", "1 1 0"],
    ]
