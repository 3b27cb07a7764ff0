"""LoRA: adapters alone are trained, resumed exactly, the same on any layout, merged at the end."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from transformers import AutoModelForCausalLM

from helpers.errors import UserError
from helpers.training import launch, parallel
from helpers.training.recipe import is_finished, read_log
from tests.training.runs import alone, distance, here, recipe, topology, until, weights

pytest.importorskip("peft")
LORA = {"rank": 4, "alpha": 8, "target": "all-linear"}


def test_killed_resumed_and_merged(toys, tmp_path):
    runs = {}
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
        settings = {"steps": 40, "save_every": 10, "lora": LORA, "learning_rate": 1e-2}
        runs[name] = recipe(tmp_path / name, toys["mistral"], **settings)
    straight, killed = runs.values()
    here(straight)
    child = alone(killed)
    until(killed, 25, child)
    child.kill()
    child.join()
    (step,) = parallel.checkpoints(Path(killed.out))
    saved = FileSystemReader(Path(killed.out) / f"step-{step}").read_metadata().state_dict_metadata
    weights_saved = [name for name in saved if name.startswith("model.")]
    assert weights_saved, saved
    assert all("lora_" in name for name in weights_saved), "a checkpoint holds adapters alone"
    here(killed)
    assert distance(weights(straight), weights(killed)) == 0
    assert [row["step"] for row in read_log(Path(killed.out))] == list(range(1, 41))

    start = load_file(Path(toys["mistral"]) / "model.safetensors")
    made = weights(straight)
    moved = {name for name in start if not torch.equal(start[name], made[name])}
    assert moved == {name for name in start if "proj" in name}, "matrices of layers, nothing else"
    folder = Path(straight.out) / "adapter"
    adapter = load_file(folder / "adapter_model.safetensors")
    scale = LORA["alpha"] / LORA["rank"]
    for name in moved:
        pair = [adapter[f"base_model.model.{name[:-7]}.lora_{x}.weight"] for x in "BA"]
        assert torch.allclose(made[name], start[name] + scale * pair[0] @ pair[1], atol=1e-6), name
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == LORA["rank"]
    AutoModelForCausalLM.from_pretrained(Path(straight.out) / "model")
    assert is_finished(straight)


def test_a_target_that_the_student_has_not(toys):
    model = AutoModelForCausalLM.from_pretrained(toys["llama"])
    with pytest.raises(UserError, match="lora: target"):
        parallel.adapted(model, {**LORA, "target": ["no_such_matrix"]})


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["'no'", "bf16"])
def test_same_weights_on_any_layout(toys, tmp_path, precision):
    """One process, two with DDP, two with FSDP2; in bf16 the base is bf16 and adapters fp32."""
    layouts = {
        "one": topology(tmp_path, "cpu1_one", like="cpu1", mixed_precision=precision),
        "two": topology(tmp_path, "cpu2_two", like="cpu2", mixed_precision=precision),
        "sharded": topology(
            tmp_path,
            "cpu2_sharded",
            like="gpu4_fsdp2",
            mixed_precision=precision,
            num_processes="2",
        ),
        "one sharded": topology(
            tmp_path, "cpu1_sharded", like="gpu1_lora", mixed_precision=precision
        ),
    }
    made = {}
    for name, layout in layouts.items():
        (tmp_path / name).mkdir()
        r = recipe(tmp_path / name, toys["mistral"], lora=LORA, micro_tokens=400)
        launch.run(r, layout)
        made[name] = weights(r)
        shutil.rmtree(r.out)
    start = load_file(Path(toys["mistral"]) / "model.safetensors")
    learned = distance(made["one"], start)
    assert learned > 1e-4, "nothing was trained"
    for name in ("two", "sharded", "one sharded"):
        most = 2e-5 if precision == "'no'" else learned / 5
        assert distance(made["one"], made[name]) < most, name
