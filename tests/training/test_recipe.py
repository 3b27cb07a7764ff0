"""What a student and a training are: fingerprints, identities, and models that somebody changed."""

import dataclasses
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from helpers.files import write_json_lines
from helpers.training import launch
from helpers.training.recipe import fingerprint, is_finished, read_log, run_identity
from tests.toys import chats
from tests.training.runs import CPU1, recipe


def test_fingerprints(toys, tmp_path):
    assert fingerprint(toys["llama"]) != fingerprint(toys["mistral"])
    assert fingerprint("owner/model") == "owner/model"
    before = fingerprint(toys["llama"])
    template = Path(toys["llama"]) / "chat_template.jinja"
    said = template.read_text()
    template.write_text(said + " ")
    assert fingerprint(toys["llama"]) != before, "another template is another student"
    template.write_text(said)
    assert fingerprint(toys["llama"]) == before
    with pytest.raises(FileNotFoundError, match="no such folder"):
        fingerprint(str(tmp_path / "none"))
    r = recipe(tmp_path, toys["llama"])
    assert run_identity(r) != run_identity(dataclasses.replace(r, batch=11))


def test_finished_runs_are_known_by_content(toys, tmp_path):
    r = recipe(tmp_path, toys["llama"], steps=2)
    assert launch.run(r, CPU1) > 0
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
    assert not is_finished(r), "other data is another run"
    model = AutoModelForCausalLM.from_pretrained(Path(r.out) / "model")
    assert model.config.use_cache, "an ordinary folder, ready to sample"
