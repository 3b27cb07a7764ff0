"""The files of a profile: readable or a sentence; what one profile takes from another."""

import os
import shutil

import pytest
import yaml

from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profile import load, yaml_files


def as_folder(path):
    path.mkdir()


def as_loop(path):
    path.symlink_to(path)


def as_pipe(path):
    os.mkfifo(path)


@pytest.mark.parametrize("file", ["shared", "02_finetune"])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (as_folder, "no file that can be read"),
        (as_loop, "no such profile|no file that can be read"),
        (as_pipe, "no file that can be read"),
    ],
)
def test_what_is_no_file_is_a_sentence_and_waits_for_nothing(profile, file, make, said):
    path = profile / f"{file}.yaml"
    path.unlink()
    make(path)
    with pytest.raises(UserError, match=said):
        load.load_profile(profile.name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no keys"),
        ("- a\n- b", "holds no keys"),
        ("seed: [" * 5000, "recursion depth"),
        (f"seed: {'1' * 5000}", "not YAML"),
        ("seed: 2026-99-99", "not YAML"),
        ("seed: \xff".encode("latin-1"), "not YAML"),
        ("seed: !!python/object:os.system x", "not YAML"),
        ("? [a, b]\n: 1", "is no text of one line"),
        ("? {a: b}\n: 1", "is no text of one line"),
        ("1: 1", "the key '1' is no text of one line and at most 100 letters; write a number"),
        ("null: 1", "the key 'null' is no text"),
        ('"a\\nb": 1', "is no text of one line"),
        (f"{'k' * 300}: 1", "at most 100 letters"),
        ("<<: *nothing", "not YAML"),
        ("extends: &a [*a]", "extends = [[...]]"),
    ],
)
def test_what_is_no_yaml_of_ours_is_a_sentence(profile, text, said):
    path = profile / "shared.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        load.load_profile(profile.name)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_a_broken_line_is_not_repeated(profile):
    """It may hold anything, a key too."""
    (profile / "shared.yaml").write_text("teacher: {model: sk-secret-secret: x}")
    with pytest.raises(UserError, match="line 1") as error:
        load.load_profile(profile.name)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("name", ["../smoke", "a b", "$(shell x)", "-x", ".", "x" * 65, "a\nb", ""])
def test_a_profiles_name_is_a_name(name):
    with pytest.raises(UserError, match="no such profile; the profiles are"):
        load.load_profile(name)


# ---------------------------------------------------------------------------------- extends
@pytest.fixture
def extending(profile):
    """A profile that takes everything from mini, and what its YAML files say besides."""
    for file in profile.iterdir():
        file.unlink()

    def write(shared="", **stages):
        (profile / "shared.yaml").write_text(f"extends: mini\n{shared}")
        for stage, text in stages.items():
            (profile / f"{stage}.yaml").write_text(text)
        return profile.name

    return write


def values(profile):
    return {
        name: p.model_dump(exclude={"profile"}) for name, p in load.load_profile(profile).items()
    }


def test_a_profile_that_changes_nothing_is_the_one_it_extends_but_for_its_figures(extending):
    name = extending()
    mini, own = values("mini"), values(name)
    assert mini["04_plot"].pop("figures") == "figures"
    assert own["04_plot"].pop("figures") == f"runs/{name}/figures"
    assert own == mini
    assert load.load_variants(name).jobs == load.load_variants("mini").jobs


def test_what_stands_in_a_file_is_taken_the_rest_stays(extending):
    name = extending("seed: 7", **{"03_grade": "gradings: 5\nevaluation_queries: 3"})
    own, mini = values(name), values("mini")
    grade = own["03_grade/base"]
    assert (grade["seed"], grade["gradings"], grade["evaluation_queries"]) == (7, 5, 3)
    assert grade["settings"] == mini["03_grade/base"]["settings"]
    assert own["01_generate"] == {**mini["01_generate"], "seed": 7}, "03_grade.yaml is 03's alone"


def test_a_shared_value_is_over_the_extended_profiles_stage(extending):
    name = extending("gradings: 5")
    assert values(name)["03_grade/base"]["gradings"] == 5


def test_an_error_names_the_file_that_the_key_came_from(extending):
    name = extending("evaluation_queries: 0")
    with pytest.raises(UserError, match=rf"params/{name}/shared.yaml: evaluation_queries = 0"):
        load.load_profile(name)
    name = extending('mixes: {big: {"1": 9999}}')
    with pytest.raises(
        UserError, match=rf"{name}/shared.yaml: mix of big-s0: 9999 .* 01_generate makes 1200"
    ):
        load.load_profile(name)


@pytest.mark.parametrize("other", ["nowhere", "broken-for-test", "[mini]", "1", '""'])
def test_only_another_profile_can_be_extended(extending, profile, other):
    extending()
    (profile / "shared.yaml").write_text(f"extends: {other}")
    with pytest.raises(UserError, match=r"extends = .*: the other profiles are .*mini"):
        load.load_profile(profile.name)


def test_levels_are_as_many_as_wanted_but_no_circle(extending, profile):
    name = extending()
    (profile / "shared.yaml").write_text("extends: mini-full\nsweeps: {}")
    (profile / "04_plot.yaml").write_text("claims: []")  # those are of its sweeps
    assert "03_grade/five-k123-s2" in load.load_profile(name)
    other = ROOT / "params/circle-for-test"
    other.mkdir()
    try:
        (profile / "shared.yaml").write_text(f"extends: {other.name}")
        (other / "shared.yaml").write_text(f"extends: {name}")
        with pytest.raises(UserError, match=rf"{other.name}/shared.yaml: extends = '{name}': the"):
            load.load_profile(name)
    finally:
        shutil.rmtree(other)


def test_no_profile_repeats_what_it_extends():
    """Everything that it changes is in sight."""
    for name in yaml_files.names():
        files = yaml_files.read_files(name)
        own, *base = [file for file in files if file.stem == "shared"]
        inherited = {key: value for file in base[::-1] for key, value in files[file].items()}
        for key, value in files[own].items():
            assert value != inherited.get(key, ...), (name, key)


# ------------------------------------------------------------------------------ old names
@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            "shared",
            "model: judge",
            "model: judge, batch: true",
            "judge.batch; it is called batch_api",
        ),
        ("02_finetune", "chat_tokens", "max_tokens", "max_tokens; it is called chat_tokens now"),
        ("04_plot", "caption", "world", "world; it is called caption now"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(profile, file, old, new, said):
    path = profile / f"{file}.yaml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError) as error:
        load.load_profile(profile.name)
    assert said in str(error.value)


def test_no_key_that_stands_where_its_name_should_is_repeated(profile):
    path = profile / "shared.yaml"
    values = yaml.safe_load(path.read_text())
    values["teacher"]["key_env"] = "sk-secret"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match="never a key") as error:
        load.load_profile(profile.name)
    assert "secret" not in str(error.value)
    assert (ROOT / "params").is_dir()
