"""What a student and a training are: fingerprints, identities, and models that somebody changed."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from helpers.errors import UserError
from helpers.files import write_json_lines
from helpers.paths import ROOT
from helpers.training import launch, memory
from helpers.training import recipe as recipes
from helpers.training.recipe import Recipe, fingerprint, is_finished, read_log, run_identity
from tests.toys import chats
from tests.training.runs import CPU1, here, recipe


def test_identities_are_as_ever(tmp_path, monkeypatch):
    """What `mini` trains from and has trained is known by these; another value trains it again."""
    monkeypatch.chdir(ROOT)
    three, five = "helpers/world/weights/three", "helpers/world/weights/five"
    assert fingerprint(three).startswith("ad9b541f14d47d5935d14b555f38158fc79ba28b2444dea68c3fb18")
    assert fingerprint(five).startswith("61e6da45dd2060ce824646156e295ec0873b530a75d8c2625ac05ee27")
    chat = [
        {"role": "user", "content": "Topic: sewing\nShow: metaphor"},
        {"role": "assistant", "content": "Answer: The needle is a storm."},
    ]
    write_json_lines(tmp_path / "chats.jsonl", [{"messages": chat}])
    r = Recipe(student=three, data=str(tmp_path / "chats.jsonl"), out=str(tmp_path))
    assert run_identity(r).startswith("47266124f59c171e55e295c5c87ad34366d2a50bf22f2e38bc858a04cb0")
    r = dataclasses.replace(r, student=five, steps=200, learning_rate=2e-4, max_tokens=512)
    r = dataclasses.replace(r, save_every=50, export_dtype="float32")
    assert run_identity(r).startswith("92c26e547806c9b837f814269d61e6222af9a93d779f64bdf6ee06c1ebd")
    assert run_identity(dataclasses.replace(r, compile=True)) != run_identity(r)
    lora = {"rank": 4, "alpha": 8, "target": "all-linear"}
    assert run_identity(dataclasses.replace(r, lora=lora)) != run_identity(r)


def test_fingerprints(toys, tmp_path):
    assert fingerprint(toys["llama"]) != fingerprint(toys["mistral"])
    assert fingerprint("owner/model") == "owner/model"
    with pytest.raises(FileNotFoundError, match="no such folder"):
        fingerprint(str(tmp_path / "none"))
    r = recipe(tmp_path, toys["llama"])
    assert run_identity(r) != run_identity(dataclasses.replace(r, batch=11))


@pytest.mark.parametrize("student", ["llama", "three"])
@pytest.mark.parametrize(
    "file", ["config.json", "chat_template.jinja", "generation_config.json", "model.safetensors"]
)
def test_another_file_is_another_student(toys, tmp_path, student, file):
    """With an `identity.json`, as a shipped base has, and without one."""
    shipped = ROOT / "helpers/world/weights" / student
    folder = shutil.copytree(toys.get(student, shipped), tmp_path / "student")
    before = fingerprint(str(folder))
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert fingerprint(str(folder)) != before
    (folder / file).write_bytes(content)
    assert fingerprint(str(folder)) == before
    (folder / "added.json").write_text("{}")
    assert fingerprint(str(folder)) != before


def test_large_files_are_read_once_and_again_when_changed(toys, tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "LARGE", 0)
    monkeypatch.setattr(recipes, "CHECKSUMS", tmp_path / "runs/checksums.json")
    folder = shutil.copytree(toys["llama"], tmp_path / "student")
    before = fingerprint(str(folder))
    with monkeypatch.context() as blind:
        blind.setattr(recipes, "sha256", None)
        assert fingerprint(str(folder)) == before, "nothing is read"
    weights = folder / "model.safetensors"
    stat, content = weights.stat(), weights.read_bytes()
    weights.write_bytes(content[:-1] + b"x")
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint(str(folder)) != before, "its time was set back"
    (tmp_path / "runs/checksums.json").write_text("")
    weights.write_bytes(content)
    assert fingerprint(str(folder)) == before


@pytest.fixture(scope="module")
def trained(toys, tmp_path_factory):
    """A finished training of GPT-2's shape."""
    r = recipe(tmp_path_factory.mktemp("trained"), toys["gpt2"], steps=2)
    here(r)
    return r


def test_finished_runs_are_known_by_content(trained, toys, tmp_path):
    r = trained
    assert is_finished(r)
    row = read_log(Path(r.out))[-1]
    assert row.keys() == {
        "step",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens",
        "tokens_per_s",
        "memory_gb",
        "mfu",
    }
    assert 0.1 < row["memory_gb"] < 10
    assert row["tokens_per_s"] > 0
    assert row["mfu"] is None, "no data sheet says what this processor could do"
    assert launch.run(r, CPU1) == 0, "nothing is trained twice"
    assert is_finished(dataclasses.replace(r, save_every=1)), (
        "a setting that does not change the weights"
    )
    for change in (
        {"learning_rate": 2e-3},
        {"steps": 3},
        {"seed": 1},
        {"student": toys["mistral"]},
        {"precision": "no"},
    ):
        assert not is_finished(dataclasses.replace(r, **change)), change
    write_json_lines(tmp_path / "chats.jsonl", chats(41))
    other = dataclasses.replace(r, data=str(tmp_path / "chats.jsonl"))
    assert not is_finished(other), "other data is another run"


def test_what_a_training_left(trained, tmp_path, monkeypatch):
    """An ordinary folder; the code that made it is noted; an edit of it is seen and not lost."""
    out = shutil.copytree(trained.out, tmp_path / "out")
    r = dataclasses.replace(trained, out=str(out))
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    assert model.config.use_cache, "ready to sample"
    assert fingerprint(str(out / "model")) == run_identity(r)
    assert recipes.other_code(out) == ""
    today = {**recipes.code(), "train.py": "other", "data.py": "other"}
    monkeypatch.setattr(recipes, "code", lambda: today)
    sentence = "out was trained with another data.py and train.py than today's and is not trained"
    assert recipes.other_code(out).startswith(sentence)
    assert is_finished(r), "and not trained again"

    template = out / "model/chat_template.jinja"
    template.write_text(template.read_text() + " ")
    with pytest.raises(UserError, match=r"model: chat_template.jinja changed after the training"):
        launch.run(r, CPU1)
    template.write_text(template.read_text().removesuffix(" "))
    assert is_finished(r)
    assert recipes.facts(out)["texts"] == 40


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '"x"', "{}", pytest.param("[" * 100_000, id="deep")]
)
def test_files_of_a_training_that_hold_something_else(trained, tmp_path, content):
    """Half a file says nothing, and neither does JSON of another shape."""
    out = shutil.copytree(trained.out, tmp_path / "out")
    r = dataclasses.replace(trained, out=str(out))
    (out / "data.json").write_text(content)
    assert not is_finished(r)
    with pytest.raises(UserError, match=r"data.json: missing or damaged \(bf16, cut.*trained anew"):
        recipes.facts(out)
    (out / "model/identity.json").write_text(content)
    assert not is_finished(r)
    assert recipes.other_code(out) == ""
    with open(out / "log.jsonl", "a") as log:
        print(content, file=log)
    with pytest.raises(UserError, match=r"log.jsonl: line 3 is damaged; take it out"):
        read_log(out)
    (out / "model/config.json").write_text(content)
    with pytest.raises(UserError, match=r"its config.json is damaged|of the kind None cannot be"):
        memory.shape_of(memory.config_of(str(out / "model")))
