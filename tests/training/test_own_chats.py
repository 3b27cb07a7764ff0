"""Chats of your own: files, data sets of the hub's library, and what cannot be trained on."""

import importlib.util
import json

import pytest

from helpers.errors import UserError
from helpers.files import write_json_lines
from helpers.training import data, own_chats
from helpers.training.recipe import Recipe
from tests.toys import chats as toy_chats
from tests.toys import toy

USER = {"role": "user", "content": "?"}
ANSWER = {"role": "assistant", "content": "A text."}
SYSTEM = {"role": "system", "content": "Be brief."}


def test_chats_are_taken_as_they_are(tmp_path):
    rows = [{"messages": [SYSTEM, USER, ANSWER, USER, ANSWER | {"name": "x"}], "score": 3}]
    write_json_lines(tmp_path / "own.jsonl", rows)
    read = own_chats.read({"chats": str(tmp_path / "own.jsonl")})
    assert read == [{"messages": [SYSTEM, USER, ANSWER, USER, ANSWER]}]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("no JSON", "line 2: the line: invalid json"),
        ('{"text": "x"}', "line 2: messages: field required"),
        ('{"messages": []}', "line 2: messages: list should have at least 1 item"),
        ({"messages": [USER]}, "line 2: its last message is not the assistant's"),
        ({"messages": [USER | {"content": None}, ANSWER]}, "line 2: messages.0.content: input"),
        ({"messages": [USER | {"role": "tool"}, ANSWER]}, "messages.0.role: input should be 'syst"),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_one_sentence(tmp_path, row, sentence):
    file = tmp_path / "own.jsonl"
    bad = row if isinstance(row, str) else json.dumps(row)
    file.write_text(json.dumps({"messages": [USER, ANSWER]}) + "\n" + bad)
    with pytest.raises(UserError) as error:
        own_chats.read({"chats": str(file)})
    assert str(error.value).startswith(f"chats = {file}, ")
    assert sentence in str(error.value)


def test_an_empty_file_and_none_are_one_sentence(tmp_path):
    (tmp_path / "own.jsonl").write_text("\n")
    with pytest.raises(UserError, match="it holds no chats"):
        own_chats.read({"chats": str(tmp_path / "own.jsonl")})
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        own_chats.read({"chats": str(tmp_path / "gone.jsonl")})


@pytest.fixture
def data_set(tmp_path, monkeypatch):
    """A folder that the hub's library reads, without the hub."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_json_lines(tmp_path / "set/train.jsonl", toy_chats(5))
    return str(tmp_path / "set")


@pytest.mark.skipif(
    importlib.util.find_spec("datasets") is not None, reason="the datasets library is installed"
)
def test_without_the_library_a_data_set_is_one_sentence(data_set):
    with pytest.raises(UserError, match=r"split = train: .* \.venv/bin/pip install datasets"):
        own_chats.read({"chats": data_set, "split": "train"})


def test_a_data_set_is_read_by_the_hubs_library(data_set):
    pytest.importorskip("datasets", reason="the datasets library is not installed")
    assert own_chats.read({"chats": data_set, "split": "train"}) == toy_chats(5)
    assert len(own_chats.read({"chats": data_set, "split": "train[:2]"})) == 2
    with pytest.raises(UserError, match="split = dev: the datasets library cannot read it"):
        own_chats.read({"chats": data_set, "split": "dev"})
    with pytest.raises(UserError, match="split = train: the datasets library cannot read it"):
        own_chats.read({"chats": "nobody/nothing", "split": "train"})


def test_a_folder_is_read_as_it_is_now_though_its_card_is_the_same(data_set, tmp_path):
    pytest.importorskip("datasets", reason="the datasets library is not installed")
    files = [{"split": "train", "path": "train.jsonl"}]
    card = {"configs": [{"config_name": "D1", "data_files": files}]}
    (tmp_path / "set/README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    source = {"chats": data_set, "config": "D1", "split": "train"}
    for chats_now in (toy_chats(5), toy_chats(3)):
        write_json_lines(tmp_path / "set/train.jsonl", chats_now)
        assert own_chats.read(source) == chats_now


def test_a_data_set_without_chats_is_one_sentence(data_set, tmp_path):
    pytest.importorskip("datasets", reason="the datasets library is not installed")
    write_json_lines(tmp_path / "set/train.jsonl", [{"prompt": "?"}])
    with pytest.raises(UserError, match=r"split = train: the datasets .*\['prompt'\]"):
        own_chats.read({"chats": data_set, "split": "train"})


def test_a_chat_that_the_students_template_refuses_is_one_sentence(tmp_path):
    two = {"messages": [USER, USER, ANSWER]}
    write_json_lines(tmp_path / "chats.jsonl", [*toy_chats(1), two])
    tokenizer = data.load_tokenizer(toy(tmp_path / "gemma", "gemma3"))
    r = Recipe(student="", data=str(tmp_path / "chats.jsonl"), out="")
    with pytest.raises(UserError, match=r"chats.jsonl, line 2: the student's chat template refuse"):
        data.read_chats(r, tokenizer)
