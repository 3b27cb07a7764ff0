"""The profile for one GPU or a laptop, from the texts to the report.

Its own parameters with other names and smaller numbers.
"""

import os
import re
import subprocess
import sys
import threading

import pytest
import yaml

from helpers import paths
from helpers.paths import ROOT
from helpers.profile.load import load_profile
from helpers.run import reruns
from helpers.world.endpoint import Rates, serve
from tests.toys import toy

SIZES = {
    "shared": {"training_topics": 10, "evaluation_queries": 3},
    "01_generate": {"texts": {"1": 24, "2": 24, "3": 24}},
    "02_finetune": {
        "steps": 6,
        "batch": 8,
        "warmup": 2,
        "learning_rate": 1.0e-2,
        "topology": "params/accelerate/cpu1.yaml",
    },
    "03_grade": {"new_tokens": 24, "generations": 2, "gradings": 1},
    "04_plot": {},
}


@pytest.fixture
def profile(copied, tmp_path):
    """`local` with the embedded world's server, catalog, pack, and a toy of its student."""
    folder = copied("local", "local-for-test")
    server = serve(0, Rates())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    texts = {
        stage: yaml.safe_load((folder / f"{stage}.yaml").read_text()) | sizes
        for stage, sizes in SIZES.items()
    }
    address = {"base_url": f"http://127.0.0.1:{server.server_address[1]}/v1"}
    shared = texts["shared"]
    shared["teacher"] = shared["teacher"] | address | {"model": "teacher"}
    shared["judge"] = shared["judge"] | address | {"model": "judge"}
    shared["students"] = {"granite-350m": toy(tmp_path / "granite", "granite")}
    shared["mixes"] = {"k1": {"1": 24}, "k123": {"1": 24, "2": 24, "3": 24}}
    shared |= {
        "skills": "params/catalog/miniature/skills.csv",
        "topics": "params/catalog/miniature/topics.txt",
    }
    shared |= {
        f"{turn}_prompts": f"params/prompts/{pack}/{turn}.json"
        for turn, pack in (("generation", "terse"), ("grading", "json"))
    }
    for stage, values in texts.items():
        assert set(values) == set(yaml.safe_load((folder / f"{stage}.yaml").read_text())), (
            "no key is added or left out"
        )
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(values))
    yield folder.name
    server.shutdown()


@pytest.mark.slow
def test_from_the_texts_to_the_report(profile):
    reruns.main(profile)
    run, environment = (
        paths.run(profile),
        {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    environment.pop("OPENAI_API_KEY", None)
    notebooks = list(load_profile(profile))
    assert len(notebooks) == 1 + 2 + 3 + 1
    for name in notebooks:
        source = ROOT / f"notebooks/{name.split('/')[0]}.ipynb"
        command = [
            sys.executable,
            "-m",
            "helpers.run.stage",
            source,
            run / f"params/{name}.yaml",
            run / f"{name}.ipynb",
        ]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    subprocess.run(
        [sys.executable, "-m", "helpers.run.report", profile], cwd=ROOT, env=environment, check=True
    )
    page = (run / "figures/report.html").read_text()
    assert re.search("our run with local models", page)
    graded = sorted(p.stem for p in (run / "grades").iterdir())
    assert graded == ["base", "k1-s0", "k123-s0"]
