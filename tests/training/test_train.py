"""The training script alone: its steps, its checkpoints, and how it ends when something fails."""

import dataclasses
import random
import signal
from pathlib import Path

import pytest
import torch

from helpers.errors import UserError
from helpers.training import parallel, train
from helpers.training.recipe import Recipe, is_finished, read_log
from tests.training.runs import alone, distance, here, recipe, said, until, weights


def test_learning_rate_warms_up_then_stays():
    r = Recipe(student="", data="", out="", steps=100, warmup=64, learning_rate=2e-5)
    assert train.learning_rate(r, 0) == pytest.approx(2e-5 / 64)
    assert train.learning_rate(r, 31) == pytest.approx(1e-5)
    assert {train.learning_rate(r, s) for s in range(63, 100)} == {2e-5}
    falling = [train.learning_rate(dataclasses.replace(r, decay=True), s) for s in range(64, 100)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] > 0


def test_killed_and_resumed_is_bit_for_bit_the_same(toys, tmp_path):
    """SIGKILL at a random step; a second start goes on and ends at the same weights."""
    runs = {}
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
        runs[name] = recipe(tmp_path / name, toys["llama"], steps=60, save_every=10)
    here(runs["straight"])
    out, at = Path(runs["killed"].out), random.randint(11, 50)
    print(f"killed after step {at}")
    child = alone(runs["killed"])
    until(runs["killed"], at, child)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not is_finished(runs["killed"])
    assert parallel.checkpoints(out), "no checkpoint stood when it was killed"
    here(runs["killed"])
    assert distance(weights(runs["straight"]), weights(runs["killed"])) == 0
    losses = [[row["loss"] for row in read_log(Path(r.out))] for r in runs.values()]
    assert losses[0] == losses[1]
    assert [row["step"] for row in read_log(out)] == list(range(1, 61)), "the log has no step twice"
    assert not list(out.glob("step-*")), "a finished run needs no checkpoint"


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_a_loss_in_chunks_is_the_same(monkeypatch, rows):
    """The logits of so many of 40 tokens at once: the loss and its gradient."""
    torch.manual_seed(0)
    logits = torch.randn(40, 50, requires_grad=True)
    target = torch.randint(50, (40,))
    monkeypatch.setattr(train.memory, "CHUNK", rows * 50)
    loss = train.nats(logits, target)
    (found,) = torch.autograd.grad(loss, logits)
    whole = torch.nn.functional.cross_entropy(logits, target, reduction="sum")
    assert loss.item() == pytest.approx(whole.item())
    assert torch.equal(found, torch.autograd.grad(whole, logits)[0])


@pytest.mark.slow
def test_compiled_layers_learn_the_same(toys, tmp_path):
    runs = {}
    for compile in (False, True):
        folder = tmp_path / str(compile)
        folder.mkdir()
        runs[compile] = recipe(folder, toys["llama"], compile=compile, micro_tokens=400)
        child = alone(runs[compile])
        child.join()
        assert child.exitcode == 0, said(runs[compile])[-2000:]
    assert distance(weights(runs[False]), weights(runs[True])) < 2e-5


def test_checkpoints_by_time_and_a_full_disk(toys, tmp_path):
    """A checkpoint that cannot be written ends the run; the one before stands, to go on from."""
    r = recipe(tmp_path, toys["llama"], steps=60, save_every=1000, save_minutes=1e-6)
    child = alone(r)
    until(r, 20, child)
    child.kill()
    child.join()
    (stands,) = parallel.checkpoints(Path(r.out))
    # A limit on the size of a file fails as a full disk does, in the middle of a write.
    full = alone(r, largest=50_000)
    full.join()
    assert full.exitcode == 1
    assert "cannot be written or read" in said(r).splitlines()[-1], said(r)[-2000:]
    assert parallel.checkpoints(Path(r.out)) == [stands]
    here(dataclasses.replace(r, save_minutes=0.0))
    assert [row["step"] for row in read_log(Path(r.out))] == list(range(1, 61))


def test_a_loss_that_is_no_number_ends_the_run(toys, tmp_path):
    r = recipe(tmp_path, toys["llama"], steps=40, learning_rate=1e30, warmup=30, save_every=1)
    with pytest.raises(UserError, match="lower learning_rate; the last checkpoint stands"):
        here(r)
    assert parallel.checkpoints(Path(r.out)) == [len(read_log(Path(r.out)))]
    assert not is_finished(r)


def test_a_log_of_another_run_is_not_shown_as_this_ones(toys, tmp_path):
    """A finished, B begun in the same folder, back to A: its log is gone, it is trained again."""
    r = recipe(tmp_path, toys["llama"], steps=2)
    here(r)
    other = dataclasses.replace(r, steps=4000)
    child = alone(other)
    until(other, 3, child)
    child.kill()
    child.join()
    assert not is_finished(r)
    half = Path(r.out) / "step-1.tmp"
    half.mkdir()
    here(r)
    assert is_finished(r)
    assert [row["step"] for row in read_log(Path(r.out))] == [1, 2]
    assert not half.exists(), "what a kill in the middle of a save left"


def test_a_card_that_somebody_edited_stays_where_a_model_is_trained_again(toys, tmp_path):
    r = recipe(tmp_path, toys["llama"], steps=1, warmup=0)
    here(r)
    card = Path(r.out) / "model/README.md"
    card.write_text("My own words.")
    again = dataclasses.replace(r, learning_rate=2e-3)
    here(again)
    assert is_finished(again)
    assert card.read_text() == "My own words."


def test_a_finished_training_ends_well_whatever_its_interpreter_would_do(toys, tmp_path):
    """`alone` aborts where the script comes back; so it ends itself."""
    r = recipe(tmp_path, toys["llama"], steps=2)
    child = alone(r)
    child.join()
    assert child.exitcode == 0, said(r)[-2000:]
    assert is_finished(r)


def test_a_student_that_keeps_a_state_over_texts_is_refused(toys):
    r = Recipe(student=toys["mamba"], data="", out="")
    with pytest.raises(UserError, match="MambaForCausalLM does not take packed texts"):
        train.load_model(r, mixed=False)


def test_out_of_memory_is_a_sentence():
    r = Recipe(student="", data="", out="runs/x", micro_tokens=4096)
    with pytest.raises(RuntimeError) as failure:
        torch.empty(10**15)
    assert "lower micro_tokens (now 4096)" in train.sentence(failure.value, r)
    assert "lower micro_tokens" in train.sentence(torch.OutOfMemoryError("CUDA out of memory"), r)
    assert train.sentence(ValueError("a bug"), r) is None
