"""Profiles: complete, checked as a whole, errors in one sentence; the notebooks agree with them."""

import ast
import re

import papermill
import pytest
import yaml

from helpers import paths
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profile import load, schema
from helpers.profile.yaml_files import names
from helpers.run import reruns
from helpers.task.mixes import texts_in


@pytest.mark.parametrize("name", names())
def test_every_profile_is_valid(name):
    notebooks = load.load_profile(name)
    stages = set(schema.STAGES)
    if not load.load_variants(name).mixes:
        stages -= {"01_generate", "02_finetune"}
    assert {n.split("/")[0] for n in notebooks} == stages


@pytest.mark.parametrize("name", names())
def test_notebooks_declare_what_profiles_inject(name):
    """Papermill lets an undeclared key or a changed type through; this does not."""
    for notebook, values in load.load_profile(name).items():
        declared = papermill.inspect_notebook(
            str(ROOT / f"notebooks/{notebook.split('/')[0]}.ipynb")
        )
        injected = values.model_dump(mode="json")
        assert set(declared) == set(injected), notebook
        for key, value in injected.items():
            default = ast.literal_eval(declared[key]["default"])
            either = (isinstance(value, list) and key == "training_topics") or (
                key == "budget" and None in (value, default)
            )
            either |= isinstance(value, dict) and key == "student"  # an endpoint, or answers
            assert isinstance(value, type(default)) or either, f"{notebook}: {key}"


def test_notebook_defaults_are_those_of_mini():
    mini = load.load_profile("mini")
    for stage, key in {
        "01_generate": "01_generate",
        "02_finetune": "02_finetune/k123-s0",
        "03_grade": "03_grade/k123-s0",
        "04_plot": "04_plot",
    }.items():
        declared = papermill.inspect_notebook(str(ROOT / f"notebooks/{stage}.ipynb"))
        defaults = {name: ast.literal_eval(p["default"]) for name, p in declared.items()}
        assert schema.STAGES[stage].of(defaults) == mini[key]


# What a file says, what a user makes of it, and words of the sentence about it.
# fmt: off
FAULTS = [
    # keys
    ("shared", "seed: 0", "sead: 0", "shared.yaml: unknown key sead; did you mean seed?"),
    ("shared", "model: teacher", "modle: teacher", "key teacher.modle; did you mean model?"),
    ("shared", "mixes: {k123: ", "mixes: {}\nx: {k123: ", "shared.yaml: unknown key x"),
    ("shared", "jobs: auto", "jobs: auto\nsweeps: {x: {students: tiny, mixes: {}}}",
     "unknown key sweeps.x.students; did you mean student?"),
    ("02_finetune", "steps: 12", "setps: 12", "unknown key setps; did you mean steps?"),
    ("02_finetune", "steps: 12", "seed: 1", "shared.yaml: seed stands in 02_finetune.yaml already"),
    ("02_finetune", "steps: 12", "variant: x", "02_finetune.yaml: unknown key variant"),
    ("03_grade", "gradings: 3",
     "gradings: 3\nsecond_judges: {x: {base_url: 'world:', modle: j}}", "second_judges.x.modle"),
    ("03_grade", "server: {}", "server: {concurency: 8}", "did you mean concurrency?"),
    ("shared", "seed: 0", "", "seed is missing, there and in shared.yaml"),
    ("shared", "model: judge", "seed: 1", "shared.yaml: judge.model is missing"),
    # single values
    ("shared", "seed: 0", 'seed: "0"', "seed = '0' is wrong: it is a whole number, without quotes"),
    ("shared", "jobs: auto", "jobs: many",
     "jobs = 'many' is wrong: it is a whole number, without quotes, or 'auto'"),
    ("shared", "seed: 0", "seed: -1", "seed = -1 is wrong: input should be greater than or equal"),
    ("shared", "seed: 0", "budget: .nan\nseed: 0", "shared.yaml: budget = nan is wrong"),
    ("shared", "evaluation_ks: [1,", "evaluation_ks: [2,", "[2, 2, 3] is wrong: it names"),
    ("shared", "training_topics: 10", "training_topics: [1]",
     "training_topics.0 = 1 is wrong: it is text"),
    ("02_finetune", "2.0e-4", "2e4", "learning_rate = 20000.0 is wrong: input should be less than"),
    ("03_grade", "settings: [I, II]", "settings: [I, IV]", "input should be 'I', 'II' or 'III'"),
    ("shared", '"1": 40, "2"', '1: 40, "2"',
     "the key '1' is no text of one line and at most 100 letters; write a number in quotes, as"),
    ("shared", "seed: 0", "seed: 0\nseed: 7", "shared.yaml: not YAML (seed stands twice"),
    ("03_grade", "temperature: 0.7", "temperature: [", "03_grade.yaml: not YAML"),
    # catalog and prompts
    ("shared", "training_topics: 10 ", "training_topics: 20 ", "the split leaves setting II"),
    ("shared", "[literary,", "[poetry,",
     "shared.yaml: training_categories: poetry not in the catalog, whose categories are"),
    ("shared", "skills: params", "skills: nowhere",
     "skills = 'nowhere/catalog/miniature/skills.csv' is wrong: no such file"),
    ("shared", "skills: params/catalog/miniature/skills.csv", "skills: params/catalog",
     "skills = 'params/catalog' is wrong: no file that can be read"),
    ("shared", "student_turns: 1", "student_turns: 3", "= 3, and the prompt pack has 2"),
    ("shared", "evaluation_ks: [1,", "evaluation_ks: [15,",
     "k = 15 needs 15 skills, and the pool for setting II has 14"),
    # mixes and students
    ("shared", '"3": 40}', '"3": 41}',
     "shared.yaml: mix of k123-s0: 41 texts of k = 3 are asked for, and 01_generate makes 40"),
    ("shared", "mixes: {k123:", "mixes: {k-123:", "has a key 'k-123': a mix, model or judge has"),
    ("shared", "mixes: {k123:", "mixes: {base:", "base and first are taken"),
    ("shared", "mixes: {k123:", "mixes: {k12:",
     "mix k12 holds texts of k = 1, 2, 3; its name says something else"),
    ("shared", "weights/three", "weights/four", "neither a folder with a model nor a hub name"),
    ("shared", "jobs: auto", 'jobs: auto\nsweeps: {x: {student: big, mixes: {small: {"1": 5}}}}',
     "sweeps: x: student = big, and the students are tiny"),
    ("shared", "jobs: auto",
     'jobs: auto\nsweeps: {x: {student: tiny, mixes: {k123: {"1": 1, "2": 1, "3": 1}}}}',
     "sweeps: x: k123 is the name of a model or main mix"),
    ("shared", "jobs: auto", 'jobs: auto\nsweeps: {x: {student: tiny, mixes: {small: {"2": 41}}}}',
     "mix of small-s0: 41 texts of k = 2 are asked for"),
    ("shared", "jobs: auto", "jobs: auto\nsweeps: {x: {student: tiny}}",
     "sweeps.x is wrong: it has neither mixes nor numbers (at)"),
    ("shared", "jobs: auto",
     'jobs: auto\nsweeps: {x: {student: tiny, mixes: {a: {"1": 5}}},'
     ' y: {student: tiny, mixes: {a: {"1": 6}}}}',
     "sweeps: y: a holds other texts in another sweep"),
    ("shared", "jobs: auto", "jobs: auto\nsweeps: {x: {student: tiny, at: {base: 0}}}",
     "along says what the numbers of at are: it takes both, or neither"),
    ("shared", "jobs: auto",
     "jobs: auto\nsweeps: {x: {student: tiny, along: texts, at: {base: 0, k7: 5}}}",
     "sweeps: x: at: k7 is no mix of tiny, whose mixes are base, k123"),
    ("shared", "jobs: auto",
     'jobs: auto\nsweeps: {x: {student: tiny, settings: [III], mixes: {a: {"1": 5}}}}',
     "shared.yaml: sweeps: x: setting III is none of 03_grade's settings"),
    # parts of a kind of texts
    ("shared", '"3": 40}', '"3": {texts: 60, below_full_marks: 0.2}}',
     "mix of k123-s0: 48 texts of k = 3 are asked for, and 01_generate makes 40"),
    ("shared", '"2": 40', '"2": {texts: 40, pair: 9}',
     "mixes.k123.2 has a key 'pair': input should be 'texts', 'pairs' or 'below_full_marks'"),
    ("shared", '"2": 40', '"2": {pairs: 9}', "mixes.k123.2 is wrong: texts is a whole number from"),
    ("shared", '"2": 40', '"2": {texts: 4.5}', "mixes.k123.2 is wrong: texts is a whole number"),
    ("shared", '"2": 40', '"2": {texts: 40, pairs: 0}', "pairs is a whole number from 1 to"),
    ("shared", '"2": 40', '"2": {texts: 40, pairs: 41}', "from 1 to that of the texts, 40"),
    ("shared", '"3": 40}', '"3": {texts: 40, pairs: 9}}',
     "mixes.k123 is wrong: pairs is for texts of k = 2, and stands at 3"),
    ("shared", '"2": 40', '"2": {texts: 40, below_full_marks: 1.5}',
     "below_full_marks is a share of the texts, above 0 and at most 1"),
    ("shared", '"2": 40', '"2": {texts: 40, below_full_marks: 0.01}', "of 40 texts is none"),
    ("shared", '"2": 40', '"2": {texts: 40, below_full_marks: .nan}', "mixes.k123.2.below_"),
    ("shared", '"2": 40', '"2": {texts: 40, pairs: 9, below_full_marks: 0.5}',
     "pairs and below_full_marks do not go together"),
    # teacher, judges, prices
    ("shared", '"world:"', '"world:?dorp=1"', "the rates are drop"),
    ("shared", '"world:"', '"ftp://x"', "is neither http"),
    ("shared", "model: teacher", "model: gpt",
     "base_url = world: the embedded world does not know the model gpt; it knows teacher, judge"),
    ("shared", "skills: params/catalog/miniature", "skills: params/catalog",
     "does not know the skill "),
    ("shared", "topics: params/catalog/miniature", "topics: params/catalog",
     "does not know the topic "),
    ("shared", 'judge: {base_url: "world:", model: judge}',
     'judge: {base_url: "http://a/v1", model: mine}\nbudget: 5',
     "shared.yaml: judge: budget = 5.0, and params/prices.yaml has no price for model mine"),
    ("shared", "model: teacher", "model: teacher, extra_body: {n: 2}",
     "n may not stand in extra_body"),
    ("03_grade", "gradings: 3",
     "gradings: 3\nsecond_judges: {first: {base_url: 'world:', model: j}}",
     "base and first are taken"),
    ("03_grade", "gradings: 3", "gradings: 3\nsecond_judges: {x: {base_url: 'ftp:', model: j}}",
     "second_judges.x.base_url is wrong: 'ftp:' is neither http"),
    # training, serving, figures
    ("02_finetune", "topology: params", "topology: nowhere", "no such file"),
    ("02_finetune", "warmup: 4", "warmup: 99",
     "02_finetune.yaml: warmup = 99 of steps = 12: the warm-up would never end"),
    ("03_grade", 'serve: ""', "serve: vllm serve {model}",
     "03_grade.yaml: serve = 'vllm serve {model}': {port} missing"),
    ("03_grade", "server: {}", "server: {temperature: 1.0}", "server.temperature is set by the"),
    ("03_grade", "server: {}", 'server: {model: "{name"}',
     "server.model = '{name': the fields are {model} and {name}"),
    ("03_grade", "server: {}", "server: {base_url: here}", "is neither http"),
    ("04_plot", "caption: smoke", "figures: ../x\ncaption: smoke",
     "figures = '../x' is wrong: use figures, or a folder under"),
    ("04_plot", "caption: smoke", "figures: figures\ncaption: smoke",
     "figures = figures is where profile mini keeps its own; leave it out"),
    ("04_plot", "caption: smoke", "figures: runs/smoke/figures\ncaption: smoke",
     "is where profile smoke keeps its own"),
]
# fmt: on


@pytest.mark.parametrize(("file", "old", "new", "said"), FAULTS)
def test_errors_are_one_sentence_and_nothing_is_written(profile, file, old, new, said):
    path = profile / f"{file}.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError) as error:
        reruns.main(profile.name)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not paths.run(profile.name).exists()


@pytest.mark.parametrize(
    ("file", "line", "end"),
    [
        ("03_grade", "settings: [IV, I, V]", "input should be 'I', 'II' or 'III'"),
        ("01_generate", "corpus: nowhere.jsonl", "no such file"),
    ],
)
def test_a_sentence_says_of_its_own_value_alone_what_it_may_be(profile, file, line, end):
    """Other values that are wrong, and other types that the value may have, add nothing to it."""
    path = profile / f"{file}.yaml"
    values = yaml.safe_load(path.read_text()) | yaml.safe_load(line)
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as error:
        load.load_profile(profile.name)
    assert str(error.value).endswith(end)


def test_missing_file_and_unknown_profile(profile):
    (profile / "03_grade.yaml").unlink()
    with pytest.raises(UserError, match=r"03_grade.yaml: settings is missing, there and in shared"):
        load.load_profile(profile.name)
    with pytest.raises(
        UserError, match=r"PROFILE='nowhere': no such profile; the profiles are .*mini"
    ):
        load.load_profile("nowhere")


@pytest.mark.parametrize("name", ["05_extra.yaml", "03_grade.yml", "shared copy.yaml"])
def test_a_file_that_no_stage_reads(profile, name):
    """Values in it would be left out without a word; notes and what editors leave may stay."""
    for other in ("notes.md", ".03_grade.yaml.swp", "03_grade.yaml~"):
        (profile / other).touch()
    load.load_profile(profile.name)
    (profile / name).write_text("seed: 1\n")
    said = f"params/{profile.name}/{name}: no stage reads it, and no parameter names it; "
    said += (
        "a profile's files are 01_generate.yaml, 02_finetune.yaml, 03_grade.yaml, 04_plot.yaml, "
    )
    with pytest.raises(UserError, match=re.escape(said)) as error:
        load.load_profile(profile.name)
    assert "\n" not in str(error.value)


def test_paper_profile_is_the_papers():
    """[ZK24] section 3 and 4, [YK23] section 3."""
    notebooks = load.load_profile("paper")
    finetune = notebooks["02_finetune/llama-2-13b-k123-s0"]
    assert (
        finetune.steps,
        finetune.batch,
        finetune.learning_rate,
        finetune.warmup,
        finetune.chat_tokens,
    ) == (4000, 64, 2e-5, 64, 1024)
    assert sum(finetune.mix.values()) == 13_957
    grade = notebooks["03_grade/mistral-7b-base"]
    assert grade.checkpoint() == "mistralai/Mistral-7B-Instruct-v0.2"
    assert (grade.evaluation_ks, grade.settings, grade.generations, grade.gradings) == (
        [2, 3, 4, 5],
        ["I", "II", "III"],
        3,
        3,
    )
    assert (grade.evaluation_queries, grade.new_tokens, grade.temperature, grade.student_turns) == (
        100,
        512,
        0.7,
        2,
    )


def test_chats_alone_need_no_texts(profile):
    """Nor a teacher: neither 01's parameters nor its file are looked at."""
    path = profile / "shared.yaml"
    values = yaml.safe_load(path.read_text()) | {"mixes": {"mine": {"chats": "README.md"}}}
    del values["teacher"]
    path.write_text(yaml.safe_dump(values))
    (profile / "01_generate.yaml").unlink()
    notebooks = load.load_profile(profile.name)
    assert list(notebooks) == [
        "02_finetune/mine-s0",
        "03_grade/base",
        "03_grade/mine-s0",
        "04_plot",
    ]
    assert not notebooks["04_plot"].generated
    assert "CORPUS := \n" in reruns.makefile(profile.name, notebooks)
    assert "CORPUS := $(RUN)/corpus.jsonl\n" in reruns.makefile("smoke", load.load_profile("smoke"))


def test_a_sweep_is_trained_on_its_student_alone():
    notebooks = load.load_profile("mini-full")
    swept = [n for n in notebooks if n.startswith("02_finetune") and "n150" in n]
    assert sorted(swept) == sorted(
        f"02_finetune/three-{mix}n150-s{seed}" for mix in ("k12", "k123") for seed in (0, 1, 2)
    )
    totals = {}
    for name, p in notebooks.items():
        if name.startswith("02_finetune/three") and p.training_seed == 0:
            totals.setdefault(texts_in(p.mix), set()).add("".join(p.mix))
    assert {n: kinds for n, kinds in totals.items() if len(kinds) > 1} == {
        150: {"12", "123"},
        1200: {"1", "2", "3", "12", "123"},
        3600: {"123", "11+11+2"},
    }
    assert totals[1300] == {"12"}, "the pairs' mixes are as large as each other"


def test_a_sweeps_models_are_graded_as_it_says_and_others_are_not():
    notebooks = load.load_profile("mini-full")
    for mix, settings, judges in (
        ("k123", ["I", "II", "III"], ["lenient"]),
        ("k12n1200", ["I"], []),  # at a number of `dose`, and of the sweep `sizes`
        ("dose25", ["I"], []),
        ("pairs9", ["I"], []),
    ):
        grade = notebooks[f"03_grade/three-{mix}-s0"]
        assert (grade.settings, list(grade.second_judges)) == (settings, judges)
    plot = notebooks["04_plot"]
    owners = plot.owners()
    assert (owners["three-k12n1200"], owners["three-dose25"]) == ("sizes", "dose")
    assert not any(model.startswith("five") or model == "three-k123" for model in owners)
    assert plot.swept["dose"].at["three-k12n1200"] == 0
    assert plot.sizes() == ["sizes"]
    assert plot.claimed() == {"dose", "pairs", "below"}


def test_a_claim_is_of_a_setting_that_its_models_are_graded_in(profile):
    path = profile / "shared.yaml"
    sweep = {"student": "tiny", "mixes": {"small": {"1": 5}}, "settings": ["I"]}
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"sweeps": {"x": sweep}}))
    claims = profile / "04_plot.yaml"
    for setting, said in (("I", ""), ("II", "small is graded in I alone")):
        claim = {"model": "k123", "against": "small", "setting": setting, "k": [3]}
        claims.write_text(yaml.safe_dump({"caption": "in a test", "claims": [claim]}))
        if said:
            with pytest.raises(UserError, match=f"04_plot.yaml: claims: k123 over .*{said}"):
                load.load_profile(profile.name)
        else:
            load.load_profile(profile.name)


def test_a_mix_of_two_sweeps_is_trained_once(profile):
    path = profile / "shared.yaml"
    small = {"small": {"1": 5}}
    sweeps = {name: {"student": "tiny", "mixes": small} for name in ("one", "two")}
    sweeps["two"]["settings"] = ["II"]
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"sweeps": sweeps}))
    notebooks = load.load_profile(profile.name)
    assert [name for name in notebooks if "small" in name] == [
        "02_finetune/small-s0",
        "03_grade/small-s0",
    ]
    assert notebooks["03_grade/small-s0"].settings == ["I", "II"], "as the first of them says"
    assert notebooks["04_plot"].owners() == {"small": "one"}


def test_prices_are_dated_and_positive():
    text = (ROOT / "params/prices.yaml").read_text()
    assert "2026-" in text.splitlines()[1]
    assert all(len(p) == 2 and min(p) >= 0 for p in yaml.safe_load(text).values())
