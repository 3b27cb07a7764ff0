"""Does a training fit: the arithmetic against real models, and the sentences where it does not."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.training import memory
from helpers.training.recipe import Recipe
from helpers.training.topology import read_topology
from tests.toys import toy

LLAMA_13B = LlamaConfig(
    hidden_size=5120,
    intermediate_size=13824,
    num_hidden_layers=40,
    num_attention_heads=40,
    vocab_size=32000,
)
MISTRAL_7B = MistralConfig(num_key_value_heads=8)  # the rest are the family's defaults
FOUR = read_topology(ROOT / "params/accelerate/gpu4_fsdp2.yaml")


@pytest.fixture
def recipe(tmp_path):
    return Recipe(student=toy(tmp_path / "toy", "mistral"), data="", out=str(tmp_path))


@pytest.mark.parametrize("family", ["llama", "mistral", "base", "13b", "7b"])
def test_weights_are_counted_as_torch_counts_them(tmp_path, family):
    if family in ("13b", "7b"):
        config = {"13b": LLAMA_13B, "7b": MISTRAL_7B}[family]
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        shape = memory.shape_of(config.to_dict())
    else:
        folder = ROOT / "helpers/world/weights/three" if family == "base" else toy(tmp_path, family)
        model = AutoModelForCausalLM.from_pretrained(folder)
        shape = memory.shape_of(memory.config_of(str(folder)))
    assert shape.weights == sum(p.numel() for p in model.parameters())


def test_a_family_with_names_of_its_own(toys):
    """GPT-2 says n_head; its layers are not gated, and counted as if they were."""
    shape = memory.shape_of(memory.config_of(toys["gpt2"]))
    model = AutoModelForCausalLM.from_pretrained(toys["gpt2"])
    assert (shape.layers, shape.hidden, shape.inner, shape.queries) == (2, 32, 128, 32)
    layer = sum(weight.numel() for weight in model.transformer.h[0].parameters())
    assert 1 < shape.layer / layer < 1.4


@pytest.mark.parametrize(
    "change", [{"model_type": "unheard-of"}, {"layer_types": ["attention", "mamba"]}]
)
def test_a_student_whose_layers_are_no_attention(toys, change):
    assert memory.shape_of(memory.config_of(toys["llama"]))
    described = memory.config_of(toys["mamba"])
    with pytest.raises(UserError, match=r"of the kind mamba cannot be trained here.*as in Llama"):
        memory.shape_of(described)
    with pytest.raises(UserError, match="cannot be trained here"):
        memory.shape_of({**described, "num_attention_heads": None, **change})


def test_layers_that_look_back_less_far_than_texts_are_long(monkeypatch, tmp_path, recipe):
    near = MistralConfig(num_key_value_heads=8, sliding_window=512)
    r = dataclasses.replace(recipe, student=config(tmp_path / "near", near))
    shows(monkeypatch, [80.0] * 4)
    assert "look back 512 tokens only" in refusal(r, "gpu4_fsdp2.yaml")


def test_lora_makes_room(toys):
    """7B on one card of 24 GB (25.8e9 bytes); adapters are counted as peft counts them."""
    peft = pytest.importorskip("peft")
    model = AutoModelForCausalLM.from_pretrained(toys["mistral"])
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear"))
    shape = memory.shape_of(memory.config_of(toys["mistral"]))
    assert shape.adapters(4) == adapted.get_nb_trainable_parameters()[0]
    one = read_topology(ROOT / "params/accelerate/gpu1_lora.yaml")
    shape = memory.shape_of(MISTRAL_7B.to_dict())
    r = Recipe(student="", data="", out="", micro_tokens=4096)
    small = dataclasses.replace(r, lora={"rank": 16, "alpha": 32, "target": "all-linear"})
    assert memory.needs(shape, r, one)[memory.PROCESS] > 100
    assert 18 < memory.needs(shape, small, one)[memory.PROCESS] < 24
    assert memory.needs(shape, small, one)["disk"] < 20


def test_operations_are_counted_as_torch_counts_them(tmp_path):
    """Of the matrix products, forward and backward; attention by its causal half."""
    from torch.utils.flop_counter import FlopCounterMode

    folder = toy(tmp_path, "llama")
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    ids = torch.randint(3, 200, (1, 48))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    shape = memory.shape_of(memory.config_of(folder))
    other_half = 6 * shape.layers * shape.queries * 48 * 48
    assert memory.flops(shape, [48], 48) + other_half == pytest.approx(
        counter.get_total_flops(), rel=0.01
    )


def test_the_papers_students_on_the_papers_machine():
    """13B fits 80 GB with 8,192 tokens a pass and recomputed activations, at about 66 GB, only."""
    r = Recipe(student="", data="", out="")
    assert 60 < memory.needs(memory.shape_of(LLAMA_13B.to_dict()), r, FOUR)[memory.PROCESS] < 72
    assert 36 < memory.needs(memory.shape_of(MISTRAL_7B.to_dict()), r, FOUR)[memory.PROCESS] < 48
    kept = dataclasses.replace(FOUR, recomputes=False)
    assert memory.needs(memory.shape_of(LLAMA_13B.to_dict()), r, kept)[memory.PROCESS] > 80


def config(folder: Path, model_config) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(model_config.to_dict()))
    return str(folder)


def shows(monkeypatch, gpus: list[float], cpu: float = 16.0):
    monkeypatch.setattr(
        memory, "devices", lambda t: [cpu / t.processes] * t.processes if t.cpu else gpus
    )


def refusal(r: Recipe, topology: str) -> str:
    with pytest.raises(UserError) as failure:
        memory.check(r, ROOT / "params/accelerate" / topology)
    assert "\n" not in str(failure.value)
    return str(failure.value)


def test_too_few_gpus_say_what_helps(monkeypatch, recipe):
    shows(monkeypatch, [24.0])
    assert (
        "gpu4_fsdp2.yaml: it is for 4 GPUs, and this machine shows 1; take another of "
        "params/accelerate"
    ) in refusal(recipe, "gpu4_fsdp2.yaml")
    shows(monkeypatch, [])
    assert "shows 0; take another" in refusal(recipe, "gpu1.yaml")
    memory.check(recipe, ROOT / "params/accelerate/cpu1.yaml")


def test_too_little_memory_says_what_helps(monkeypatch, tmp_path, recipe):
    large = dataclasses.replace(recipe, student=config(tmp_path / "large", LLAMA_13B))
    shows(monkeypatch, [80.0] * 4)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e13))
    memory.check(large, FOUR.path)
    shows(monkeypatch, [64.0] * 4)
    assert (
        "needs about 66.4 GB of memory, and there are 64.0; take another of params/accelerate, "
        "lower micro_tokens"
    ) in refusal(large, "gpu4_fsdp2.yaml")


def test_what_a_run_holds_already_is_not_asked_for_again(monkeypatch, tmp_path, recipe):
    shows(monkeypatch, [])
    need = memory.needs(
        memory.shape_of(memory.config_of(recipe.student)),
        recipe,
        read_topology(ROOT / "params/accelerate/cpu1.yaml"),
    )["disk"]
    run = dataclasses.replace(recipe, out=str(tmp_path / "out"))
    (tmp_path / "out/step-1").mkdir(parents=True)
    (tmp_path / "out/step-1/weights").write_bytes(b"x" * round(need / 2 * 1e9))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=need * 0.6e9))
    memory.check(run, ROOT / "params/accelerate/cpu1.yaml")


def test_too_little_disk(monkeypatch, recipe):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e5))
    assert "of disk" in refusal(recipe, "cpu1.yaml")


def test_a_student_that_the_hub_does_not_give(monkeypatch, recipe):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError,
        match=r"student = nobody/nothing: the hub does not give its config.json.*HF_TOKEN",
    ):
        memory.config_of("nobody/nothing")


def test_gpus_are_seen_through_nvidia_smi(monkeypatch, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nprintf '81559\\n81559\\n'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert memory.devices(FOUR) == pytest.approx([85.5, 85.5], abs=0.1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert len(memory.devices(FOUR)) == 1
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert memory.devices(FOUR) == []


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40", None),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", None),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200 NVL", "H200 NVL"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_a_gpu_is_known_by_its_whole_name(device, peak):
    assert memory.mfu(1e14, device) == (round(1e14 / memory.PEAKS[peak], 4) if peak else None)
