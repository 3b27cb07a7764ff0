"""The manifest: a line for every stage that was executed, failed ones too, and no secret in it."""

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import nbformat
import pytest

from helpers import paths
from helpers.chat.ledger import Ledger
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.run import manifest
from tests.faults.server import Server

PROFILE = "manifest-for-test"
SECRET = "sk-MARKED-0123456789abcdef"

ASKING = """
from pathlib import Path
from helpers import paths
from helpers.chat.client import ask
from helpers.chat.endpoint import Endpoint
from helpers.chat.replies import Request
from helpers.chat.ledger import Ledger
where = Endpoint(base_url=url, model="gpt-6-luna", key_env="TEST_KEY")
ledger = Ledger(paths.ledger(profile))
questions = [f"question {i} of {count}" for i in range(count)]
requests = [Request([{"role": "user", "content": question}]) for question in questions]
ask(requests, where, ledger, role="judge")
ledger.summary()
"""


@pytest.fixture
def lines():
    def read():
        return manifest.read(PROFILE)

    shutil.rmtree(paths.run(PROFILE), ignore_errors=True)
    yield read
    shutil.rmtree(paths.run(PROFILE), ignore_errors=True)


def stage(folder, source, *, name="n", **parameters):
    cells = [
        nbformat.v4.new_code_cell(s)
        for s in (f'profile: str = "{PROFILE}"\nurl: str = ""\ncount: int = 0', source)
    ]
    cells[0].metadata["tags"] = ["parameters"]
    notebook = nbformat.v4.new_notebook(
        cells=cells,
        metadata={"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}},
    )
    nbformat.write(notebook, folder / f"{name}.ipynb")
    (folder / f"{name}.yaml").write_text(json.dumps({"profile": PROFILE, **parameters}))
    command = [
        sys.executable,
        "-m",
        "helpers.run.stage",
        folder / f"{name}.ipynb",
        folder / f"{name}.yaml",
        folder / f"out/{name}.ipynb",
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_every_stage_leaves_a_line_with_what_it_asked_and_cost(tmp_path, lines, monkeypatch):
    monkeypatch.setenv("TEST_KEY", SECRET)
    with Server() as server, Server(faults={"401": 1}) as refusing, ThreadPoolExecutor(4) as pool:
        done = [  # at once: each line counts its own stage's requests
            pool.submit(stage, tmp_path, ASKING, name=f"s{n}", url=server.url, count=n)
            for n in (3, 5)
        ]
        failed = [
            pool.submit(stage, tmp_path, ASKING, name="refused", url=refusing.url, count=9),
            pool.submit(stage, tmp_path, f"raise ValueError('{SECRET}')", name="broken"),
        ]
        for result in done:
            assert result.result().returncode == 0, result.result().stderr
        assert [result.result().returncode for result in failed] == [1, 1]
    # A stage's kernel is killed; its ledger is one file again all the same.
    assert not list(paths.run(PROFILE).glob("ledger.sqlite-*"))
    first, second, third, fourth = sorted(
        lines(), key=lambda line: ["s3", "s5", "refused", "broken"].index(line["notebook"])
    )
    assert [x["state"] for x in (first, second, third, fourth)] == [
        "done",
        "done",
        "failed",
        "failed",
    ]
    assert "the key in TEST_KEY was refused" in third["sentence"]
    assert fourth["sentence"] == "ValueError"
    for x, n in ((first, 3), (second, 5)):
        (asked,) = x["asked"]
        assert (asked["role"], asked["model"], asked["state"]) == ("judge", "gpt-6-luna", "replied")
        assert asked["attempts"] == n
        assert (asked["prompt_tokens"], asked["completion_tokens"]) == (7 * n, n)
        assert asked["dollars"] == pytest.approx(n * (7 * 0.10 + 0.50) / 1e6, abs=1e-6)
    assert third["asked"][0]["state"] == "HTTP 401"
    assert third["asked"][0]["dollars"] == 0
    assert fourth["asked"] == []
    for x in lines():
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", x["started"])
        assert x["seconds"] > 0
        assert x["versions"]["python"].startswith("3.")
        assert x["versions"]["openai"] in (ROOT / "requirements.txt").read_text()
        assert None not in x["versions"].values()
        assert x["machine"]["cores"] >= 1
        assert x["machine"]["processor"]
    everything = [
        p for folder in (tmp_path, paths.run(PROFILE)) for p in folder.rglob("*") if p.is_file()
    ]
    holders = [p.name for p in everything if b"MARKED" in p.read_bytes()]
    assert set(holders) == {"broken.ipynb", "broken.partial.ipynb"}, (
        "only the notebook that says it itself"
    )


def test_outside_of_git_and_without_gpus(lines, monkeypatch):
    monkeypatch.setattr(manifest, "output_of", lambda *program: None)
    manifest.note(PROFILE, "r", notebook="n", started=0.0, state="interrupted")
    (line,) = lines()
    assert (line["commit"], line["machine"]["gpus"], line["asked"]) == (None, [], [])


def test_an_unknown_price_is_null(lines, monkeypatch):
    monkeypatch.setenv("STAGE_RUN", "r")
    ledger = Ledger(paths.ledger(PROFILE))
    ledger.replied(
        ledger.begin("k", endpoint="http://a", model="m", role="judge", replicate=0, body={}), b""
    )
    manifest.note(PROFILE, "r", notebook="n", started=0.0, state="done")
    manifest.note(PROFILE, "another", notebook="n", started=0.0, state="done")
    asked, nothing = (line["asked"] for line in lines())
    assert nothing == []
    assert [(row["attempts"], row["dollars"]) for row in asked] == [(1, None)]


def test_verify_names_what_is_gone_or_another(lines, capsys):
    """Of the last run of each stage that was done; a notebook that is no stage makes nothing."""
    for path, text in (
        (paths.split(PROFILE), "s"),
        (paths.corpus(PROFILE), "old"),
        (paths.grades(PROFILE, "base"), "g"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def note(stage, variant="", state="done"):
        made = manifest.results(stage, {"profile": PROFILE, "variant": variant})
        manifest.note(
            PROFILE,
            "r",
            notebook=" ".join(filter(None, [stage, variant])),
            started=0.0,
            state=state,
            made=made,
        )

    note("01_generate")
    paths.corpus(PROFILE).write_text("new")
    note("01_generate")
    note("03_grade", "base")
    note("03_grade", "gone", state="failed")
    assert manifest.results("explore", {"profile": PROFILE}) == []
    manifest.main(PROFILE)
    assert "3 files are as the stages made them" in capsys.readouterr().out
    paths.corpus(PROFILE).write_text("old")
    paths.grades(PROFILE, "base").unlink()
    with pytest.raises(UserError) as error:
        manifest.main(PROFILE)
    assert f"runs/{PROFILE}/grades/base.jsonl, which 03_grade base made, is gone" in str(
        error.value
    )
    assert f"runs/{PROFILE}/corpus.jsonl, which 01_generate made, was changed" in str(error.value)
    with pytest.raises(UserError, match="nothing has run under PROFILE=never"):
        manifest.main("never")


@pytest.mark.parametrize(
    "other",
    [
        '{"started": "20',  # half a line, of a killed stage
        "[]",
        "null",
        '"done"',
        "{}",
        '{"notebook": "a", "state": "done", "made": [], "asked": []}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_line_that_no_stage_wrote_is_left_out_and_said(lines, capsys, other):
    manifest.note(PROFILE, "r", notebook="a", started=0.0, state="done")
    with open(paths.manifest(PROFILE), "a") as file:
        file.write(f"\n{other}")
    manifest.note(PROFILE, "r", notebook="b", started=0.0, state="done")
    assert [line["notebook"] for line in manifest.read(PROFILE)] == ["a", "b"]
    assert "line 3 is damaged and left out" in capsys.readouterr().err
