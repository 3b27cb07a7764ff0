"""The YAML files of a profile: which there are, and which of them a value comes from.

A profile is a folder of `params/`: `shared.yaml` holds what its stages share, and one YAML a stage
the rest. With `extends: mini` in `shared.yaml`, what is missing is taken from `mini`.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profile.kinds import NAME, NAME_IN_WORDS, trouble
from helpers.profile.schema import DERIVED, STAGES, Model, Variants
from helpers.profile.sentences import checked, shown, unknown_key

MODELS = [*STAGES.values(), Variants]
KNOWN = sorted({name for model in MODELS for name in model.model_fields} - DERIVED)


class OnceEach(yaml.SafeLoader):
    """Keys are text of one line; one that stands twice is an error (YAML takes the last)."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            wrong = ""
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.tag != "tag:yaml.org,2002:str":
                wrong = f"the key {shown(key.value)} is no text; write it in quotes, as '1'"
            elif not key.value.isprintable() or not 0 < len(key.value) <= 100:
                wrong = f"the key {shown(key.value)} is empty, too long or not of one line"
            elif key.value in seen:
                wrong = f"{key.value} stands twice"
            if wrong:
                raise yaml.constructor.ConstructorError(None, None, wrong, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict:
    """The keys and values of a file.

    Raises:
        UserError: it cannot be read, is no YAML, or holds no keys.
    """
    name = path.relative_to(ROOT)
    if why := trouble(path):
        raise UserError(f"{name}: {why}; a profile has shared.yaml and one YAML a stage")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), OnceEach)
    except RecursionError:
        raise UserError(f"{name}: not YAML (it is nested too deep)") from None
    except yaml.MarkedYAMLError as e:  # without the line itself: it may hold anything
        line = e.problem_mark.line + 1
        raise UserError(f"{name}: not YAML ({e.problem}, line {line})") from None
    except (yaml.YAMLError, ValueError) as e:  # no UTF-8, no such day, 5,000 digits
        raise UserError(f"{name}: not YAML ({' '.join(str(e).split())})") from None
    if not isinstance(values, dict):
        raise UserError(f"{name}: holds no keys")
    return values


def names() -> list[str]:
    folders = [path.name for path in (ROOT / "params").iterdir() if re.fullmatch(NAME, path.name)]
    return sorted(name for name in folders if os.path.lexists(ROOT / f"params/{name}/shared.yaml"))


@dataclass(frozen=True)
class Layer:
    """A file's values."""

    file: Path  # from the repository's root
    values: dict


@dataclass(frozen=True)
class Files:
    """A profile's files, and those of the profile that it extends."""

    layers: dict[str, list[Layer]]  # by stage, and "shared"; the nearest first

    def source(self, stage: str, key: str) -> Path:
        """The file that a key's value comes from, or the one that it is missing in."""
        nearest = self.layers[stage]
        return next((layer.file for layer in nearest if key in layer.values), nearest[0].file)

    @contextlib.contextmanager
    def named(self, stage: str, key: str, words: str = "") -> Iterator[None]:
        """Errors raised inside begin with the file that the key came from, and with `words`."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{self.source(stage, key)}: {words}{error}") from None

    def checked(self, stage: str, derived: dict) -> Model:
        """A stage's parameters: its YAML over the shared one, over the extended profile's two.

        Raises:
            UserError: one sentence about the first key that is wrong.
        """
        model = STAGES.get(stage, Variants)
        values = {key: value for key, value in derived.items() if key in model.model_fields}
        for layer in reversed(self.layers[stage]):
            for key, value in layer.values.items():
                if key in model.model_fields or layer.file.stem == stage != "shared":
                    values[key] = value
        return checked(model, values, where=lambda key: self.source(stage, key))


def read_files(profile: str) -> Files:
    """Read a profile, and the one that it extends.

    Raises:
        UserError: no such profile, a file that cannot be read, a key where it may not stand.
    """
    if not re.fullmatch(NAME, profile):
        raise UserError(f"PROFILE={shown(profile)}: a profile's name is of {NAME_IN_WORDS}")
    if profile not in names():
        raise UserError(
            f"PROFILE={profile}: no such profile; the profiles are {', '.join(names())}"
        )
    folders = [read_folder(profile)]
    shared = folders[0]["shared"]
    if extended := extended_by(shared, profile):
        folders.append(read_folder(extended))
        if deeper := folders[1]["shared"].values.get("extends"):
            raise UserError(
                f"{shared.file}: extends = {extended}, which extends {deeper} itself;"
                f" name {deeper}, and write here what else is wanted"
            )
        for layer in folders[1].values():
            layer.values.pop("figures", None)  # a profile's figures are its own
    layers = {"shared": [folder["shared"] for folder in folders]}
    for stage in STAGES:
        places = ((folder, name) for folder in folders for name in (stage, "shared"))
        layers[stage] = [folder[name] for folder, name in places if name in folder]
    return Files(layers)


def extended_by(shared: Layer, profile: str) -> str | None:
    """The name of the profile that this one extends."""
    extended = shared.values.get("extends")
    others = [name for name in names() if name != profile]
    if extended is not None and extended not in others:
        raise UserError(
            f"{shared.file}: extends = {shown(extended)}: the other profiles are"
            f" {', '.join(others)}"
        )
    return extended


def read_folder(profile: str) -> dict[str, Layer]:
    """`shared` and the stages.

    A stage's file may be missing where the profile extends another, or has no such stage.
    """
    folder = Path("params") / profile
    shared = Layer(folder / "shared.yaml", read_yaml(ROOT / folder / "shared.yaml"))
    for key in shared.values:
        if key not in KNOWN:
            raise UserError(f"{shared.file}: {unknown_key(key, KNOWN)}")
    trains = shared.values.get("students") and (
        shared.values.get("mixes") or shared.values.get("sweep")
    )
    layers = {"shared": shared}
    for stage in STAGES:
        file = folder / f"{stage}.yaml"
        is_needed = "extends" not in shared.values and (
            trains or stage not in ("01_generate", "02_finetune")
        )
        if not is_needed and trouble(ROOT / file) == "no such file":
            continue
        layers[stage] = Layer(file, read_yaml(ROOT / file))
        for key in layers[stage].values:
            if key in DERIVED:
                raise UserError(f"{file}: {key} is set by the profile; take it out")
            if key in shared.values:
                raise UserError(f"{file}: {key} stands in shared.yaml already; take it out")
    return layers
