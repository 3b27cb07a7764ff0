"""Reads the YAML files of a profile, and knows which of them a value comes from.

A profile is a folder of `params/`: `shared.yaml` holds what its stages share, and one YAML a stage
the rest. With `extends: mini` in `shared.yaml`, what is missing is taken from `mini`.
"""

import os
import re
from pathlib import Path

import yaml

from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profile.error_messages import checked, shown, unknown_key
from helpers.profile.parameters import Parameters
from helpers.profile.schema import DERIVED, STAGES
from helpers.profile.value_types import NAME, trouble
from helpers.profile.variants import Variants

# The values of a profile's files, by the file's path from the repository's root: one a stage,
# `shared.yaml`, then those of the profile that it extends. The first with a key counts.
Files = dict[Path, dict]

# The keys that a file may have, by its stem; `shared` is the last.
KNOWN = {stage: set(model.model_fields) - DERIVED for stage, model in STAGES.items()}
KNOWN["shared"] = set(Variants.model_fields).union(*KNOWN.values())


class OnceEach(yaml.SafeLoader):
    """Keys are text of one line; one that stands twice is an error (YAML takes the last)."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            wrong = ""
            if key.tag != "tag:yaml.org,2002:str" or not re.fullmatch(".{1,100}", key.value):
                wrong = (
                    f"the key {shown(key.value)} is no text of one line and at most 100 letters;"
                    " write a number in quotes, as '1'"
                )
            elif key.value in seen:
                wrong = f"{key.value} stands twice"
            if wrong:
                raise yaml.constructor.ConstructorError(None, None, wrong, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 takes 2e-4 for text, and 2.0e-4 for a number.
OnceEach.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict:
    """The keys and values of a file.

    Raises:
        UserError: it cannot be read, is no YAML, or holds no keys.
    """
    name = path.relative_to(ROOT)
    if why := trouble(path):
        raise UserError(f"{name}: {why}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), OnceEach)
    except yaml.MarkedYAMLError as e:  # without the line itself: it may hold anything
        line = e.problem_mark.line + 1
        raise UserError(f"{name}: not YAML ({e.problem}, line {line})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as e:  # no UTF-8, no such day, 5,000 [
        raise UserError(f"{name}: not YAML ({' '.join(str(e).split())})") from None
    if not isinstance(values, dict):
        raise UserError(f"{name}: holds no keys")
    return values


def names() -> list[str]:
    folders = [file.parent.name for file in (ROOT / "params").glob("*/shared.yaml")]
    return sorted(name for name in folders if re.fullmatch(NAME, name))


def read_files(profile: str, extending: tuple[str, ...] = ()) -> Files:
    """Read a profile, and the one that it extends.

    Args:
        extending: the profiles that extend this one, which it may not extend in turn.

    Raises:
        UserError: no such profile, a file that cannot be read, one that no stage reads, a key where
            it may not stand.
    """
    if profile not in names():
        raise UserError(
            f"PROFILE={shown(profile)}: no such profile; the profiles are {', '.join(names())}"
        )
    files, seen = {}, {}
    for stem, known in KNOWN.items():
        file = Path("params") / profile / f"{stem}.yaml"
        # A stage that the profile does not have, or takes as it is, needs no file.
        files[file] = read_yaml(ROOT / file) if os.path.lexists(ROOT / file) else {}
        for key in files[file]:
            if key not in known:
                raise UserError(f"{file}: {unknown_key(key, known)}")
            if key in seen:
                raise UserError(
                    f"{file}: {key} stands in {seen[key]} already; take one of them out"
                )
            seen[key] = file.name
    for other in sorted((ROOT / "params" / profile).glob("[!.]*.y*ml")):
        name = other.relative_to(ROOT)
        if name not in files and str(name) not in str(files.values()):  # a topology has a name
            may = ", ".join(f"{stem}.yaml" for stem in KNOWN)
            raise UserError(
                f"{name}: no stage reads it, and no parameter names it; a profile's files are {may}"
            )
    extended = files[file].get("extends")
    if extended is None:
        return files
    others = [name for name in names() if name not in (profile, *extending)]
    if extended not in others:
        raise UserError(
            f"{file}: extends = {shown(extended)}: the other profiles are {', '.join(others)}"
        )
    base = read_files(extended, (profile, *extending))
    for values in base.values():
        values.pop("figures", None)  # a profile's figures are its own
    return files | base


def source(files: Files, stage: str, key: str) -> Path:
    """The file that a key's value comes from, or the one that it is missing in."""
    places = [file for file in files if file.stem in (stage, "shared")]
    return next((file for file in places if key in files[file]), places[0])


def parameters_of(files: Files, stage: str, derived: dict) -> Parameters:
    """A stage's parameters, checked: the values of its files, over the derived ones.

    Raises:
        UserError: one sentence about the first key that is wrong.
    """
    model = STAGES.get(stage, Variants)
    values = dict(derived)
    for file in reversed(files):
        if file.stem in (stage, "shared"):
            values |= files[file]
    given = {key: value for key, value in values.items() if key in model.model_fields}
    return checked(model, given, where=lambda key: source(files, stage, key))
