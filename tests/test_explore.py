"""A run's answers and texts as tables and pages, and the widgets over them; no browser here."""

import re
import subprocess
import sys
import textwrap

import pytest
from markupsafe import escape

from helpers import corpus, evaluate, explore, paths, widgets
from helpers.answer_page import judgement
from helpers.errors import UserError
from helpers.files import write_json_lines
from helpers.profile import schema
from helpers.profile.load import load_profile
from helpers.task.catalog import Query, load_skills, load_topics

FORGED = "<script>alert(1)</script>"
SECOND = schema.SecondJudge(base_url="world:?flip=0.3", model="judge", temperature=1.0)
MODELS = ["base", "k123-s0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A smoke run with two judges: the base's answers, and a model's, which are HTML."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "run", lambda profile: folder / profile)
        made = explore.Run("smoke", MODELS)
        for name in MODELS:
            p = made.models[name].model_copy(update={"second_judges": {"second": SECOND}})
            made.models[name] = p
        p = made.models["base"]
        tasks = evaluate.tasks(p)
        with evaluate.student(p, made.ledger) as student:
            answers = evaluate.answers(p, tasks, student)
        records = evaluate.evaluate(p, tasks, answers, made.ledger)
        write_json_lines(paths.grades("smoke", "base"), records)
        forged = [record | {"text": FORGED, "nearest": 95.0} for record in records]
        write_json_lines(paths.grades("smoke", "k123-s0"), forged)
        chat = {"messages": [{"role": "assistant", "content": f"Answer: {FORGED}!"}]}
        write_json_lines(paths.training("smoke", "k123-s0") / "chats.jsonl", [chat])
        texts = corpus.build(load_profile("smoke")["01_generate"], made.ledger)
        write_json_lines(paths.corpus("smoke"), texts)
        yield made


def test_every_answer_is_a_row_with_what_became_of_it(run):
    answers = run.answers
    assert len(answers) == 2 * len(evaluate.tasks(run.models["base"]))
    for row in answers.to_dict("records"):
        points = row["grades"]["first"]["points"]
        assert len([*filter(None, row["lost"].split(", "))]) == points.count(0)
        assert (row["verdict"] == "full marks") == (row["full_marks"] == 1) == all(points)
        majorities = [tuple(row["grades"][judge]["points"]) for judge in ("first", "second")]
        assert (row["disagree"] == "judges") == (len(set(majorities)) == 2)
    assert set(answers.disagree) == {"judges", "gradings", "none"}
    assert set(answers[answers.variant == "k123-s0"].near) == {"yes"}


def test_a_page_holds_every_reply_as_it_came_and_as_it_was_read(run):
    rows = run.answers[run.answers.variant == "base"].to_dict("records")
    row = next(row for row in rows if row["k"] == 3 and row["disagree"] == "judges")
    before = run.ledger.summary()
    page = run.page(row)
    assert run.ledger.summary().equals(before), "nothing is asked"
    query = run.query_of(row)
    p = run.models["base"]
    for name, judge in p.judges().items():
        settings = {"n": p.gradings, "ledger": run.ledger}
        judged = judgement(judge, query, row["text"], p.packs()[name], p.rules(), **settings)
        _, replies, majority = judged
        read = [list(grading.numbers) for _, grading in replies if not hasattr(grading, "reason")]
        assert read == row["grades"][name]["gradings"]
        assert list(majority.numbers) == row["grades"][name]["points"]
        assert all(escape(reply) in page for reply, _ in replies)
    assert f"Topic: {row['topic']}" in page
    assert "<mark " in page


def test_what_a_model_wrote_is_never_html(run):
    row = run.answers[run.answers.variant == "k123-s0"].iloc[0].to_dict()
    live = widgets.answers(run)
    pages = [run.page(row), run.query_page(row, MODELS), live._repr_html_()]
    for page in pages:
        assert "<script" not in page
        assert "&lt;script&gt;" in page
    assert "The nearest training text, 98 of 100 alike" in pages[0]
    assert "No reply of this judge is stored" in pages[0]


def test_answers_whose_gradings_differ_come_first_and_a_click_opens_one(run):
    live = widgets.answers(run)
    live.children[0].value = "base"
    browser = live.result
    assert len(browser.rows) == len(run.answers) / 2
    assert browser.rows.disagree.is_monotonic_increasing
    assert browser.rows.disagree.iloc[0] == "gradings"
    assert "base, setting" in browser.page.value
    browser.grid.selected_rows = [len(browser.rows) - 1]
    last = browser.rows.iloc[-1]
    assert f"query {last['query']}, generation {last['generation']}" in browser.page.value
    live.children[0].value = "k123-s0"
    assert set(live.result.rows.variant) == {"k123-s0"}
    browser.grid.selected_rows = []
    assert browser.page.value == ""


def test_two_models_query_by_query_where_they_differ_most_first(run):
    live = widgets.comparison(run)
    comparison = live.result
    differences = comparison.rows.difference.abs()
    assert differences.is_monotonic_decreasing
    answers = run.answers
    first = comparison.rows.iloc[0]
    own = answers[(answers[explore.QUERY] == first[explore.QUERY]).all(axis=1)]
    means = own.groupby("variant").full_marks.mean().round(2)
    assert first["first"] == means["base"]
    assert comparison.page.value.count("of 3 with full marks") == 2
    assert live._repr_html_() == comparison._repr_html_()
    live.children[1].value = "base"
    assert set(live.result.rows.difference) == {0}


def test_the_corpus_with_what_was_dropped_and_why(run):
    browser = widgets.corpus(run)
    faulty = browser.rows.outcome.to_list().index("skill missing")
    browser.grid.selected_rows = [faulty]
    assert "outcome skill missing, k " in browser.page.value
    assert "Topic: " in browser.page.value
    assert "reply 1" in browser.page.value


def test_a_question_of_ones_own_is_graded_and_what_is_not_there_is_a_sentence(run):
    question = {"topic": "baking", "skills": ["metaphor", "ad hominem"]}
    query = run.query_of(question)
    prompts = run.ask(query, MODELS, samples=0)
    assert "Topic: baking" in prompts
    assert "with full marks" not in prompts
    page = run.ask(query, ["base"], samples=2)
    assert "base: " in page
    assert "of 2 with full marks" in page
    with pytest.raises(UserError, match="make reproduce PROFILE=smoke trains it"):
        run.ask(query, MODELS, samples=1)
    for topic, skills in (("", query.skills), ("baking", ())):
        with pytest.raises(UserError, match="a topic and one or more skills are needed"):
            run.ask(Query(topic, skills), MODELS, samples=0)


def test_answers_in_a_file_cannot_be_asked_and_nobody_else_is(run, tmp_path, monkeypatch):
    file = tmp_path / "answers.jsonl"
    write_json_lines(file, [{"text": "not looked at"}])
    theirs = {"student": schema.Answers(answers=str(file)), "mix": {}}
    monkeypatch.setitem(run.models, "theirs", run.models["base"].model_copy(update=theirs))
    monkeypatch.setattr(evaluate, "student", lambda *_: pytest.fail("asked"))
    query = run.query_of({"topic": "baking", "skills": ["metaphor"]})
    with pytest.raises(UserError, match="theirs is a file of answers, which nobody can ask"):
        run.ask(query, ["base", "theirs"], samples=1)
    assert "Topic: baking" in run.ask(query, ["theirs"], samples=0)


@pytest.mark.parametrize("models", [["base", "k9"], [], (), "base"])
def test_models_that_are_not_there_are_a_sentence(run, models):
    named = re.escape(f"models={models!r}: a list of one or more is needed, of base, k123-s0")
    with pytest.raises(UserError, match=named):
        explore.Run("smoke", models)
    with pytest.raises(UserError, match=named):
        run.ask(run.query_of({"topic": "baking", "skills": ["metaphor"]}), models, samples=1)


@pytest.mark.parametrize(
    ("skills", "said"),
    [
        (["irony"], "skills.csv: no skill irony; it has metaphor, simile, "),
        ([], "skills []: a list of one or more is needed, each but once"),
        ("metaphor", "skills 'metaphor': a list of one or more is needed, each but once"),
        (["simile", "simile"], "skills ['simile', 'simile']: a list of one or more is needed"),
    ],
)
def test_skills_that_cannot_be_asked_are_a_sentence(run, skills, said):
    with pytest.raises(UserError, match=re.escape(said)):
        run.query_of({"topic": "baking", "skills": skills})


@pytest.mark.parametrize("samples", [-1, "3", 2.5, None])
def test_samples_that_cannot_be_asked_are_a_sentence(run, samples):
    query = run.query_of({"topic": "baking", "skills": ["metaphor"]})
    with pytest.raises(UserError, match=rf"samples={samples!r}: a whole number is needed"):
        run.ask(query, MODELS, samples)


def test_skills_of_ones_own_show_their_prompts_at_once(run, tmp_path):
    file = tmp_path / "own.csv"
    file.write_text("category,skill,definition,example\na,irony,Saying the contrary.,How nice.\n")
    query = run.query_of({"topic": "baking", "skills": ["irony"]}, str(file))
    assert "irony" in run.ask(query, MODELS, samples=0)
    with pytest.raises(UserError, match="the embedded world does not know"):
        run.ask(query, ["base"], samples=1)


def test_the_button_asks_what_is_chosen(run):
    p = run.models["base"]
    skills, topics = load_skills(paths.ROOT / p.skills), load_topics(paths.ROOT / p.topics)
    asker = widgets.asker(run, skills, topics)
    asker.children[2].value = ["base"]
    assert asker._repr_html_() == "<p>(Needs a kernel: make lab.)</p>"
    asker.children[0].value = "dueling"
    asker.manual_button.click()
    assert "Topic: dueling" in asker._repr_html_()
    assert "of 5 with full marks" in asker._repr_html_()


def test_without_a_run_it_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "run", lambda profile: tmp_path / profile)
    empty = explore.Run("smoke", MODELS)
    with pytest.raises(UserError, match="make reproduce PROFILE=smoke"):
        _ = empty.answers
    with pytest.raises(UserError, match=r"corpus.jsonl: not there yet; run 01_generate first"):
        _ = empty.corpus
    assert not any(tmp_path.iterdir())


def test_models_that_nobody_trained_are_explored_too(tmp_path, monkeypatch):
    """Of a profile without texts of its own."""
    monkeypatch.setattr(paths, "run", lambda profile: tmp_path / profile)
    run = explore.Run("evaluate", ["teacher"])
    assert list(run.models) == ["three", "five", "teacher"]
    assert "of 1 with full marks" in run.ask(
        run.query_of({"topic": "baking", "skills": ["metaphor"]}), ["teacher"], samples=1
    )


def test_torch_waits_until_a_model_is_asked():
    script = "import sys; from helpers import widgets; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=paths.ROOT)
    assert done.stdout == b"False\n", done.stderr


def test_the_lectures_lines_can_be_asked():
    page = (paths.ROOT / "docs/lecture.md").read_text()
    lines = textwrap.dedent(page.split("```python\n")[1].split("```")[0])
    models = ["base", "padded-s0", "k123-s0"]
    assert all(f'"{name}"' in lines for name in models)
    assert lines.endswith(", 5)\n")
    exec(lines.replace(", 5)", ", 0)"), {"run": explore.Run("mini", models)})
