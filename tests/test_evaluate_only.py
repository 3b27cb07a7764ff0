"""Models as they are, nothing trained: at an address, in a folder, or answers in a file."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from helpers import evaluate, paths
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.errors import UserError
from helpers.files import write_json_lines
from helpers.paths import ROOT
from helpers.profile.load import load_profile
from helpers.profile.schema import Answers
from helpers.results import figure_style, findings, scores
from helpers.run import preflight, profile_plan, reruns
from tests.faults.server import Server
from tests.test_make import checkout, make  # noqa: F401 (a fixture)

SMALL = {"evaluation_ks": [1, 2], "evaluation_queries": 3, "generations": 2}
EVALUATE = load_profile("evaluate")
TEACHER = EVALUATE["03_grade/teacher"].model_copy(update=SMALL)
TASKS = evaluate.tasks(TEACHER)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.sqlite")


def graded_of(p, ledger):
    with evaluate.student(p, ledger) as model:
        return evaluate.evaluate(p, TASKS, evaluate.answers(p, TASKS, model), ledger)


@pytest.fixture
def profile(copied):
    """A copy of the profile, with other models."""
    folder = copied("evaluate", "evaluate-for-test")

    def change(**values):
        file = folder / "shared.yaml"
        changed = yaml.safe_load(file.read_text()) | values
        file.write_text(yaml.safe_dump(changed, sort_keys=False))
        return folder.name

    return change


def rows_of(records):
    """A file of answers, as somebody else would write it: in another order of lines and skills."""
    rows = []
    for record in reversed(records):
        row = {key: record[key] for key in ("setting", "k", "topic", "generation", "text")}
        rows.append({**row, "skills": record["skills"][::-1], "whose": "theirs"})
    return rows


def test_nothing_but_03_and_04():
    assert list(EVALUATE) == ["03_grade/three", "03_grade/five", "03_grade/teacher", "04_plot"]
    assert EVALUATE["04_plot"].trained == []
    makefile = reruns.makefile("evaluate", EVALUATE)
    assert "TRAINED := \nGRADED := three five teacher\n" in makefile


def test_models_stand_beside_students(profile):
    mixes = {"k1": {"1": 5}}
    (ROOT / "params/evaluate-for-test/01_generate.yaml").write_text(
        "texts: {'1': 5}\nqueries_per_text: 4.0\nfilter_gradings: 1\n"
        "teacher: {base_url: 'world:', model: teacher}\n"
    )
    shutil.copy(ROOT / "params/smoke/02_finetune.yaml", ROOT / "params/evaluate-for-test")
    notebooks = load_profile(profile(students={"x": "helpers/world/weights/three"}, mixes=mixes))
    assert notebooks["04_plot"].graded == ["base", "three", "five", "teacher", "k1-s0"]
    assert notebooks["04_plot"].trained == ["k1-s0"]


def test_answers_of_somebody_else_are_graded_as_if_asked(ledger, tmp_path):
    asked = graded_of(TEACHER, ledger)
    file = tmp_path / "answers.jsonl"
    write_json_lines(file, rows_of(asked))
    given = TEACHER.model_copy(update={"student": Answers(answers=str(file))})
    before = ledger.summary().attempts.sum()
    assert graded_of(given, ledger) == asked
    assert ledger.summary().attempts.sum() == before, "the judge is asked the same"
    old = reruns.named_files(given)
    write_json_lines(file, [{"text": "another file"}])
    assert reruns.named_files(given) != old, "make grades another file anew"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[1:], "1 of 12 answers are missing, first that to setting III, k = "),
        (lambda rows: [*rows, rows[0]], "line 13: answers no query of this evaluation, or one"),
        (lambda rows: [rows[0] | {"topic": "law"}, *rows], "line 1: answers no query of this"),
        (lambda rows: [rows[0] | {"skills": 3}], "line 1: skills: input should be a valid array"),
        (lambda rows: [rows[0] | {"setting": []}], "line 1: setting: input should be a valid str"),
        (lambda rows: ["text"], "line 1: the line: input should be an object"),
        (lambda rows: [], "12 of 12 answers are missing"),
    ],
)
def test_a_file_of_other_answers_is_one_sentence_before_anything(change, said, tmp_path):
    file = tmp_path / "answers.jsonl"
    rows = []
    for task in TASKS:
        row = {"setting": task.setting, "k": task.k, "topic": task.query.topic, "text": "a"}
        rows.append({**row, "skills": list(task.query.names), "generation": task.generation})
    write_json_lines(file, change(rows[::-1]))
    given = TEACHER.model_copy(update={"student": Answers(answers=str(file))})
    with pytest.raises(UserError) as error:
        preflight.look("evaluate-for-test", {"03_grade/theirs": given})
    assert str(error.value).startswith(str(file))
    assert said in str(error.value)


def test_an_answer_without_text_is_counted_and_has_no_points(ledger):
    """Refused, thought and not said, or just empty; each as a real server sends it."""
    silent = [
        {"message": {"content": None, "refusal": "I will not."}, "finish_reason": "stop"},
        {"message": {"content": ""}, "finish_reason": "content_filter"},
        {"message": {"content": "<think>First, ..."}, "finish_reason": "length"},
        {"message": {"content": "", "reasoning": "First, ..."}, "finish_reason": "stop"},
        {"message": {"content": " "}, "finish_reason": "stop"},
    ]
    spoken = {
        "message": {"content": "<think>Well.</think>Answer: A text."},
        "finish_reason": "stop",
    }
    choices = [*silent, *[spoken] * (len(TASKS) - len(silent))]

    def raw(body):
        return json.dumps({"choices": [choices.pop(0)]}).encode()

    with Server(raw=raw) as server:
        address = Endpoint(base_url=server.url, model="m", concurrency=1)
        judge = Endpoint(base_url="world:?unreadable=0", model="judge")
        p = TEACHER.model_copy(update={"student": address, "judge": judge})
        records = graded_of(p, ledger)
    row = scores.manners({"m": records}).loc["m"].to_dict()
    assert row == {"answers": 12, "empty": 5, "refused": 2, "thought": 9, "cut": 1}
    empty = [record for record in records if not record["text"]]
    for record in empty:
        grades = record["grades"]["first"]
        assert grades["points"] == [0] * (record["k"] + 3)
        assert len(grades["gradings"]) == TEACHER.gradings
    queries = [(r["topic"], *r["skills"]) for r in records if r["text"] == "A text."]
    assert len(queries) == 7
    judged = ledger.summary().query("role == 'judge'").requests.sum()
    assert judged == len(set(queries)), "the empty ones are not sent to the judge"


def test_what_a_model_is_asked_is_priced_and_its_key_looked_for(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "run", lambda profile: tmp_path / profile)
    two_turns = TEACHER.model_copy(update={"student_turns": 2})
    for p, turns in ((TEACHER, 1), (two_turns, 2)):
        (row,) = profile_plan.plan_answers(p).to_dict("records")
        assert row["requests"].tolist() == [turns * len(TASKS)] * 2
    profile_plan.main("evaluate")
    assert "teacher: 300 answers" in capsys.readouterr().out
    monkeypatch.delenv("A_KEY_OF_OURS", raising=False)
    paid = Endpoint(base_url="https://a.invalid/v1", model="gpt-6-sol", key_env="A_KEY_OF_OURS")
    asked = TEACHER.model_copy(update={"student": paid})
    found = {what: good for what, good, _ in preflight.look("x", {"03_grade/m": asked})}
    assert found == {"key of https://a.invalid/v1": False, "price of gpt-6-sol": True}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"models": {}}, "models is wrong: the profile has no students either"),
        ({"mixes": {"k1": {"1": 5}}}, "mixes are for students to be trained on"),
        ({"models": {"gpt-6": "a/b"}}, "models has a key 'gpt-6': a mix, model or judge has a"),
        ({"models": {"m": "nowhere"}}, "models.m = 'nowhere' is wrong: neither a folder with"),
        ({"models": {"m": {"model": "x"}}}, "models.m.base_url is missing"),
        ({"models": {"m": {"base_url": "x", "model": "y"}}}, "is neither http(s)://... nor world:"),
        ({"models": {"m": {"base_url": "world:", "model": "gpt"}}}, "models.m: base_url = world:"),
        ({"models": {"m": {"base_url": "world:", "model": "judge", "temprature": 1}}},
         "unknown key models.m.temprature; did you mean temperature?"),
        ({"models": {"m": {"base_url": "world:", "model": "judge", "json_schema": True}}},
         "models.m.json_schema = True is wrong"),
        ({"models": {"m": {"answers": "no.jsonl"}}}, "models.m.answers = 'no.jsonl' is wrong: no"),
        ({"models": {"m": {"base_url": "https://a.invalid/v1", "model": "y"}}, "budget": 1.0},
         "has no price for model y"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(profile, values, said):
    with pytest.raises(UserError) as error:
        load_profile(profile(**values))
    assert str(error.value).startswith("params/evaluate-for-test/shared.yaml: ")
    assert said in str(error.value)


def test_models_are_shown_in_the_order_given(ledger, tmp_path):
    records = graded_of(TEACHER, ledger)
    table = scores.tidy(dict.fromkeys(("zeta", "alpha", "mid"), records))
    summary = scores.summary(table)
    spread = scores.spread(summary)
    assert list(spread.index.get_level_values("model")) == ["zeta", "alpha", "mid"]
    looks = figure_style.styles(summary.model)
    assert list(looks) == ["zeta", "alpha", "mid"]
    assert len(set(looks.values())) == 3
    verdicts = findings.findings(table)
    assert verdicts.empty
    gains = findings.exploratory(table, verdicts)
    pairs = gains[["model", "against"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [["alpha", "zeta"], ["mid", "zeta"], ["mid", "alpha"]]


def test_the_guide_is_right(profile, tmp_path, monkeypatch):
    """Its models are a profile's, and the file that it writes is one of answers."""
    guide = (ROOT / "docs/your-models.md").read_text()
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", guide, re.S)
    exec(snippet, {})
    rows = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    write_json_lines(tmp_path / "answers.jsonl", [{**row, "text": "A text."} for row in rows])
    models = yaml.safe_load(re.search(r"```yaml\n(models:.*?)```", guide, re.S)[1])["models"]
    models["theirs"]["answers"] = str(tmp_path / "answers.jsonl")
    p = load_profile(profile(models=models))["03_grade/theirs"]
    conversations = evaluate.answers(p, evaluate.tasks(p), None)
    assert {conversation.text for conversation in conversations} == {"A text."}


@pytest.mark.slow
def test_the_profile_runs_through_and_leaves_training_out(checkout):  # noqa: F811
    folder = checkout("a")
    done = make(folder, "reproduce", "PROFILE=evaluate")
    assert done.returncode == 0, done.stderr
    run = folder / "runs/evaluate"
    assert not (run / "corpus.jsonl").exists()
    assert not (run / "training").exists()
    table = scores.read_csv(run / "figures/scores.csv")
    assert list(table.model.unique()) == ["three", "five", "teacher"]
    report = (run / "figures/report.html").read_text()
    for words in ("<th>thought</th>", "exploratory, no claim", "Full marks by k"):
        assert words in report, words
    for words in ("Leaks", "Fewer texts", "The method", "training loss", "The paper finds"):
        assert words not in report, words
    assert "done in" not in make(folder, "reproduce", "PROFILE=evaluate").stderr
