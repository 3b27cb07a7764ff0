"""The kept texts leave as a data set of the hub, and a data set comes in as texts to train on."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from helpers import corpus, dataset, paths
from helpers.chat.ledger import Ledger
from helpers.errors import UserError
from helpers.files import write_json_lines
from helpers.profile.load import load_profile
from helpers.run import reruns
from helpers.task.queries import evaluation_queries
from helpers.training import own_chats

SMOKE = load_profile("smoke")["01_generate"].model_copy(update={"texts": {"1": 6, "2": 4}})
PADDED = SMOKE.model_copy(
    update={
        "texts": {"1": 6, "2": 4, "1+2": 3},
        "things": "params/catalog/miniature/things.csv",
    }
)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.sqlite")


@pytest.fixture
def made(ledger, tmp_path, monkeypatch):
    """The corpus and its folder."""
    monkeypatch.setattr("helpers.paths.run", lambda profile: tmp_path)
    records = corpus.build(PADDED, ledger)
    return records, dataset.write(PADDED, records, dollars=0.0)


def front_matter(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_every_kept_text_leaves_with_its_points(made):
    records, folder = made
    front = front_matter(folder)
    assert front["license"] == "mit"
    assert front["size_categories"] == ["n<1K"]
    names = {"1": "D1", "2": "D2", "1+2": "D1+2"}
    assert [config["config_name"] for config in front["configs"]] == list(names.values())
    for kind, config in zip(names, front["configs"], strict=True):
        (file,) = config["data_files"]
        table = pd.read_json(folder / file["path"], lines=True)
        good = [r for r in records if r["kind"] == kind and not r["dropped"]]
        assert table.text.tolist() == [record["text"] for record in good]
        assert table.messages.tolist() == [record["messages"] for record in good]
        assert table.points.map(all).all()
        assert set(table.split) == {"train"}
        assert set(table.teacher) == {"teacher"}


def test_the_hubs_own_library_reads_it(made, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the datasets library is not installed")
    records, folder = made
    cache = str(tmp_path / "cache")
    assert datasets.get_dataset_config_names(str(folder)) == ["D1", "D2", "D1+2"]
    for kind in PADDED.texts:
        rows = datasets.load_dataset(str(folder), f"D{kind}", split="train", cache_dir=cache)
        good = [r for r in records if r["kind"] == kind and not r["dropped"]]
        assert rows["text"] == [record["text"] for record in good]
        assert rows[0]["messages"] == good[0]["messages"]
        again = own_chats.read({"chats": str(folder), "config": f"D{kind}", "split": "train"})
        assert again == [{"messages": record["messages"]} for record in good]
    monkeypatch.chdir(folder)
    lines = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(lines, names := {})
    assert names["texts"].num_rows == sum(r["kind"] == "1" and not r["dropped"] for r in records)


def test_other_texts_have_another_card_so_that_no_cache_takes_them_for_these(made):
    records, folder = made
    before = front_matter(folder)["configs"]
    dataset.write(PADDED, records[1:], dollars=0.0)
    changed = [old != new for old, new in zip(before, front_matter(folder)["configs"], strict=True)]
    assert changed == [True, False, False]


def test_the_card_is_one_that_the_hub_can_read(made):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.DatasetCard.load(made[1] / "README.md")
    assert card.data.language == ["en"]
    assert "Prompts" in card.text
    assert "a small program of templates, no language model" in card.text


def test_nothing_is_said_of_a_teacher_or_judge_that_is_not_ours(made):
    elsewhere = PADDED.judge.model_copy(update={"base_url": "http://127.0.0.1:8000/v1"})
    for change in ({"teacher": elsewhere, "judge": elsewhere}, {"corpus": "a", "judge": elsewhere}):
        assert "small program" not in dataset.card(PADDED.model_copy(update=change), made[0], 0.0)


def test_an_unknown_price_is_said_to_be_unknown(made):
    assert "an unknown number of US dollars" in dataset.card(PADDED, made[0], float("nan"))


def test_a_kind_that_is_gone_leaves_no_file(made):
    records, folder = made
    dataset.write(SMOKE, records, dollars=0.0)
    assert sorted(path.name for path in folder.glob("*.jsonl")) == ["D1.jsonl", "D2.jsonl"]


@pytest.mark.parametrize("grades", ["judge", "claimed"])
def test_what_left_comes_back_as_a_corpus(made, ledger, grades):
    """The judge gives it the same marks again, without a new question; the teacher is not asked."""
    records, folder = made
    own = PADDED.model_copy(update={"corpus": str(folder), "corpus_grades": grades})
    before = ledger.summary().attempts.sum()
    again = corpus.build(own, ledger)
    assert ledger.summary().attempts.sum() == before
    assert again == [record for record in records if not record["dropped"]]


@pytest.mark.slow
@pytest.mark.parametrize("grades", ["judge", "claimed"])
def test_the_notebook_runs_with_texts_that_all_have_full_marks(copied, tmp_path, grades):
    rows = []
    for kind in ("1", "2", "3"):
        p = SMOKE.model_copy(update={"texts": {kind: 3}})
        rows += corpus.build(p, Ledger(tmp_path / "ledger.sqlite"))
    write_json_lines(tmp_path / "own.jsonl", [row for row in rows if not row["dropped"]])
    folder = copied("smoke", "own-for-test")
    for stage, values in (
        ("shared", {"mixes": {"k123": {"1": 3, "2": 3, "3": 3}}}),
        (
            "01_generate",
            {
                "texts": {"1": 3, "2": 3, "3": 3},
                "corpus": str(tmp_path / "own.jsonl"),
                "corpus_grades": grades,
            },
        ),
    ):
        file = folder / f"{stage}.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | values))
    reruns.main(folder.name)
    run = paths.run(folder.name)
    arguments = ["notebooks/01_generate.ipynb", run / "params/01_generate.yaml", run / "01.ipynb"]
    command = [sys.executable, "-m", "helpers.run.stage", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(paths.ROOT)}
    done = subprocess.run(command, cwd=paths.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(paths.corpus(folder.name).read_text().splitlines()) == 9


def test_claimed_marks_and_repeats_are_looked_at(made, ledger, tmp_path):
    good = [record for record in made[0] if record["kind"] == "1" and not record["dropped"]]
    poor = dict(good[1], points=[0, 1, 1, 1])
    silent = {name: good[2][name] for name in ("topic", "skills", "messages")}
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (good[0], good[0], poor, silent)))
    p = SMOKE.model_copy(
        update={"corpus": str(file), "corpus_grades": "claimed", "texts": {"1": 9}}
    )
    dropped = [record["dropped"] for record in corpus.build(p, ledger)]
    assert dropped == ["", "full marks, duplicate", "skill missing", ""]


def test_no_answer_to_an_evaluation_query_is_taken(made, ledger, tmp_path):
    (query, *_) = evaluation_queries(SMOKE.pools()["I"], 2, 8, seed=SMOKE.seed, setting="I")
    row = next(record for record in made[0] if record["k"] == 2)
    asked = dict(row, topic=query.topic, skills=list(query.names))
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps(asked))
    p = SMOKE.model_copy(update={"corpus": str(file), "corpus_grades": "claimed"})
    assert corpus.build(p, ledger) == []


def test_no_text_with_a_pair_kept_apart_is_taken_and_they_are_counted(made, tmp_path, capsys):
    rows = [record for record in made[0] if record["k"] == 2 and not record["dropped"]][:4]
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pool = SMOKE.pools()["I"]
    assert len(dataset.read(file, pool, pairs_apart=SMOKE.pairs_apart)) == 4
    assert capsys.readouterr().out == ""
    assert dataset.read(file, pool, pairs_apart=0.99) == []
    assert capsys.readouterr().out == (
        "4 texts of the corpus are left out: they show a pair of skills kept apart"
        " (pairs_apart = 0.99)\n"
    )


def test_texts_of_a_kind_that_is_not_asked_for_are_counted(made, ledger, tmp_path, capsys):
    records, folder = made
    p = SMOKE.model_copy(update={"corpus": str(folder), "texts": {"2": 5}})
    assert {record["kind"] for record in corpus.build(p, ledger)} == {"2"}
    n = {kind: sum(r["kind"] == kind and not r["dropped"] for r in records) for kind in "12"}
    said = f"{n['1']} texts of the corpus are left out: texts asks for none of k = 1\n"
    assert said in capsys.readouterr().out


GOOD = {
    "topic": SMOKE.pools()["I"].topics[0],
    "skills": ["simile"],
    "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "A text."}],
}

SILENT = {"role": "assistant", "content": "Answer:\nExplanation: none."}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"topic": None}, "line 2: topic: input should be a valid string"),
        ({"topic": "surfing"}, "topic surfing is none of the training topics"),
        ({"skills": ["zeugma"]}, "skill zeugma is none of the training skills"),
        ({"skills": ["modus ponens"]}, "skill modus ponens is none of the training skills"),
        ({"skills": []}, "skills: list should have at least 1 item"),
        ({"k": 2}, "the line: k = 2, and skills names 1"),
        ({"points": [1, 1]}, "2 points; k = 1 has 4"),
        ({"points": []}, "0 points; k = 1 has 4"),
        ({"messages": [GOOD["messages"][0], SILENT]}, "the line: the last message holds no text"),
        (
            {"messages": GOOD["messages"][:1] * 2},
            "the line: messages do not alternate",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_one_sentence(tmp_path, change, sentence):
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | change) + "\n")
    with pytest.raises(UserError, match=sentence) as raised:
        dataset.read(file, SMOKE.pools()["I"])
    assert "own.jsonl, line 2" in str(raised.value)


def test_no_rows_are_one_sentence(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.jsonl"):
        with pytest.raises(UserError, match="no such file, and no folder with"):
            dataset.read(path, SMOKE.pools()["I"])
    (tmp_path / "a.jsonl").write_text("no JSON")
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: the line: invalid json"):
        dataset.read(tmp_path, SMOKE.pools()["I"])


def test_the_folder_is_one_of_the_run():
    assert paths.dataset("smoke").relative_to(paths.run("smoke")).as_posix() == "dataset"
