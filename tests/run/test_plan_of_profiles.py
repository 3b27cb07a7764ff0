"""`make plan` of the profiles there are: without a key, a corpus or a model."""

import re
import shutil

import pytest

from helpers import paths
from helpers.paths import ROOT
from helpers.profile import load
from helpers.run import plan
from helpers.task.points import FIRST_JUDGE


@pytest.fixture
def profile():
    """A copy of the smoke profile to change; gone afterwards."""
    folder = ROOT / "params/plan-for-test"
    shutil.copytree(ROOT / "params/smoke", folder, dirs_exist_ok=True)
    yield folder
    shutil.rmtree(folder)
    shutil.rmtree(paths.run(folder.name), ignore_errors=True)


@pytest.mark.parametrize("name", load.names())
def test_plan_needs_nothing(name, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(paths, "run", lambda profile: tmp_path / profile)
    plan.main(name)
    printed = capsys.readouterr().out
    assert "01_generate" in printed
    assert "US dollars" in printed


def test_plan_counts_what_is_left(profile, capsys):
    """A notebook counts as done once it has run with the parameters of today."""
    load.main(profile.name)

    def ran(*names):
        for name in names:
            path = paths.run(profile.name) / f"{name}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")

    def said():
        plan.main(profile.name)
        return capsys.readouterr().out

    assert "Done" not in said()
    ran("01_generate", "03_grade/base")
    left = said()
    assert "Done, and not counted below: 2 of 5 notebooks" in left
    assert "teacher, k = 1" not in left
    assert "of 1 models x 3 gradings" in left
    ran("02_finetune/k123-s0", "03_grade/k123-s0", "04_plot")
    assert "Nothing is left to ask." in said()
    grade = profile / "03_grade.yaml"
    grade.write_text(grade.read_text().replace("generations: 3", "generations: 2"))
    assert "of 2 models x 3 gradings" in said(), "with other parameters it is not done"


def test_plan_counts_the_papers_gradings():
    """3 settings, 4 k, 100 queries, 3 generations, 3 gradings, 4 models, 2 students: 86,400."""
    notebooks = load.load_profile("paper")
    grades = [p for name, p in notebooks.items() if name.startswith("03")]
    table = plan.plan_grade(grades[0], len(grades))
    assert sum(int(n.replace(",", "")) for n in table.requests) == 86_400


def test_a_second_judge_that_is_off_is_priced_apart(capsys):
    notebooks = load.load_profile("paper")
    grade = notebooks["03_grade/mistral-7b-base"]
    (other,) = grade.second_judges.values()
    assert not other.enabled
    assert other.base_url != grade.judge.base_url, "another maker's"
    assert set(grade.judges()) == {FIRST_JUDGE}
    plan.main("paper")
    said = capsys.readouterr().out
    assert re.search(
        rf"Not asked \(enabled: false\): second judge claude, {other.model}:"
        r" [\d,.]+ to [\d,.]+ US dollars more",
        said,
    )
    on = grade.model_copy(
        update={"second_judges": {"claude": other.model_copy(update={"enabled": True})}}
    )
    assert len(plan.plan_grade(on)) == 2 * len(plan.plan_grade(grade))
