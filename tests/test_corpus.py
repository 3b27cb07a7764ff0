"""D(k): what is kept and why the rest is dropped, resuming, mixes, the control's padded texts."""

import pandas as pd
import pytest

from helpers import corpus, paths
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.errors import UserError
from helpers.files import write_json_lines
from helpers.profile.load import load_profile
from helpers.task.catalog import Query
from helpers.task.pairs import count_apart
from helpers.task.points import COUNTERS, DUPLICATE, NOT_NEEDED
from helpers.task.prompts import criteria, fields
from helpers.task.queries import evaluation_queries, training_queries
from helpers.world import detectors

SMOKE = load_profile("smoke")
GENERATE, FINETUNE = SMOKE["01_generate"], SMOKE["02_finetune/k123-s0"]
FAULTLESS = Endpoint(base_url="world:?drop=0&overrun=0&stray=0", model="teacher")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    ledger = Ledger(tmp_path_factory.mktemp("corpus") / "ledger.sqlite")
    return corpus.build(GENERATE, ledger), ledger


@pytest.fixture
def write(tmp_path):
    """Asks for texts by the smoke profile, some of its parameters changed."""

    def write(queries, wanted, most, known=(), **changes):
        p = GENERATE.model_copy(update=changes)
        ledger = Ledger(tmp_path / "ledger.sqlite")
        return corpus.keep(p, queries, ledger, set(known), wanted=wanted, most=most)

    return write


def one_query(skill, topic):
    """The same query of one skill for ever."""
    pool = GENERATE.pools()["I"]
    skills = tuple(s for s in pool.skills if s.name == skill)
    return training_queries(type(pool)(skills, (topic,)), 1, seed=0, avoid=set())


def pairs():
    return training_queries(GENERATE.pools()["I"], 2, seed=0, avoid=set())


def kept(records):
    return [record for record in records if not record["dropped"]]


def test_as_many_as_wanted_all_with_full_marks(built):
    records, _ = built
    good = kept(records)
    assert {k: sum(r["k"] == int(k) for r in good) for k in GENERATE.texts} == GENERATE.texts
    assert all(all(r["points"]) and len(r["points"]) == r["k"] + 3 for r in good)
    assert len({r["text"] for r in good}) == len(good)
    assert {r["dropped"] for r in records} > {"", "skill missing"}, "the filter had nothing to do"
    for r in records:
        assert [m["role"] for m in r["messages"]] == ["user", "assistant"] * 2, "two turns"
        assert r["messages"][-1]["content"] == f"Answer: {r['text']}"


def test_full_marks_are_nearly_always_true(built):
    """The judge errs at 2% a criterion; a text with full marks shows its skills but for that."""
    good = kept(built[0])
    wrong = [r for r in good if not all(detectors.shows(s, r["text"]) for s in r["skills"])]
    assert len(wrong) <= 0.05 * len(good)


def test_training_and_evaluation_are_apart(built):
    pools, records = GENERATE.pools(), built[0]
    assert {s for r in records for s in r["skills"]} <= {s.name for s in pools["I"].skills}
    assert {r["topic"] for r in records} <= set(pools["I"].topics)
    assert not any(count_apart(r["skills"], GENERATE.pairs_apart) for r in records)
    for k in (2, 3):
        n = GENERATE.evaluation_queries
        held = {q.identity for q in evaluation_queries(pools["I"], k, n, seed=0, setting="I")}
        assert not {(r["topic"], frozenset(r["skills"])) for r in records if r["k"] == k} & held


def test_again_asks_nothing_and_gives_the_same(built):
    records, ledger = built
    before = ledger.summary().attempts.sum()
    assert corpus.build(GENERATE, ledger) == records
    assert ledger.summary().attempts.sum() == before


def test_a_repeated_query_is_asked_as_a_new_question(write):
    """One skill, one topic: only replicates tell the texts apart, and none is kept twice."""
    records = write(one_query("simile", "sewing"), 12, 200)
    texts = [record["text"] for record in kept(records)]
    assert len(texts) == len(set(texts)) == 12


def test_a_text_of_another_k_is_not_kept_again(write):
    """D(1) and D(2) share no text, even where the judge takes one of D(1)'s for two skills."""
    before = "The rook weeps with joy."
    records = write(
        one_query("personification", "chess"), 15, 60, known=[before], teacher=FAULTLESS
    )
    again = [record["dropped"] for record in records if record["text"] == before]
    assert DUPLICATE in again
    assert "" not in again


def test_a_good_text_too_many_is_not_needed(write):
    records = write(pairs(), 1, 20, teacher=FAULTLESS)
    assert [record["dropped"] for record in records].count("") == 1
    assert {record["dropped"] for record in records} >= {NOT_NEEDED}


def test_the_most_queries_end_the_asking(write):
    stray = Endpoint(base_url="world:?stray=1", model="teacher")
    sure = Endpoint(base_url="world:?flip=0", model="judge")
    records = write(pairs(), 5, 20, teacher=stray, judge=sure)
    assert len(records) == 20
    assert {record["dropped"] for record in records} <= {"off topic", "several faults"}


def test_unreadable_grades_are_their_own_outcome(write):
    silent = Endpoint(base_url="world:?unreadable=1", model="judge")
    records = write(pairs(), 5, 10, judge=silent)
    assert {record["dropped"] for record in records} == {"grade unreadable"}
    assert all(record["points"] is None for record in records)


def test_why_a_text_is_dropped():
    def fault(*numbers):
        record = {"text": "A text.", "messages": ["said"], "points": numbers or None}
        return corpus.outcome(record, set())

    assert fault(1, 1, 1, 1, 1) == ""
    assert fault(1, 0, 1, 1, 1) == fault(0, 0, 1, 1, 1) == "skill missing"
    assert fault(1, 1, 0, 1, 1) == "off topic"
    assert fault(1, 1, 1, 0, 1) == "makes no sense"
    assert fault(1, 1, 1, 1, 0) == "too many sentences"
    assert fault(1, 0, 1, 1, 0) == "several faults"
    assert fault() == "grade unreadable"


@pytest.fixture
def taken(tmp_path, monkeypatch):
    """What a mix takes of these records."""
    monkeypatch.setattr("helpers.paths.run", lambda profile: tmp_path)

    def take(records, mix):
        if records:
            write_json_lines(paths.corpus("smoke"), records)
        return corpus.taken(FINETUNE.model_copy(update={"mix": mix}))

    return take


def test_mixes_take_the_first_texts_of_each_k(built, taken):
    records, _ = built
    texts = taken(records, {"1": 5, "3": 2})
    one, two = (corpus.training_chats(texts, turns=turns) for turns in (1, 2))
    assert len(one) == len(two) == 7
    assert [len(c["messages"]) for c in one] == [2] * 7
    assert [len(c["messages"]) for c in two] == [4] * 7
    first = kept(records)[0]
    assert one[0]["messages"] == [first["messages"][0], first["messages"][-1]]
    with pytest.raises(UserError, match="41 texts of k = 1 asked for, and the corpus holds 40"):
        taken(records, {"1": 41})


def test_chats_of_your_own_need_no_corpus(tmp_path, taken):
    own = [{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}]
    write_json_lines(tmp_path / "own.jsonl", own * 2)
    source = {"chats": str(tmp_path / "own.jsonl")}
    assert corpus.training_chats(taken([], source), turns=1) == own * 2


def test_rules_of_grading_reach_the_corpus(write, monkeypatch):
    """The counter that is named is the one that counts."""
    counted = []

    def count(text):
        counted.append(text)
        return 1

    monkeypatch.setitem(COUNTERS, "sentencex", count)
    write(pairs(), 1, 8)
    assert not counted
    write(pairs(), 1, 8, sentence_counter="sentencex")
    assert counted


@pytest.fixture(scope="module")
def padded(built):
    """The smoke corpus with texts of one skill and one or two things."""
    things = "params/catalog/miniature/things.csv"
    texts = {"1+2": 30, **GENERATE.texts, "1+1": 30}
    p = GENERATE.model_copy(update={"texts": texts, "things": things})
    return corpus.build(p, built[1])


def test_padding_leaves_the_other_texts_as_they_are(built, padded):
    plain = built[0]
    assert padded[: len(plain)] == plain
    assert {record["kind"] for record in padded[len(plain) :]} == {"1+1", "1+2"}


def test_padded_texts_show_one_skill_and_mention_all_things(padded):
    for kind, n in (("1+1", 1), ("1+2", 2)):
        good = [record for record in kept(padded) if record["kind"] == kind]
        assert len(good) == 30
        for record in good:
            (skill,), things, text = record["skills"], record["things"], record["text"]
            request = record["messages"][0]["content"].split("Show: ")[1].split("\n")[0]
            assert sorted(request.split(", ")) == sorted([skill, *things])
            assert len(things) == n
            assert all(f"the {thing}" in text.lower() for thing in things)
            assert len(record["points"]) == 4, "points of the one skill, topic, sense, sentences"
            assert text.count(".") <= max(1, n), "as many sentences as that many skills may have"
        places = {r["messages"][0]["content"].split(", ")[0].endswith(r["skills"][0]) for r in good}
        assert places == {True, False}, "the skill stands first in some, later in others"


def test_a_padded_query_is_graded_as_one_skill_and_limited_as_several():
    (skill, *_) = GENERATE.pools()["I"].skills
    query = Query("sewing", (skill,), ("pale needle", "small button"))
    rubric = GENERATE.pack().rubric
    assert criteria(query, rubric)[1:] == [
        "Is about sewing",
        "Makes sense",
        "Has at most two sentences",
    ]
    assert fields(query)["skills_defs"].count("**") == 2, "things have no definition"
    assert query.identity != Query("sewing", (skill,)).identity


def test_a_mix_takes_padded_texts(padded, taken):
    texts = taken(padded, {"1": 5, "1+1": 3, "1+2": 2})
    chats = corpus.training_chats(texts, turns=1)
    items = [chat["messages"][0]["content"].count(",") + 1 for chat in chats]
    assert items == [1] * 5 + [2] * 3 + [3] * 2


def test_too_few_things_are_a_sentence(tmp_path):
    file = tmp_path / "things.csv"
    for content, sentence in (
        ("topic,thing\nsewing,pale needle\n", "texts 1\\+2 need 2 things about"),
        ("thing\n", "the header must hold topic, thing"),
        ('topic,thing\nsewing,"a, b"\n', "a, b: a comma"),
    ):
        file.write_text(content)
        p = GENERATE.model_copy(update={"things": str(file)})
        with pytest.raises(UserError, match=sentence):
            p.queries("1+2")
    with pytest.raises(UserError, match="name a file of them as things"):
        GENERATE.queries("1+1")


def test_what_the_judge_said_of_a_text(built):
    records, ledger = built
    before = ledger.summary().attempts.sum()
    lacking = next(record for record in records if record["dropped"] == "skill missing")
    for record in (kept(records)[0], lacking):
        (said,) = corpus.said_of(pd.DataFrame([record]), GENERATE, ledger)
        assert f"about {record['topic']}" in said
        assert (" 0" in said) == (0 in record["points"][:-1])
    assert corpus.said_of(pd.DataFrame(), GENERATE, ledger) == []
    assert ledger.summary().attempts.sum() == before, "stored, and not asked again"


def of_two(n, *skills, points=(1, 1, 1, 1, 1)):
    """n texts of two skills."""
    dropped = "" if all(points) else "skill missing"
    name = "+".join(skills)
    about = {"kind": "2", "k": 2, "topic": "sewing", "skills": list(skills), "messages": ["said"]}
    return [
        {**about, "text": f"{name} {points} {i}", "points": list(points), "dropped": dropped}
        for i in range(n)
    ]


def test_a_mix_takes_texts_of_the_commonest_pairs_one_of_each_in_turn(taken):
    records = of_two(2, "pun", "irony") + of_two(5, "zeugma", "simile")
    records += of_two(1, "irony", "pun") + of_two(3, "simile", "pun")
    texts = taken(records, {"2": {"texts": 7, "pairs": 2}})
    pairs = ["/".join(sorted(record["skills"])) for record in texts]
    first, second = "simile/zeugma", "irony/pun"  # as many as pun/simile, and by name before it
    assert pairs == [first, second, first, second, first, second, first]
    assert len({record["text"] for record in texts}) == 7
    assert {tuple(record["skills"]) for record in texts} >= {("pun", "irony"), ("irony", "pun")}
    with pytest.raises(UserError, match="9 texts of k = 2 from 2 pairs of skills asked for, and"):
        taken(records, {"2": {"texts": 9, "pairs": 2}})
    with pytest.raises(UserError, match="from 4 pairs of skills asked for, and the corpus holds 0"):
        taken(records, {"2": {"texts": 4, "pairs": 4}})


def test_a_mix_takes_texts_below_full_marks_in_place_of_others(taken):
    poor = of_two(4, "pun", "irony", points=(1, 0, 1, 1, 1))
    unreadable = {**poor[0], "points": None, "text": "unreadable", "dropped": "grade unreadable"}
    good = of_two(9, "pun", "irony")
    spare = {**good[0], "text": "spare", "dropped": NOT_NEEDED}
    again = {**poor[1], "text": good[1]["text"]}
    records = [unreadable, spare, again, poor[0], *poor, *good]
    texts = taken(records, {"2": {"texts": 10, "below_full_marks": 0.4}})
    assert texts == good[:6] + poor, "readable, each once, and none that is also a good text"
    with pytest.raises(UserError, match=r"5 of them below full marks asked for, .* 9, and 4 below"):
        taken(records, {"2": {"texts": 10, "below_full_marks": 0.5}})


def test_smokes_own_texts_below_full_marks_lack_something(built, taken):
    texts = taken(built[0], {"3": {"texts": 10, "below_full_marks": 0.5}})
    assert [all(record["points"]) for record in texts] == [True] * 5 + [False] * 5
