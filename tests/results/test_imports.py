"""Drawing from `scores.csv` takes neither the network nor torch."""

import subprocess
import sys

import grimp
import pytest

from helpers.paths import ROOT

MODULES = (
    "scores findings plots sweep_plots figure_style lost_points lost_points_plots agreement leaks"
).split()


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("helpers", cache_dir=None)


@pytest.mark.parametrize("module", MODULES)
def test_they_reach_no_room_that_asks_or_trains(graph, module):
    reached = graph.find_upstream_modules(f"helpers.results.{module}")
    assert "helpers.task.points" in reached or module == "leaks", "grimp sees what is imported"
    rooms = {name.split(".")[1] for name in reached}
    assert not rooms & {"chat", "student", "training", "judge", "world", "profile", "run"}


def test_they_import_neither_torch_nor_a_client():
    modules = ", ".join(f"helpers.results.{module}" for module in MODULES)
    code = f"import sys, {modules}; print({{'torch', 'openai', 'transformers'}} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stdout + run.stderr
