"""`make plan` of the profiles there are: without a key, a corpus or a model."""

import re

from helpers.profile import load
from helpers.run import profile_plan
from helpers.task.points import FIRST_JUDGE


def test_plan_counts_the_papers_gradings():
    """3 settings, 4 k, 100 queries, 3 generations, 3 gradings, 4 models, 2 students: 86,400."""
    notebooks = load.load_profile("paper")
    grades = [p for name, p in notebooks.items() if name.startswith("03")]
    table = profile_plan.plan_grade(grades[0], models=len(grades))
    assert table.requests.sum().tolist() == [86_400, 86_400]


def test_a_second_judge_that_is_off_is_priced_apart(capsys):
    notebooks = load.load_profile("paper")
    grade = notebooks["03_grade/mistral-7b-base"]
    (other,) = grade.second_judges.values()
    assert not other.enabled
    assert other.base_url != grade.judge.base_url, "another maker's"
    assert set(grade.judges()) == {FIRST_JUDGE}
    profile_plan.main("paper")
    said = capsys.readouterr().out
    assert re.search(
        rf"Not asked: second judge claude, {other.model}:"
        r" [\d,.]+ to [\d,.]+ US dollars more",
        said,
    )
    on = grade.model_copy(
        update={"second_judges": {"claude": other.model_copy(update={"enabled": True})}}
    )
    assert len(profile_plan.plan_grade(on)) == 2 * len(profile_plan.plan_grade(grade))
