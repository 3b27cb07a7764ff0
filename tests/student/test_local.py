"""A student in this process: what is stored is not sampled again, and what it cannot do is said."""

import shutil
import time
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    MambaConfig,
)

from helpers.errors import UserError
from helpers.training.hub import revision
from helpers.training.recipe import fingerprint
from tests.student.students import (
    BASE,
    FORKS,
    ask_all,
    different,
    request,
    requests,
    stored,
    student,
    texts,
)
from tests.toys import toy


def test_top_p_1_is_what_was_sampled_without_it(tmp_path):
    tasks = requests(8)
    answers = texts(student(BASE, tmp_path).ask(tasks))
    assert texts(student(BASE, tmp_path, top_p=1.0).ask(tasks)) == answers
    assert stored(tmp_path / "l.sqlite") == 8, "the same questions to the ledger"
    assert texts(student(BASE, tmp_path, "b", top_p=0.3).ask(tasks)) != answers


def test_what_is_stored_is_not_sampled_again(tmp_path):
    ours, tasks = student(BASE, tmp_path), requests(12)
    first = ours.ask(tasks[:6])
    assert ours.ask(tasks)[:6] == first
    assert ours.ask([]) == []
    assert stored(tmp_path / "l.sqlite") == 12


def test_killed_in_the_middle_it_goes_on(tmp_path):
    path, file = toy(tmp_path / "toy", "mistral"), tmp_path / "l.sqlite"
    child = FORKS.Process(target=ask_all, args=(path, tmp_path))
    child.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (file.exists() and stored(file) >= 20):
        time.sleep(0.02)
    child.kill()
    child.join()
    assert 20 <= stored(file) < 150, "killed in the middle"
    tasks = different(150)
    again = texts(student(path, tmp_path, batch=64).ask(tasks))
    assert again == texts(student(path, tmp_path, "whole", batch=64).ask(tasks))
    assert stored(file) == 150


def test_another_model_never_reads_these_answers(tmp_path):
    tasks = requests(6)
    base = texts(student(BASE, tmp_path).ask(tasks))
    assert base != texts(student(toy(tmp_path / "toy", "llama"), tmp_path).ask(tasks))
    assert base != texts(student(BASE, tmp_path, temperature=1.5).ask(tasks))


def test_an_answer_cut_at_the_limit_is_marked(tmp_path):
    assert all(r.cut for r in student(BASE, tmp_path, new_tokens=3).ask(requests(5)))
    assert not any(r.cut for r in student(BASE, tmp_path, "b", new_tokens=120).ask(requests(5)))


def test_what_cannot_be_sampled_is_a_sentence(tmp_path):
    ours = student(BASE, tmp_path)
    said = r"a prompt of 50\d tokens and new_tokens = 24 are more than its context of 512; shorten"
    with pytest.raises(UserError, match=said):
        ours.ask([*requests(3), request("sewing " * 500)])
    with pytest.raises(UserError, match="cannot be sampled here on sample_device = cuda:9"):
        student(BASE, tmp_path, device="cuda:9")
    bare = shutil.copytree(toy(tmp_path / "toy", "llama"), tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="its tokenizer has no chat template"):
        student(str(bare), tmp_path).ask(requests(2))
    assert stored(tmp_path / "l.sqlite") == 0, "nothing was sampled"


SIZE = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2}
SMALL = {**SIZE, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (MambaConfig(**SIZE), "cannot be sampled here"),
        (
            BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=4),
            "cannot be sampled here",
        ),
        (FalconConfig(**SMALL), "cannot be sampled here"),
        (
            Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=8, max_position_embeddings=512),
            "attention caps its scores",
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_another_architecture_is_a_sentence_that_names_serve(config, said, tmp_path):
    path = tmp_path / config.model_type
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(toy(tmp_path / "toy", "llama")).save_pretrained(path)
    with pytest.raises(UserError, match=said) as error:
        student(str(path), tmp_path).ask(requests(2))
    assert "give 03_grade a `serve` command" in str(error.value)
    assert "\n" not in str(error.value)


def test_names_of_another_family_are_read(tmp_path):
    """GPT-2 calls its sizes n_embd, n_layer, n_head, n_positions."""
    path = tmp_path / "gpt2"
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=512)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(toy(tmp_path / "toy", "llama")).save_pretrained(path)
    assert len(student(str(path), tmp_path).ask(requests(3))) == 3


def in_hub_cache(cache: Path, name: str, commit: str, model: str) -> None:
    """A model folder as the hub's client would have stored it, as the newest of its name."""
    repository = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(model, repository / "snapshots" / commit)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs/main").write_text(commit)


def test_a_hub_student_is_its_revision(tmp_path, monkeypatch):
    """Another revision under the same name does not read the answers of the first."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def ask():
        revision.cache_clear()  # as in a process of its own
        ours = student("owner/toy", tmp_path)
        return ours.identity, texts(ours.ask(requests(3)))

    first, second = "a" * 40, "b" * 40
    in_hub_cache(tmp_path / "hub", "owner/toy", first, toy(tmp_path / "1", "llama"))
    identity, answers = ask()
    assert identity == f"local:owner/toy@{first}"
    in_hub_cache(tmp_path / "hub", "owner/toy", second, toy(tmp_path / "2", "llama", seed=1))
    identity, others = ask()
    assert identity == f"local:owner/toy@{second}"
    assert others != answers
    assert stored(tmp_path / "l.sqlite") == 6
    assert fingerprint("owner/not-there") == "owner/not-there"
