"""The lines of docs/data.md that bring a run to pandas and back do what they say."""

import re
from pathlib import Path

import pytest

from helpers import corpus, dataset, paths
from helpers.chat.ledger import Ledger
from helpers.files import write_json_lines
from helpers.paths import ROOT
from helpers.profile.load import load_profile

PAGES = [(ROOT / page).read_text() for page in ("README.md", "docs/data.md")]
SMOKE = load_profile("smoke")["01_generate"].model_copy(update={"texts": {"1": 4, "2": 3}})
GRADES = {"gradings": [[1, 1, 1, 1]], "points": [1, 1, 1, 1], "unreadable": []}
ANSWER = {"k": 1, "topic": "sewing", "skills": ["simile"], "text": "A text."}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The corpus, ledger and one graded answer of a run; and the folder that one works in."""
    monkeypatch.setattr("helpers.paths.run", lambda profile: tmp_path)
    monkeypatch.chdir(tmp_path)
    records = corpus.build(SMOKE, Ledger(paths.ledger("mini")))
    write_json_lines(paths.corpus("mini"), records)
    write_json_lines(paths.grades("mini", "base"), [ANSWER | {"grades": {"first": GRADES}}])
    return records


def test_a_run_is_tables_and_a_table_a_corpus(run):
    names = {}
    for page in PAGES:
        (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
        exec(code, names)
    assert names["score"].between(0, 1).all()
    assert names["answers"].text[0] == "A text."
    assert names["texts"].text.tolist() == [record["text"] for record in run]
    asked = names["asked"]
    assert set(asked.role) == {"teacher", "judge"}
    last = run[-1]["messages"][-1]["content"]
    assert [last] in asked[asked.role == "teacher"].texts.tolist()
    kept = [record["topic"] for record in run if not record["dropped"]]
    own = dataset.read(Path("own.jsonl"), SMOKE.pools()["I"])
    assert [record["topic"] for record in own] == kept
