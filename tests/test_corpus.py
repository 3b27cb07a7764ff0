"""D(k): what is kept and why the rest is dropped, resuming, mixes; the evaluation's records and the leak check."""

import itertools
import json

import pytest

from helpers import corpus, evaluate
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.errors import UserError
from helpers.profile import load, schema
from helpers.task.catalog import evaluation_queries, training_queries
from helpers.world import detectors

SMOKE = load.load("smoke")
GENERATE, GRADE = SMOKE["01_generate"], SMOKE["03_grade/k123-s0"]
BASE = SMOKE["03_grade/base"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    ledger = Ledger(tmp_path_factory.mktemp("corpus") / "l.sqlite")
    return corpus.build(GENERATE, ledger), ledger


def test_as_many_as_wanted_all_with_full_marks(built):
    records, _ = built
    kept = [r for r in records if not r["dropped"]]
    assert {k: sum(r["k"] == int(k) for r in kept) for k in GENERATE.texts} == GENERATE.texts
    assert all(all(r["points"]) and len(r["points"]) == r["k"] + 3 for r in kept)
    assert len({r["text"] for r in kept}) == len(kept)
    assert {r["dropped"] for r in records} > {"", "skill missing"}, "the filter had nothing to do"
    for r in records:
        assert [m["role"] for m in r["messages"]] == ["user", "assistant"] * 2, "two turns"
        assert r["messages"][-1]["content"] == f"Answer: {r['text']}"


def test_full_marks_are_nearly_always_true(built):
    """The judge errs at 2% a criterion; a text with full marks shows its skills but for that."""
    kept = [r for r in built[0] if not r["dropped"]]
    wrong = [r for r in kept if not all(detectors.shows(s, r["text"]) for s in r["skills"])]
    assert len(wrong) <= 0.05 * len(kept)


def test_training_and_evaluation_are_apart(built):
    pools, records = GENERATE.pools(), built[0]
    assert {s for r in records for s in r["skills"]} <= {s.name for s in pools["I"].skills}
    assert {r["topic"] for r in records} <= set(pools["I"].topics)
    for k in (2, 3):
        held = {
            q.identity
            for q in evaluation_queries(
                pools["I"], k, GENERATE.evaluation_queries, seed=0, setting="I"
            )
        }
        assert not {(r["topic"], frozenset(r["skills"])) for r in records if r["k"] == k} & held


def test_again_asks_nothing_and_gives_the_same(built):
    records, ledger = built
    before = ledger.summary().attempts.sum()
    assert corpus.build(GENERATE, ledger) == records
    assert ledger.summary().attempts.sum() == before


def test_a_repeated_query_is_asked_as_a_new_question(tmp_path):
    """One skill, one topic: only replicates tell the texts apart, and none is kept twice."""
    pool = GENERATE.pools()["I"]
    one = type(pool)(pool.skills[:1], pool.topics[:1])
    queries = training_queries(one, 1, seed=0, avoid=set())
    endpoints = {"teacher": GENERATE.teacher, "judge": GENERATE.judge}
    records = corpus.write_texts(
        queries,
        12,
        200,
        GENERATE.pack(),
        ledger=Ledger(tmp_path / "l.sqlite"),
        gradings=1,
        seen=set(),
        **endpoints,
    )
    kept = [r["text"] for r in records if not r["dropped"]]
    assert len(kept) == len(set(kept)) == 12


def test_a_text_of_another_k_is_not_kept_again(tmp_path):
    """D(1) and D(2) share no text, even where the judge errs and takes one of D(1)'s for two skills."""
    pool, seen = GENERATE.pools()["I"], {"The rook is no small matter."}
    one = type(pool)(tuple(s for s in pool.skills if s.name == "litotes"), ("chess",))
    queries = training_queries(one, 1, seed=0, avoid=set())
    endpoints = {
        "teacher": Endpoint(base_url="world:?drop=0&overrun=0&stray=0", model="teacher"),
        "judge": GENERATE.judge,
    }
    settings = {"ledger": Ledger(tmp_path / "l.sqlite"), "gradings": 1, "seen": seen}
    records = corpus.write_texts(queries, 10, 60, GENERATE.pack(), **settings, **endpoints)
    again = [r["dropped"] for r in records if r["text"] == "The rook is no small matter."]
    assert corpus.DUPLICATE in again
    assert "" not in again


def test_a_spent_budget_ends_the_asking(tmp_path):
    never = Endpoint(base_url="world:?stray=1", model="teacher")
    queries = training_queries(GENERATE.pools()["I"], 2, seed=0, avoid=set())
    ledger = Ledger(tmp_path / "l.sqlite")
    judge = Endpoint(base_url="world:?flip=0", model="judge")
    records = corpus.write_texts(
        queries,
        5,
        20,
        GENERATE.pack(),
        teacher=never,
        judge=judge,
        ledger=ledger,
        gradings=1,
        seen=set(),
    )
    assert len(records) == 20
    assert {r["dropped"] for r in records} <= {"off topic", "several faults"}


def test_unreadable_grades_are_their_own_outcome(tmp_path):
    silent = Endpoint(base_url="world:?unreadable=1", model="judge")
    queries = training_queries(GENERATE.pools()["I"], 2, seed=0, avoid=set())
    ledger = Ledger(tmp_path / "l.sqlite")
    records = corpus.write_texts(
        queries,
        5,
        10,
        GENERATE.pack(),
        teacher=GENERATE.teacher,
        judge=silent,
        ledger=ledger,
        gradings=1,
        seen=set(),
    )
    assert {r["dropped"] for r in records} == {"grade unreadable"}
    assert all(r["points"] is None for r in records)


def test_why_dropped():
    assert corpus.why_dropped((1, 1, 1, 1, 1)) == ""
    assert (
        corpus.why_dropped((1, 0, 1, 1, 1))
        == corpus.why_dropped((0, 0, 1, 1, 1))
        == "skill missing"
    )
    assert corpus.why_dropped((1, 1, 0, 1, 1)) == "off topic"
    assert corpus.why_dropped((1, 1, 1, 0, 1)) == "makes no sense"
    assert corpus.why_dropped((1, 1, 1, 1, 0)) == "too many sentences"
    assert corpus.why_dropped((1, 0, 1, 1, 0)) == "several faults"
    assert corpus.why_dropped(None) == "grade unreadable"


def test_mixes_take_the_first_texts_of_each_k(built):
    records, _ = built
    one, two = (corpus.training_chats(records, {1: 5, 3: 2}, turns=turns) for turns in (1, 2))
    assert len(one) == len(two) == 7
    assert [len(c["messages"]) for c in one] == [2] * 7
    assert [len(c["messages"]) for c in two] == [4] * 7
    first = next(r for r in records if not r["dropped"])
    assert one[0]["messages"] == [first["messages"][0], first["messages"][-1]]
    with pytest.raises(UserError, match="41 texts of k = 1 asked for, and the corpus holds 40"):
        corpus.training_chats(records, {1: 41}, turns=1)


def test_json_lines_are_whole_or_missing(tmp_path):
    path = tmp_path / "a/rows.jsonl"
    with pytest.raises(UserError, match="not there yet; run 01_generate first"):
        corpus.read_json_lines(path, made_by="01_generate")
    corpus.write_json_lines(path, [{"a": "ü"}, {"b": 1}])
    assert corpus.read_json_lines(path, made_by="x") == [{"a": "ü"}, {"b": 1}]
    with pytest.raises(TypeError):
        corpus.write_json_lines(path, [{"a": 1}, {"b": object()}])
    assert len(corpus.read_json_lines(path, made_by="x")) == 2, (
        "the old file stands when writing fails"
    )


@pytest.fixture(scope="module")
def graded(built):
    with evaluate.student(BASE, built[1]) as student:
        return evaluate.evaluate(BASE, evaluate.answers(BASE, student), built[1])


def test_evaluation_asks_every_task_once(graded):
    tasks = list(
        itertools.product(
            BASE.settings,
            BASE.evaluation_ks,
            range(BASE.evaluation_queries),
            range(BASE.generations),
        )
    )
    assert [(r["setting"], r["k"], r["query"], r["generation"]) for r in graded] == tasks
    json.dumps(graded)
    for r in graded:
        assert len(r["skills"]) == r["k"]
        assert set(r["grades"]) == {schema.FIRST}
        assert all(len(points) == r["k"] + 3 for points in r["grades"][schema.FIRST]["gradings"])
        assert r["mix"] == {}
    pools = BASE.pools()
    assert {s for r in graded if r["setting"] == "II" for s in r["skills"]} <= {
        s.name for s in pools["II"].skills
    }


def test_a_second_judge_grades_the_same_answers(built, graded):
    """Nothing is sampled again, the first judge's grades stay as they were, and what is missing is counted for each judge."""
    ledger = built[1]
    strict = schema.SecondJudge(
        base_url="world:?flip=0.3&unreadable=0.5", model="judge", temperature=1.0
    )
    off = schema.SecondJudge(base_url="http://nowhere.invalid/v1", model="none", enabled=False)
    both = BASE.model_copy(update={"second_judges": {"strict": strict, "off": off}})
    before = ledger.summary().set_index(["stage", "state"]).attempts
    with evaluate.student(both, ledger) as student:
        answers = evaluate.answers(both, student)
    records = evaluate.evaluate(both, answers, ledger)
    after = ledger.summary().set_index(["stage", "state"]).attempts
    assert after.loc["student"].sum() == before.loc["student"].sum()
    assert after.loc["judge"].sum() > before.loc["judge"].sum()
    assert [r["text"] for r in records] == [r["text"] for r in graded]
    assert [r["grades"]["first"] for r in records] == [r["grades"]["first"] for r in graded]
    assert {name for r in records for name in r["grades"]} == {"first", "strict"}
    counts = evaluate.unreadable(records, both).number
    assert (
        counts["first", "gradings wanted"]
        == counts["strict", "gradings wanted"]
        == 3 * len(records)
    )
    missing = sum(3 - len(r["grades"]["strict"]["gradings"]) for r in records)
    assert counts["strict", "gradings missing"] == missing > counts["first", "gradings missing"]
    assert counts["strict", "answers without any"] == sum(
        r["grades"]["strict"]["points"] is None for r in records
    )
    assert counts["strict", "unreadable reply: no points for"] > 0
    json.dumps(records)


def test_rules_of_grading_reach_the_corpus(tmp_path):
    counted = {}
    for counter in ("reference", "sentencex"):
        p = GENERATE.model_copy(update={"sentence_counter": counter, "texts": {"1": 1}})
        seen = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(
                corpus.grade.__globals__["COUNTERS"],
                counter,
                lambda text, seen=seen: seen.append(text) or 1,
            )
            corpus.build(p, Ledger(tmp_path / f"{counter}.sqlite"))
        counted[counter] = len(seen)
    assert all(counted.values()), "the counter that was named is the one that counts"


def test_leaks_are_counted_on_the_files(built, graded):
    found = evaluate.leaks({"base": graded}, built[0])
    assert found.answers.sum() == len(graded)
    assert not found[(found.setting == "I") & (found.k > 1)].same_task.any()
    assert not found[found.setting == "II"][["same_topic", "same_skill"]].any(axis=None)
    assert (found[found.setting == "I"].same_topic == found[found.setting == "I"].queries).all()
    leaked = [
        dict(r, topic=built[0][60]["topic"], skills=built[0][60]["skills"], k=2, nearest=95.0)
        for r in graded[:3]
    ]
    found = evaluate.leaks({"x": leaked}, [dict(r, dropped="") for r in built[0]])
    assert found.same_task.sum() == 1
    assert found.near_texts.sum() == 3


def test_nearest_finds_near_duplicates_only():
    known = ["The needle is a storm of pale dreams.", "Push the boat hard and it rolls away."]
    texts = ["The needle is a storm of bold dreams.", "Nothing like them at all.", known[1], ""]
    near = evaluate.nearest(texts, known)
    assert [n >= evaluate.NEAR for n in near] == [True, False, True, False]
    assert near[2] == 100
    assert evaluate.nearest(texts, []) == [0, 0, 0, 0]


def test_no_model_yet_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.paths.run", lambda profile: tmp_path)
    with pytest.raises(
        UserError, match="no model there yet; run 02_finetune for variant k123-s0 first"
    ):
        evaluate.student(GRADE, Ledger(tmp_path / "l.sqlite"))
