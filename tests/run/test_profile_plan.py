"""`make plan`: what is left of a profile, with totals, and one line a mix."""

import shutil

import numpy as np
import pandas as pd
import pytest

from helpers import paths
from helpers.profile.load import load_profile
from helpers.profile.yaml_files import names
from helpers.run import profile_plan, reruns


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs of all profiles in a folder of the test's own."""
    monkeypatch.setattr(paths, "run", lambda profile: tmp_path / profile)
    return tmp_path


@pytest.mark.parametrize("name", names())
def test_a_plan_needs_nothing(name, run, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    profile_plan.main(name)
    printed = capsys.readouterr().out
    assert ("01_generate" in printed) == (name != "evaluate")
    assert "03_grade" in printed
    assert "minutes of asking" in printed
    assert "unknown" not in printed
    assert len(printed.splitlines()) < 60, "a screen"
    if name == "mini-full":  # main ones; those of sweeps, in one setting and by one judge alone
        assert [f"answers of {n} models" in printed for n in (26, 42)] == [True] * 2
        assert printed.count("judge lenient: ") == 1
        assert "(1,200 texts of k = 1, 100 texts of k = 2 from 9 pairs of skills)" in printed
    if name == "mini":
        assert "all that is asked is free." in printed
        assert "\n  3 x helpers/world/weights/three, 100 steps" in printed


def test_what_has_run_with_the_parameters_of_today_is_done(run, capsys):
    notebooks = load_profile("smoke")
    reruns.write_parameters("smoke", notebooks)

    def ran(*done):
        for name in done:
            (run / f"smoke/{name}.ipynb").parent.mkdir(parents=True, exist_ok=True)
            (run / f"smoke/{name}.ipynb").write_text("{}")
        profile_plan.main("smoke")
        return capsys.readouterr().out

    printed = ran("01_generate", "03_grade/base")
    assert "3 of 5 notebooks are left" in printed
    assert "teacher, k" not in printed
    assert "of 1 model x" in printed
    assert "Nothing is left to ask." in ran(*notebooks)
    shutil.rmtree(run / "smoke/params")
    assert "teacher, k" in ran()


def test_totals_leave_out_what_is_not_known():
    unknown = [np.nan, np.nan]
    rows = [([1, 2], [3, 4]), ([5, 5], unknown), (unknown, [1, 1])]
    table = pd.DataFrame(rows, columns=["minutes", "dollars"])
    line = profile_plan.totals(table, None)
    assert "Together 6 to 7 minutes of asking, 4.00 to 5.00 US dollars" in line
    assert "without what is not known; no budget: spending is not limited." in line
    assert line not in profile_plan.totals(table, 2000.0)
    assert "; budget 2,000.00." in profile_plan.totals(table, 2000.0)
