"""The card beside a trained model: what it was made of, its results; a user's own words stay."""

import itertools
import shutil

import huggingface_hub
import pandas as pd
import pytest

from helpers import model_card, paths
from helpers.files import write_json_lines
from helpers.profile.load import load_profile
from helpers.run import card_results, manifest
from helpers.training import recipe

SMOKE = load_profile("smoke")
TRAINED, PLOT = SMOKE["02_finetune/k123-s0"], SMOKE["04_plot"]
FACTS = {
    "bf16": True,
    "processes": 1,
    "texts": 118,
    "dropped": 2,
    "cut": 0,
    "tokens": 4000,
    "labelled": 1500,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A finished training of the smoke profile, and the card of its data."""
    monkeypatch.setattr("helpers.paths.run", lambda profile: tmp_path)
    out = paths.training("smoke", "k123-s0")
    (out / "model").mkdir(parents=True)
    recipe.write_json(out / "data.json", FACTS)
    write_json_lines(
        out / "log.jsonl", [{"step": 1, "loss": 4.0}] * 5 + [{"step": 6, "loss": 1.0}] * 5
    )
    chat = [{"role": "user", "content": 'Show:\n"simile"'}, {"role": "assistant", "content": "."}]
    write_json_lines(out / "chats.jsonl", [{"messages": chat}])
    paths.dataset("smoke").mkdir()
    (paths.dataset("smoke") / "README.md").write_text("---\nlicense: mit\n---\nTexts.")
    return out / "model"


def test_a_card_says_what_the_model_is_made_of(folder):
    model_card.write(TRAINED)
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.license == "mit"
    assert card.data.base_model is None, "a folder is no name on the hub"
    for words in (
        "`helpers/world/weights/three`; licence: mit",
        "40 texts of k = 1, 40 texts of k = 2, 40 texts of k = 3; licence: mit",
        "118, with 1,500 tokens to learn; 2 dropped",
        "4.000 at the start, 1.000 at the end",
        "Not graded yet",
    ):
        assert words in card.text, words


def test_the_cards_own_lines_run_in_its_folder(folder, monkeypatch, capsys):
    no_card = shutil.ignore_patterns("README.md")
    shutil.copytree(paths.ROOT / TRAINED.student, folder, ignore=no_card, dirs_exist_ok=True)
    model_card.write(TRAINED)
    monkeypatch.chdir(folder)
    lines = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(lines, names := {})
    assert names["chat"] == [{"role": "user", "content": 'Show:\n"simile"'}]
    assert capsys.readouterr().out.strip()


def test_what_is_not_known_is_unknown(folder, monkeypatch):
    own = {"chats": "owner/chats", "split": "train"}
    p = TRAINED.model_copy(update={"student": "nobody-has/this", "mix": own})
    monkeypatch.setattr(model_card, "ANSWERS", 0.001)  # seconds: no hub is that quick
    model_card.write(p)
    data = huggingface_hub.ModelCard.load(folder / "README.md").data
    assert (data.license, data.base_model) == ("unknown", "nobody-has/this")
    assert data.datasets == ["owner/chats"]
    broken = folder.parent / "README.md"
    for front in ("- a list", "license: [mit", "license: \tmit: x"):
        broken.write_text(f"---\n{front}\n---\n")
        assert model_card.licence(folder.parent) == "unknown"


def test_the_results_are_the_models_own_and_its_bases(folder, tmp_path, monkeypatch):
    rows = []
    for model, query in itertools.product(("base", "k12", "k123"), range(8)):
        about = {"model": model, "kind": model, "texts": 0 if model == "base" else 120, "seed": 0}
        task = {"setting": "I", "k": 2, "query": query, "generation": 0, "judge": "first"}
        rows.append({**about, **task, "votes": "11111", "full_marks": query % 2})
    table = pd.DataFrame(rows)
    monkeypatch.setattr(card_results, "ROOT", tmp_path)
    (tmp_path / PLOT.figures).mkdir(parents=True)
    table.to_csv(tmp_path / PLOT.figures / "scores.csv", index=False)
    model_card.write(TRAINED)
    card_results.write(SMOKE)
    card = (folder / "README.md").read_text()
    assert "| I | base |" in card
    assert "| I | k123 |" in card
    assert "k12 |" not in card
    assert PLOT.caption in card
    assert "Not graded yet" not in card


def test_a_card_that_was_edited_stays(folder):
    model_card.write(TRAINED)
    card = folder / "README.md"
    own = card.read_text().replace("Not graded yet.", "My own words.")
    card.write_text(own)
    model_card.write(TRAINED)
    assert card.read_text() == own


def test_a_card_is_no_part_of_what_a_model_is(folder):
    (folder / "model.safetensors").write_bytes(b"weights")
    recipe.note_identity(folder, "identity")
    model_card.write(TRAINED)
    assert recipe.edited(folder) == []
    parameters = {"profile": "smoke", "variant": "k123-s0"}
    made = [path.name for path in manifest.results("02_finetune", parameters)]
    assert made == ["identity.json", "model.safetensors"]


def test_a_model_that_was_moved_away_gets_no_card(folder):
    folder.rename(folder.with_name("elsewhere"))
    model_card.write(TRAINED)
    assert not folder.exists()
