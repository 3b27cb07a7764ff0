"""What a run needs is looked at before it asks anything; one that needs nothing is let be."""

import os
import subprocess
import sys

import pytest
import yaml

from helpers import paths
from helpers.chat.endpoint import Endpoint
from helpers.files import write_json_lines
from helpers.paths import ROOT
from helpers.profile import load
from helpers.run import preflight
from helpers.training import memory
from helpers.training.topology import read_topology

PAID = Endpoint(base_url="https://nowhere.invalid/v1", model="gpt-6-sol", key_env="A_KEY_OF_OURS")


@pytest.fixture
def look(monkeypatch, tmp_path):
    """What is found for the smoke profile with other values: whether it is there, by what it is."""
    monkeypatch.setattr(paths, "run", lambda profile: tmp_path / profile)

    def looked(**changes):
        notebooks = load.load_profile("smoke")
        for name, p in notebooks.items():
            own = {key: value for key, value in changes.items() if key in type(p).model_fields}
            notebooks[name] = p.model_copy(update=own)
        return {what: good for what, good, _ in preflight.look("smoke", notebooks)}

    return looked


@pytest.mark.parametrize("name", ["smoke", "mini", "mini-full"])
def test_a_profile_that_needs_nothing_prints_nothing(name, capsys):
    preflight.main(name)
    assert capsys.readouterr().out == ""


def test_a_paid_model_needs_a_key_and_a_price(look, monkeypatch):
    monkeypatch.delenv("A_KEY_OF_OURS", raising=False)
    key = "key of https://nowhere.invalid/v1"
    assert look(teacher=PAID) == {key: False, "price of gpt-6-sol": True}
    monkeypatch.setenv("A_KEY_OF_OURS", "secret")
    unknown = PAID.model_copy(update={"model": "nobody-knows"})
    assert look(judge=unknown) == {key: True, "price of nobody-knows": False}
    assert look(judge=PAID.model_copy(update={"free": True})) == {}
    assert look(judge=PAID.model_copy(update={"base_url": "http://127.0.0.1:1/v1"})) == {}


def test_gpus_and_disk_are_those_of_the_trainings(look, monkeypatch):
    four = {"topology": "params/accelerate/gpu4_fsdp2.yaml"}
    gpus, what = "GPUs of gpu4_fsdp2.yaml", "helpers/world/weights/three on gpu4_fsdp2.yaml"
    monkeypatch.setattr(memory, "devices", lambda topology: [])
    assert look(**four) == {gpus: False}
    monkeypatch.setattr(memory, "devices", lambda topology: [80.0] * 4)
    assert look(**four) == {gpus: True, what: True}
    full = type("Usage", (), {"free": 0})
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda path: full)
    assert look(**four) == {gpus: True, what: False}


def test_the_disk_holds_the_models_of_all_trainings(look, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "devices", lambda topology: [80.0] * 4)
    p = load.load_profile("smoke")["02_finetune/k123-s0"]
    p = p.model_copy(update={"topology": "params/accelerate/gpu4_fsdp2.yaml"})
    shape = memory.shape_of(memory.config_of(p.recipe().student))
    one = memory.needs(shape, p.recipe(), read_topology(ROOT / p.topology))["disk"]
    usage = type("Usage", (), {"free": 1.1 * one * memory.GB})
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda path: usage)
    fits = [next(row[1] for row in preflight.training(p, n) if " on " in row[0]) for n in (1, 2)]
    assert fits == [True, False]


def test_the_hub_is_asked_once_for_a_student(look, monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "config_of", asked.append)
    assert look(student="owner/model") == {"student owner/model": True}
    assert asked == ["owner/model"]


def test_the_program_that_serves_is_on_the_path(look):
    assert look(serve="no-such-server {model} {port}") == {"serve: no-such-server": False}
    assert look(serve=f"{sys.executable} {{model}} {{port}}") == {f"serve: {sys.executable}": True}


def test_chats_are_read_before_anything_is_asked(look, tmp_path):
    chats = [{"messages": [{"role": "assistant", "content": "A text."}]}]
    write_json_lines(tmp_path / "own.jsonl", chats)
    source = {"chats": str(tmp_path / "own.jsonl")}
    assert look(mix=source) == {f"chats of {source['chats']}": True}
    (tmp_path / "own.jsonl").write_text("{}")
    assert look(mix=source) == {f"chats of {source['chats']}": False}


def test_what_has_run_is_not_looked_at(look, tmp_path):
    serve = {"serve": "no-such-server {model} {port}"}
    for name in ("03_grade/base", "03_grade/k123-s0"):
        assert look(**serve) == {"serve: no-such-server": False}
        executed = tmp_path / "smoke" / f"{name}.ipynb"
        executed.parent.mkdir(parents=True, exist_ok=True)
        executed.write_text("{}")
        given = tmp_path / f"smoke/params/{name}.yaml"
        given.parent.mkdir(parents=True, exist_ok=True)
        p = load.load_profile("smoke")[name].model_copy(update=serve)
        given.write_text(yaml.safe_dump(p.model_dump(mode="json")))
        os.utime(given, (0, 0))
    assert look(**serve) == {}


def test_the_papers_run_is_stopped_by_one_table():
    """Here: no key, no hub, no GPUs, no vllm."""
    done = subprocess.run(
        [sys.executable, "-m", "helpers.run.preflight", "paper"],
        cwd=ROOT,
        env={"PATH": "/nowhere", "HF_HUB_OFFLINE": "1", "HF_HOME": "/nowhere"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "PROFILE=paper: 5 of 6 things that it needs are not there; nothing was asked"
    )
    lines = done.stdout.splitlines()
    assert [line[:3] for line in lines].count("NO ") == 5
    for words in ("OPENAI_API_KEY: export it", "Llama-2-13b", "for 4 GPUs", "serve: vllm"):
        assert any(words in line for line in lines), words
