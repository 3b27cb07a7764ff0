"""Files are whole or not there, and a damaged one is named."""

import pytest

from helpers import files
from helpers.errors import UserError


def test_a_file_that_would_stay_the_same_is_left_untouched(tmp_path):
    path = tmp_path / "folder/rows.jsonl"
    files.write_json_lines(path, [{"a": 1}, {"b": "é"}])
    before = path.stat().st_mtime_ns
    files.write_json_lines(path, [{"a": 1}, {"b": "é"}])
    assert path.stat().st_mtime_ns == before
    files.write_json_lines(path, [{"a": 2}])
    assert files.read_json_lines(path, "a stage") == [{"a": 2}]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "line", ["[]", "null", '"x"', "{", "", pytest.param("[" * 100_000, id="deep")]
)
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n', errors="surrogatepass")
    with pytest.raises(UserError, match=r"rows.jsonl, line 2: damaged \(.*a stage makes it"):
        files.read_json_lines(path, "a stage")


def test_the_line_that_is_no_text_is_the_one_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' * 5000 + b'{"a": "\xff"}\n')
    with pytest.raises(UserError, match=r"rows.jsonl, line 5001: damaged \('utf-8' codec"):
        files.read_json_lines(path, "a stage")


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"x.txt: cannot be written \(File exists\)"):
        files.write_text(tmp_path / "file/x.txt", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"folder: cannot be written \(Is a directory\)"):
        files.write_text(tmp_path / "folder", "text")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_cut_line_is_named_with_the_stage_that_makes_it_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(UserError, match=r"rows.jsonl: not there yet; run 01_generate first"):
        files.read_json_lines(path, "01_generate")
    path.write_text('{"a": 1}\n{"a": ')
    with pytest.raises(UserError, match=r", line 2: damaged .* 01_generate makes it again"):
        files.read_json_lines(path, "01_generate")


def test_a_card_that_somebody_has_edited_stays(tmp_path):
    card = tmp_path / "README.md"
    for words in ("First.", "Second."):
        files.write_card(card, words)
        assert card.read_text().startswith(words)
    card.write_text(card.read_text().replace("Second.", "Mine."))
    files.write_card(card, "Third.")
    assert card.read_text().startswith("Mine.")
    card.write_text("Mine.")
    files.write_card(card, "Third.")
    assert card.read_text() == "Mine."
