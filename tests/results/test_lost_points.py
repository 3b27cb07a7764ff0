"""Where points are lost: shares against counting by hand, products where the truth is known."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb, to_rgba

from helpers.results import figure_style, findings, lost_points, lost_points_plots, scores
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
                                "apart": 0,
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
    missing = lost_points.missing(independent_points)
    sums = missing.groupby(scores.CELL)["mean"].sum()
    assert sums.tolist() == pytest.approx([1] * len(sums))
    cell = independent_points.query("model == 'k12' and setting == 'I' and k == 3")
    more = lost_points.SKILL_AND_MORE
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
    positions = lost_points.skill_points(independent_points, "position")
    own = positions.query("model == 'base' and setting == 'II' and k == 3")
    assert own.position.tolist() == [1, 2, 3], "skills only"
    for row in own.itertuples():
        assert row.mean == pytest.approx(cell.votes.str[row.position - 1].astype(int).mean())
    skills = lost_points.skill_points(independent_points, "criterion").set_index(
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


def independent(table, name) -> pd.DataFrame:
    """`lost_points.independent`: full marks as `seen` beside those of one kind of rates."""
    found = lost_points.independent(table).set_index([*scores.CELL, "full marks"])
    rates = found.xs(name, level="full marks")
    return rates.assign(seen=found["mean"].xs("full marks", level="full marks"))


def test_independent_points_give_their_product(independent_points):
    for name, far in (
        (lost_points.ALONE, 0.16),
        (lost_points.SAME_K, 0.08),
    ):  # 20 queries a skill at k = 1
        found = independent(independent_points, name)
        assert (found.low <= found["mean"]).all()
        assert (found["mean"] <= found.high).all()
        assert (found.seen - found["mean"]).abs().max() < far
        assert abs((found.seen - found["mean"]).mean()) < 0.05, "nothing is lost in combining"
    by_hand = answers(lambda k, skills: [k == 1] * k + [1] * 3, ks=(1, 2))
    assert independent(by_hand, lost_points.ALONE)["mean"].tolist() == [1] * 4
    assert independent(by_hand, lost_points.SAME_K).query("k == 2")["mean"].tolist() == [0, 0]


def test_skills_that_displace_each_other_have_fewer_full_marks_than_their_product():
    rng = np.random.default_rng(2)

    def one_of_two(k, skills):
        return [1, 1, 1, 1] if k == 1 else [*rng.permutation([1, 0]), 1, 1, 1]

    table = answers(one_of_two, ks=(1, 2))
    found = independent(table, lost_points.SAME_K).query("k == 2")
    assert found.seen.tolist() == [0, 0]
    assert found["mean"].tolist() == pytest.approx([0.25, 0.25], abs=0.06)
    assert independent(table, lost_points.ALONE).query("k == 2")["mean"].tolist() == [1, 1]


def test_skills_that_were_not_asked_for_alone_have_the_mean_rate():
    table = answers(lambda k, skills: [1] * (k + 3), ks=(1, 2), queries=40)
    alone = table[(table.k != 1) | (table.skills == "irony")]
    assert independent(alone, lost_points.ALONE)["mean"].tolist() == [1] * 4
    without = lost_points.independent(table[table.k > 1])
    assert lost_points.ALONE not in set(without["full marks"]), "without k = 1 there is none"


def test_answers_without_a_grading_are_left_out(independent_points):
    table = independent_points.copy()
    table.loc[table["query"] < 10, ["votes", "full_marks"]] = ["", np.nan]
    for found in (
        lost_points.missing(table),
        lost_points.skill_points(table, "position"),
        lost_points.independent(table),
    ):
        assert set(found.queries) == {90}


def test_the_figures_have_a_panel_a_model_and_setting(independent_points, tmp_path):
    here = {"caption": "in a test"}

    missing = lost_points.missing(independent_points)
    positions = lost_points.skill_points(independent_points, "position")
    skills = lost_points.skill_points(independent_points, "criterion")
    independent = lost_points.independent(independent_points)

    def figures():
        yield lost_points_plots.missing_by_k(missing, **here)
        yield lost_points_plots.points_by_position(positions, **here)
        yield lost_points_plots.points_by_skill(skills, **here)
        yield lost_points_plots.combining_by_k(independent, **here)

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
    figure = lost_points_plots.points_by_position(
        lost_points.skill_points(two, "position"), caption="in a test"
    )
    assert len(figure.axes) == 2 * 2 * 2
    labels = [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]
    assert labels == [f"base {s},\nsetting {i}" for s in ("five", "three") for i in ("I", "II")]


def test_several_faults_have_one_name_that_says_whether_a_skill_is_among_them(independent_points):
    missing = lost_points.missing(independent_points)
    assert lost_points.SKILL_AND_MORE.startswith("several faults")
    words = "Several faults (skill missing): a skill and something else."
    assert words in lost_points_plots.missing_by_k(missing, caption="").caption
    figure = lost_points_plots.missing_by_k(missing, caption="")
    edges = {bar.get_edgecolor() for axis in figure.axes for bar in axis.patches}
    assert edges == {to_rgba("white")}, "green and blue are alike in grey"
    without = missing[missing.outcome != lost_points.SKILL_AND_MORE]
    assert "Several faults" not in lost_points_plots.missing_by_k(without, caption="").caption


def test_points_that_are_lost_together_are_said_to_lie_above_the_line():
    """As where an answer without its skill lacks sense, too: full marks are over the product."""
    rng = np.random.default_rng(3)

    def all_or_nothing(k, skills):
        shown = rng.random() < 0.5
        return [shown] * k + [1, shown, 1]

    table = lost_points.independent(answers(all_or_nothing, ks=(1,)))
    of = table.groupby("full marks")["mean"].mean()
    assert of["full marks"] > of[lost_points.SAME_K] + 0.1
    assert of[lost_points.SAME_K] == of[lost_points.ALONE], "the same at k = 1"
    words = lost_points_plots.combining_by_k(table, caption="in a test").caption
    assert "of the dash-dotted one, in skills displacing each other. Above it, points" in words
    assert "At k = 1 the two are the same." in words
    lines = lost_points_plots.STYLE
    assert lines["k12"][2] == (0, (6, 1.5, 1, 1.5)), "dash-dotted, as the caption says"
    assert lines["base"][2] == (0, (1, 1.5)), "dotted"


FIVE = ("base", "k1", "k12", "k123", "padded")


def test_numbers_and_heads_of_the_skills_can_be_read_and_do_not_touch(independent_points):
    one = independent_points[independent_points.model == "base"]
    five = pd.concat([one.assign(model=name) for name in FIVE])
    skills = lost_points.skill_points(five, "criterion")
    figure = lost_points_plots.points_by_skill(skills, caption="in a test")
    figure.draw_without_rendering()
    panels = [axis for axis in figure.axes if axis.texts]
    for axis in panels:
        for row in axis.get_yticklabels(), axis.texts:
            assert all(text.get_fontsize() >= 6 for text in row)
        cell = axis.get_window_extent().width / 3  # k = 1, 2, 3
        assert all(text.get_window_extent().width < cell for text in axis.texts)
    heads = [axis.title.get_window_extent() for axis in panels if axis.get_title()]
    assert len(heads) == 5
    for left, right in itertools.pairwise(heads):
        assert left.x1 + 3 < right.x0
    titles = [axis.get_title() for axis in panels if axis.get_title()]
    assert titles[3:] == ["D(1) + D(2)\n+ D(3)", "D(1) padded\n(control)"]


def test_the_heat_map_says_what_a_cell_without_a_number_is(independent_points):
    skills = lost_points.skill_points(independent_points, "criterion")
    figure = lost_points_plots.points_by_skill(skills, caption="in a test")
    fewest, most = skills.queries.min(), skills.queries.max()
    assert "is narrower than 50 points; no number: wider." in figure.caption
    assert f"over {fewest} to {most} queries alone, not over training seeds" in figure.caption
    assert "White" not in figure.caption
    never = skills[(skills.criterion != "irony") | (skills.k != 2)]
    figure = lost_points_plots.points_by_skill(never, caption="in a test")
    assert "White: not asked for." in figure.caption


def test_a_k_looks_alike_in_every_figure_and_unlike_the_next_one():
    """In grey, too."""
    greys = []
    for colour, _ in figure_style.OF_K:
        red, green, blue = to_rgb(colour)
        greys.append(0.299 * red + 0.587 * green + 0.114 * blue)
    assert all(abs(a - b) > 0.1 for a, b in itertools.pairwise(greys))
    assert len({marker for _, marker in figure_style.OF_K}) == len(figure_style.OF_K)
    assert figure_style.look_of(2)["label"] == "k = 2"
    assert figure_style.look_of(8)["color"] == figure_style.look_of(1)["color"]


def test_a_place_that_only_one_k_has_is_a_marker_with_its_interval(independent_points):
    positions = lost_points.skill_points(independent_points, "position")
    figure = lost_points_plots.points_by_position(positions, caption="in a test")
    for axis in figure.axes:
        of_one = axis.lines[0]
        assert (of_one.get_label(), of_one.get_linestyle()) == ("k = 1", "None")
        bars = [c for c in axis.collections if isinstance(c, LineCollection)]
        assert len(bars) == 1


def test_models_are_drawn_in_the_order_given(independent_points):
    """Rows of students and columns of models, whatever their names and usual colours."""
    given = independent_points.replace({"model": {"base": "k12", "k12": "a"}})
    two = pd.concat(given.assign(model=f"{student}-" + given.model) for student in ("z", "b"))
    for figure in (
        lost_points_plots.missing_by_k(lost_points.missing(two), caption="in a test"),
        lost_points_plots.points_by_skill(
            lost_points.skill_points(two, "criterion"), caption="in a test"
        ),
    ):
        titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
        assert titles == ["D(1) + D(2)", "a"]
        places = [axis.get_ylabel() for axis in figure.axes if "setting" in axis.get_ylabel()]
        assert places == [f"base {student},\nsetting {i}" for student in "zb" for i in ("I", "II")]


def test_what_single_skills_do_is_told_with_its_numbers_and_no_cause():
    """k1 stops after one skill more often, or shows all: more full marks, not more skills."""
    number = iter(range(10_000))

    def base(k, skills):
        return [1, *[next(number) % 5 > 0] * (k > 1), *[0] * (k - 2), 1, 1, 1]

    def k1(k, skills):
        return [1, *[next(number) % 3 == 0] * (k - 1), 1, 1, 1]

    models = {"base": base, "k1": k1}
    tables = [answers(points, models=(name,), queries=300) for name, points in models.items()]
    table = pd.concat(tables).assign(texts=0)
    verdicts = findings.findings(table)
    words = " ".join(lost_points.single_skills(table, verdicts).split())
    for row in verdicts.itertuples():
        gain = f"{row.gain:+.2f} [{row.low:+.2f}, {row.high:+.2f}] ({row.verdict})"
        assert f"At k = {row.k} the gain is {gain}. In single answers of base and k1" in words
    assert "(does not hold)" in words
    assert "(holds)" in words
    assert "exactly one skill is shown in 0.20 and 0.67" in words
    assert "the one named last 0.00 and 0.33;" in words
    assert words.count("full marks are higher though not more skills are shown") == 1
    assert words.index("At k = 3") < words.index("full marks are higher")
    assert "Why is not tested here." in words
    turned = table.replace({"model": {"base": "k1", "k1": "base"}})
    words = lost_points.single_skills(turned, findings.findings(turned))
    assert "not more skills" not in words, "it is said only where it is so"
    without = table[table.model == "base"]
    assert "No model" in lost_points.single_skills(without, findings.findings(without))


def test_gradings_that_differ_are_listed_with_their_votes():
    place = {"model": "k1", "seed": 0, "setting": "I", "k": 2, "generation": 0, "judge": "first"}
    rows = []
    for query, votes in enumerate(("11111 11111 11111", "11111 10111 11101")):
        rows.append({**place, "query": query, "skills": "metaphor; simile", "votes": votes})
    table = pd.DataFrame(rows)
    differing = lost_points.not_unanimous(table)
    assert differing[["query", "criterion", "votes"]].to_numpy().tolist() == [
        [1, "simile", "1 0 1"],
        [1, "makes sense", "1 1 0"],
    ]
