"""What a profile's values are together: enough queries, models with weights, folders of its own."""

from itertools import islice

import pytest
import yaml

from helpers import paths
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profile import load, value_types
from helpers.profile.consistency import feasibility
from helpers.task.queries import evaluation_queries


@pytest.fixture
def changed(profile):
    """The profile's name, after some keys of one of its files have other values."""

    def change(file, **values):
        path = profile / f"{file}.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}))
        return profile.name

    return change


def refused(name, said):
    with pytest.raises(UserError) as error:
        load.load_profile(name)
    assert said in str(error.value)


def test_feasibility_counts_the_queries_that_there_are():
    p = load.load_profile("mini")["01_generate"]
    pool, table = p.pools()["I"], feasibility(p).set_index("k")
    assert table.distinct.tolist() == [pool.distinct(k) for k in (1, 2, 3)]
    reserved = evaluation_queries(pool, 2, p.evaluation_queries, seed=p.seed, setting="I")
    assert table.reserved.tolist() == [0, len(reserved), len(reserved)]
    assert table.left[1] == table.distinct[1]
    assert table.left[2] == len({query.identity for query in islice(p.queries("2"), 20_000)})
    alone = feasibility(p.model_copy(update={"pairs_apart": 0.0})).set_index("k")
    assert (alone.left == alone.distinct - alone.reserved).all()
    assert not table.note.any()
    assert table["texts a query"][1] == round(1200 / pool.distinct(1), 2)


def test_no_query_left_is_refused_and_few_are_thin(changed):
    p = load.load_profile("smoke")["01_generate"]
    distinct = p.pools()["I"].distinct(2)
    name = changed("shared", evaluation_queries=distinct - 3, pairs_apart=0.0)
    table = feasibility(load.load_profile(name)["01_generate"]).set_index("k")
    assert table.left[2] == 3
    assert "many will be alike" in table.note[2]
    assert not table.note[1]
    changed("shared", evaluation_queries=distinct)
    refused(name, f"texts: k = 2: the evaluation's queries leave 0 of {distinct:,} queries to the")
    changed("shared", pairs_apart=0.333)
    refused(
        name,
        "01_generate.yaml: texts: k = 2: the evaluation's queries, and pairs_apart = 0.333, leave",
    )


@pytest.mark.parametrize(
    ("file", "key", "value", "said"),
    [
        ("shared", "students", {"../../x": "a/b"}, "has a key '../../x': a name is of letters"),
        ("shared", "students", {"$(x)": "a/b"}, "students has a key"),
        ("shared", "students", {"x" * 65: "a/b"}, "students has a key"),
        ("shared", "students", {".x": "a/b"}, "students has a key"),
        ("shared", "students", {"x": "params/typo"}, "neither a folder with a model nor a hub"),
        ("shared", "mixes", {"m": {}}, "mixes is wrong: mix m holds nothing"),
        ("shared", "mixes", {"m": {"01": 1}}, "mixes.m has a key '01'"),
        ("shared", "mixes", {"m": {"\u0663": 1}}, "mixes.m has a key"),
        ("shared", "mixes", {"own": {"chats": "no/such.jsonl"}},
         "mixes.own is wrong: chats = 'no/such.jsonl' is no file that can be read; a data set has"),
        ("shared", "mixes", {"own": {"chats": "params"}}, "'params' is no file that can be read;"),
        ("shared", "mixes", {"own": {"split": "train"}}, "chats = '' is no file that can be read"),
        ("shared", "mixes", {"own": {"chats": "README.md", "spilt": "x"}},
         "mixes.own has a key 'spilt': input should be 'chats', 'config' or 'split'"),
        ("shared", "mixes", {"k12": {"chats": "README.md"}}, "k12 holds chats of your own; give"),
        ("shared", "mixes", {"padded": {"chats": "README.md"}}, "padded holds chats of your own"),
        ("01_generate", "texts", {"chats": "README.md"}, "texts has a key 'chats': a number of"),
        ("01_generate", "queries_per_text", 1e-9, "should be greater than or equal to 1"),
        ("01_generate", "teacher", {"base_url": "world:", "model": "teacher", "max_tokens": 1},
         "shared.yaml: teacher stands in 01_generate.yaml already"),
        ("shared", "teacher", {"base_url": "world:", "model": "teacher", "max_tokens": 1},
         "teacher.max_tokens = 1 is wrong: input should be greater than or equal to 64"),
        ("02_finetune", "chat_tokens", 1, "should be greater than or equal to 32"),
        ("02_finetune", "topology", "/etc/hostname", "lies outside of the repository"),
        ("02_finetune", "topology", "params/smoke/04_plot.yaml/x", "no such file"),
        ("02_finetune", "topology", "params/catalog/topics.txt", "topics.txt: "),
        ("03_grade", "second_judges", {"a/b": {"base_url": "world:", "model": "judge"}},
         "second_judges has a key 'a/b'"),
        ("03_grade", "second_judges", {"other": {"base_url": "world:", "model": "judge"}},
         "03_grade.yaml: second_judges: other is the first judge again; it would agree"),
        ("shared", "evaluation_queries", 10**6, "lower pairs_apart or evaluation_queries, or"),
        ("shared", "pairs_apart", 1.0, "pairs_apart = 1.0 is wrong: input should be less than 1"),
        ("shared", "pairs_apart", 0.99, "pairs_apart = 0.99, leave"),
        ("01_generate", "texts", {"30": 40}, "k = 30 needs 30 skills, and the pool for training"),
        ("04_plot", "claims", [{"model": "k...", "against": "base", "setting": "I", "k": [3]}],
         "04_plot.yaml: claims: k... is none of base, k123"),
        ("04_plot", "claims", [{"model": "k123", "against": "base", "setting": "I", "k": [3, 4]}],
         "04_plot.yaml: claims: k123 over base, setting I, k = [3, 4], is of more"),
        ("04_plot", "claims", [{"model": "k123", "against": "base", "setting": "III", "k": [3]}],
         "k = [3], is of more than is asked, settings ['I', 'II'] and k = [1, 2, 3]"),
        ("04_plot", "claims", [{"model": "k123", "against": "k123", "setting": "I", "k": [3]}],
         "04_plot.yaml: claims: k123 is claimed to be better than itself"),
        ("04_plot", "claims",
         [{"model": "k123", "against": "base", "setting": "I", "k": [1, 2], "apart": True}],
         "04_plot.yaml: claims: apart is of pairs of skills, and at k = 1 there are none"),
        ("04_plot", "caption", "costs $5", "caption = 'costs $5' is wrong"),
        ("03_grade", "serve", "x {model.y} {port}", "cannot be filled"),
        ("03_grade", "server", {"model": "{name.x}"}, "the fields are {model} and {name}"),
        ("04_plot", "figures", ".git", "use figures, or a folder under"),
        ("04_plot", "figures", "figures/", "use figures, or a folder under"),
        ("04_plot", "figures", "runs", "use figures, or a folder under"),
        ("04_plot", "figures", "helpers/x", "use figures, or a folder under"),
        ("04_plot", "figures", "runs/$(shell id)", "use figures, or a folder under"),
        ("04_plot", "figures", "runs/x/../../y", "use figures, or a folder under"),
        ("04_plot", "figures", "figures/scores.csv", "use figures, or a folder under"),
        ("04_plot", "figures", "runs/mini/other", "is where profile mini keeps its own"),
    ],
)  # fmt: skip
def test_what_would_break_later_is_refused_now(changed, file, key, value, said):
    refused(changed(file, **{key: value}), said)


def test_without_pairs_apart_nothing_is_claimed_of_them(changed):
    claim = {"model": "k123", "against": "base", "setting": "I", "k": [2], "apart": True}
    changed("04_plot", claims=[claim])
    load.load_profile(changed("shared", pairs_apart=0.5))
    name = changed("shared", pairs_apart=0.0)
    refused(name, "claims: k123 over base is of pairs kept apart, and pairs_apart is 0")
    changed("shared", pairs_apart=0.1)
    name = changed("04_plot", claims=[claim | {"k": [3]}])
    refused(name, "no query of k = [3] in setting I has all its pairs apart; take k: [2]")


def test_a_mix_takes_no_more_pairs_than_may_be_shown(changed):
    mix = {"2": {"texts": 40, "pairs": 40}}
    load.load_profile(changed("shared", mixes={"pairs": mix}))
    name = changed("shared", pairs_apart=0.8)
    refused(name, "mix of pairs-s0: 40 pairs of skills are asked for, and 29 may be shown")


def test_a_topology_is_accelerates(changed):
    path = ROOT / "params/broken-for-test/topology.yaml"
    name = changed("02_finetune", topology=str(path.relative_to(ROOT)))
    for text, said in (
        ("num_machines: 2", "num_processes is no multiple of num_machines, 2"),
        ("num_processes: two", "num_processes = 'two' is wrong: it is a whole number"),
        ("fsdp_config: 1", "fsdp_config = 1 is wrong"),
        ("mixed_precision: fp16", "mixed_precision = 'fp16' is wrong: input should be 'no',"),
        ("mixed_precision: yes", "mixed_precision = True is wrong: input should be 'no',"),
    ):
        path.write_text(f"distributed_type: FSDP\n{text}")
        refused(name, f"params/broken-for-test/topology.yaml: {said}")
    path.write_text("num_processes: 1")
    refused(name, "topology.yaml: distributed_type is missing")
    for precision in ("no", "'no'", "bf16"):
        path.write_text(f"distributed_type: FSDP\nmixed_precision: {precision}")
        load.load_profile(name)


def test_a_students_folder_holds_a_model(changed, tmp_path):
    name = changed("shared", students={"x": str(tmp_path)})
    refused(name, "neither a folder with a model nor a hub name")
    (tmp_path / "config.json").write_text("{}")
    refused(name, "a folder without weights")


@pytest.mark.parametrize(
    ("student", "is_one"),
    [
        ("meta-llama/Llama-2-13b-chat-hf", True),
        ("params/typo", False),
        ("a/b/c", False),
        ("x", False),
    ],
)
def test_a_hub_name_begins_with_no_folder_of_ours(student, is_one):
    assert value_types.is_hub_name(student) == is_one


def test_runs_may_be_a_link_to_another_disk(profile, tmp_path, monkeypatch):
    """Here a profile's own folder is: `runs` itself may be in use."""
    run = paths.run(profile.name)
    run.parent.mkdir(exist_ok=True)
    run.symlink_to(tmp_path)
    try:
        notebooks = load.load_profile(profile.name)
        assert notebooks["04_plot"].figures == f"runs/{profile.name}/figures"
    finally:
        run.unlink()
