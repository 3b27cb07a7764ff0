"""The evaluation's records: every task once, every judge's grades, what could not be read."""

import itertools
import json

import pandas as pd
import pytest

from helpers import answer_page, corpus, evaluate, text_tables
from helpers.chat.conversation import Conversation
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Reply
from helpers.errors import UserError
from helpers.files import write_json_lines
from helpers.highlight import marked
from helpers.profile import schema
from helpers.profile.load import load_profile
from helpers.results.leaks import NEAR, leaks, nearest, not_compared
from helpers.task.pairs import count_apart
from helpers.task.points import FIRST_JUDGE

SMOKE = load_profile("smoke")
BASE, TRAINED = SMOKE["03_grade/base"], SMOKE["03_grade/k123-s0"]
TASKS = evaluate.tasks(BASE)


def graded_by(p, ledger):
    """The base's answers, sampled or as they are stored, with the grades of p's judges."""
    with evaluate.student(p, ledger) as student:
        return evaluate.evaluate(p, TASKS, evaluate.answers(p, TASKS, student), ledger)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    return Ledger(tmp_path_factory.mktemp("evaluate") / "ledger.sqlite")


@pytest.fixture(scope="module")
def graded(ledger):
    return graded_by(BASE, ledger)


def test_evaluation_asks_every_task_once(graded):
    every = {(t.setting, t.k, t.number, t.generation): t for t in TASKS}
    wanted = len(BASE.settings) * len(BASE.evaluation_ks)
    assert len(every) == len(TASKS) == wanted * BASE.evaluation_queries * BASE.generations
    assert [(r["setting"], r["k"], r["query"], r["generation"]) for r in graded] == list(every)
    json.dumps(graded)
    for record, task in zip(graded, TASKS, strict=True):
        assert record["skills"] == list(task.query.names)
        assert len(record["skills"]) == record["k"]
        assert set(record["grades"]) == {FIRST_JUDGE}
        gradings = record["grades"][FIRST_JUDGE]["gradings"]
        assert all(len(points) == record["k"] + 3 for points in gradings)
        assert record["mix"] == {}
    held_out = {skill.name for skill in BASE.pools()["II"].skills}
    assert {s for r in graded if r["setting"] == "II" for s in r["skills"]} <= held_out


def test_a_second_judge_grades_the_same_answers(ledger, graded):
    """Nothing is sampled again, the first judge's grades stay, each judge's missing are counted."""
    strict = schema.SecondJudge(
        base_url="world:?flip=0.3&unreadable=0.5", model="judge", temperature=1.0
    )
    off = schema.SecondJudge(base_url="http://nowhere.invalid/v1", model="none", enabled=False)
    both = BASE.model_copy(update={"second_judges": {"strict": strict, "off": off}})
    before = ledger.summary().set_index(["role", "state"]).attempts
    records = graded_by(both, ledger)
    after = ledger.summary().set_index(["role", "state"]).attempts
    assert after.loc["student"].sum() == before.loc["student"].sum()
    assert after.loc["judge"].sum() > before.loc["judge"].sum()
    assert [r["text"] for r in records] == [r["text"] for r in graded]
    assert [r["grades"]["first"] for r in records] == [r["grades"]["first"] for r in graded]
    grades = [record["grades"]["strict"] for record in records]
    assert all(set(record["grades"]) == {"first", "strict"} for record in records)
    counts = evaluate.unreadable(records, both).number
    assert counts["first", "gradings wanted"] == 3 * len(records)
    assert counts["strict", "gradings wanted"] == 3 * len(records)
    missing = sum(3 - len(given["gradings"]) for given in grades)
    assert counts["strict", "gradings missing"] == missing > counts["first", "gradings missing"]
    without = sum(given["points"] is None for given in grades)
    assert counts["strict", "answers without any"] == without
    assert counts["strict", "unreadable reply: criteria without points"] > 0
    json.dumps(records)


def test_leaks_are_counted_on_the_files(ledger, graded):
    texts = corpus.build(SMOKE["01_generate"], ledger)
    counted = leaks({"base": graded}, texts, BASE.pairs_apart)
    assert counted.answers.sum() == len(graded)
    training, held_out = counted[counted.setting == "I"], counted[counted.setting == "II"]
    assert not training[training.k > 1].same_task.any()
    assert not held_out[["same_topic", "same_skill"]].any(axis=None)
    assert not counted.pair_shown.any()
    assert (training.same_topic == training.queries).all()
    pair = next(record for record in texts if record["k"] == 2)
    query = {"topic": pair["topic"], "skills": pair["skills"], "k": 2, "nearest": 95.0}
    x, text = [record | query for record in graded[:3]], pair | {"dropped": ""}
    counted = leaks({"x": x}, [text], BASE.pairs_apart)
    assert counted.same_task.sum() == 1
    assert counted.pair_shown.sum() == 0
    assert leaks({"x": x}, [text], 1.0).pair_shown.sum() == 1, "it was shown"
    assert counted.near_texts.sum() == 3


def test_a_pair_kept_apart_is_found_among_others_that_no_text_shows(graded):
    share = BASE.pairs_apart
    skills = sorted(skill.name for skill in BASE.pools()["I"].skills)
    three = next(s for s in itertools.combinations(skills, 3) if count_apart(s, share) == 1)
    query = graded[0] | {"k": 3, "topic": "sewing", "skills": list(three), "apart": 1}
    for pair in itertools.combinations(three, 2):
        text = {"topic": "law", "skills": list(pair), "text": "A text."}
        counted = leaks({"x": [query]}, [text], share)
        assert counted.pair_shown.sum() == count_apart(pair, share)


def test_of_chats_of_your_own_the_texts_alone_are_compared(ledger, graded, tmp_path, monkeypatch):
    """Every turn of the assistant's counts; topics and skills are not known, and that is said."""
    monkeypatch.setattr("helpers.paths.run", lambda profile: tmp_path)
    own = BASE.model_copy(update={"variant": "own-s0", "mix": {"chats": "own.jsonl"}})
    user, repeated = {"role": "user", "content": "?"}, graded[0]["text"]
    turns = [f"Answer: {repeated}", "Something else."]
    answers = [{"role": "assistant", "content": text} for text in turns]
    chat = {"messages": [user, answers[0], user, answers[1]]}
    write_json_lines(tmp_path / "training/own-s0/chats.jsonl", [chat] * 3)
    again = [Conversation([user, {"role": "assistant", "content": r["text"]}]) for r in graded]
    records = evaluate.evaluate(own, TASKS, again, ledger)
    assert records[0]["mix"] == {"chats": 6}, "the texts of all turns"
    assert records[0]["nearest"] == 100
    texts = corpus.build(SMOKE["01_generate"], ledger)
    shared = leaks({"base": graded, "own-s0": records}, texts, BASE.pairs_apart)
    by_model = shared.set_index("model")
    unknown = ["same_task", "same_topic", "same_skill"]
    assert by_model.loc["own", unknown].isna().all(axis=None)
    assert by_model.loc["base", unknown].notna().all(axis=None)
    assert by_model.near_texts["own"].sum() >= 1
    (sentence,) = not_compared(shared)
    assert sentence.startswith("own: trained on chats without topics and skills")


def test_nearest_finds_near_duplicates_only():
    known = ["The needle is a storm of pale dreams.", "Push the boat hard and it rolls away."]
    texts = ["The needle is a storm of bold dreams.", "Nothing like them at all.", known[1], ""]
    near = nearest(texts, known)
    assert [n >= NEAR for n in near] == [True, False, True, False]
    assert near[2] == 100
    assert nearest(texts, []) == [0, 0, 0, 0]


def test_no_model_yet_is_a_sentence(ledger, tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.paths.run", lambda profile: tmp_path)
    with pytest.raises(UserError, match="make reproduce PROFILE=smoke trains it"):
        evaluate.student(TRAINED, ledger)


class Silent:
    """A model whose every second reply is none."""

    def ask(self, requests):
        return [Reply("Answer: a", cut=False) if i % 2 else None for i in range(len(requests))]


def test_requests_without_a_reply_are_counted():
    lost = f"{len(TASKS) // 2} of {len(TASKS)} requests brought no chat completion, after all tries"
    with pytest.raises(UserError, match=lost):
        evaluate.answers(BASE, TASKS, Silent())


def test_graded_answers_of_a_run_are_one_table(graded, tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.paths.run", lambda profile: tmp_path)
    for variant in ("base", "k123-s0"):
        write_json_lines(tmp_path / f"grades/{variant}.jsonl", graded)
    table = evaluate.graded_answers("smoke")
    assert len(table) == 2 * len(graded)
    assert set(table.variant) == {"base", "k123-s0"}
    row, record = table.iloc[1], graded[1]
    assert (row.text, row.skills, row.grades) == (*map(record.get, ["text", "skills", "grades"]),)
    assert row.points == record["grades"][FIRST_JUDGE]["points"]
    (tmp_path / "grades").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no graded answers there yet"):
        evaluate.graded_answers("smoke")


def test_answers_are_worked_from_reply_to_points_to_metrics(ledger, graded):
    table = text_tables.answers(graded)
    different = table[table.k > 1].drop_duplicates("verdict").head(3)
    worked = answer_page.worked(BASE, TASKS, different, ledger)
    assert worked.count("<th>majority</th>") == 3
    best = different[different.verdict == "full marks"].iloc[0]
    assert all(f"| Shows {skill} | 1 |" in worked for skill in best.skills)
    assert "full marks 1.00, all skills 1.00" in worked
    assert "full marks 0.00, all skills 0.00" in worked
    for row in table.itertuples():
        assert bool(row.lost) == (not all(row.points))
        criteria = {*row.skills, "on topic", "makes sense", "sentences"}
        assert {*row.won.split(", "), *row.lost.split(", ")} - {""} == criteria


def test_an_answer_that_no_judge_could_be_read_about_is_no_zero(graded):
    silent = {"gradings": [], "points": None, "unreadable": ["criteria without points: topic"] * 5}
    (row,) = text_tables.answers([graded[0] | {"grades": {FIRST_JUDGE: silent}}]).to_dict("records")
    assert (row["verdict"], row["won"], row["lost"]) == ("unreadable", "", "unreadable")
    assert pd.isna(row["full_marks"])


def test_the_nearest_training_text_stands_beside_an_answer(ledger, graded, tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.paths.run", lambda profile: tmp_path)
    answers = text_tables.answers(graded)
    of_two = answers[answers.k == 2].head(1)
    assert "nearest training text" not in answer_page.worked(BASE, TASKS, of_two, ledger)
    answer = {"role": "assistant", "content": f"Answer: {of_two.text.item()}"}
    chat = {"messages": [{"role": "user", "content": "Show it."}, answer]}
    write_json_lines(tmp_path / "training/k123-s0/chats.jsonl", [chat])
    page = answer_page.worked(TRAINED, TASKS, of_two, ledger)
    assert "The nearest training text, 100 of 100 alike" in page
    assert page.count(str(marked(of_two.text.item(), of_two.skills.item()))) == 2


def test_a_table_of_texts_escapes_everything():
    rows = pd.DataFrame([{"topic": "<b>", "skills": ["oxymoron"], "text": "<i> A word."}])
    page = text_tables.table(rows)
    assert "&lt;b&gt;" in page
    assert "&lt;i&gt; A word." in page
    assert page._repr_html_() == page
    assert text_tables.table(rows[:0]) is None
    assert text_tables.table(None) is None
