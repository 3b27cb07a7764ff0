"""The kinds of values that parameters have, each with its bounds.

A value within them can be used; anything else is one sentence. Names and folders end up in paths
and in make's rules, so neither may hold anything that a shell or make would read.
"""

import os
import re
import stat
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Discriminator, Field, Tag

from helpers.paths import ROOT
from helpers.task.points import FIRST_JUDGE

# ------------------------------------------------------------------------------------- numbers
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Whole = Annotated[int, Field(ge=0, le=10**8)]
Count = Annotated[int, Field(ge=1, le=10**8)]
Few = Annotated[int, Field(ge=1, le=128)]  # 128 choices are the most that a request may ask for
Tokens = Annotated[int, Field(ge=32, le=2**24)]  # of a chat: no text fits in fewer
NewTokens = Annotated[int, Field(ge=1, le=2**20)]  # of an answer
LearningRate = Annotated[float, Field(gt=0, le=1)]
Temperature = Annotated[float, Field(ge=0, le=10)]
Minutes = Annotated[float, Field(ge=0, le=10**5)]
# US dollars that everything in the profile's ledger, all stages together, may cost; null: no limit.
Budget = Annotated[float, Field(ge=0, le=10**9)] | None


# --------------------------------------------------------------------------------------- words
def one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("write it in one line, without control characters")
    return text


Line = Annotated[str, Field(max_length=2000), AfterValidator(one_line)]
Word = Annotated[Line, Field(min_length=1)]
# A dollar sign opens a formula in a figure's caption, and a variable in a Makefile.
Caption = Annotated[Line, Field(min_length=1, max_length=200, pattern=r"^[^$]*$")]

NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
NAME_IN_WORDS = "letters, digits, _, - and . only, at most 64, and neither - nor . first"


def name(text: str) -> str:
    if not re.fullmatch(NAME, text):
        raise ValueError(f"a name is of {NAME_IN_WORDS}")
    return text


def own_name(text: str) -> str:
    """Of a mix, model or judge. A variant is `<student>-<mix>-s<seed>`: - is kept for that."""
    if not re.fullmatch(r"[A-Za-z0-9_]{1,64}", text) or text in ("base", FIRST_JUDGE):
        raise ValueError(
            "a mix, model or judge has a name of its own, of letters, digits and _ only,"
            f" at most 64; base and {FIRST_JUDGE} are taken"
        )
    return text


Name = Annotated[str, AfterValidator(name)]
MixName = ModelName = JudgeName = Annotated[str, AfterValidator(own_name)]


# --------------------------------------------------------------------------- lists and mappings
def different(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError("it names something twice")
    return values


Value = TypeVar("Value")
Several = Annotated[list[Value], Field(min_length=1), AfterValidator(different)]


def number_of_skills(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]?(\+[1-9][0-9]?)?", text):
        raise ValueError(
            "a number of skills is written as '1', '2', ..., or '1+2' with two things to mention"
        )
    return text


# In JSON and YAML the keys of a mapping are text: {"1": 1200} is 1200 texts of k = 1, and
# "1+2" are texts of one skill and two things to mention.
TextsPerK = dict[Annotated[str, AfterValidator(number_of_skills)], Count]
Texts = Annotated[TextsPerK, Field(min_length=1)]


def source_of_chats(chats: dict[str, str]) -> dict[str, str]:
    """A file, or with a split a data set: of the hub, which `make preflight` asks, or a folder."""
    place = chats.get("chats", "")
    if "split" in chats:
        if not (is_hub_name(place) or (ROOT / place).is_dir()):
            raise ValueError(f"chats = {place!r} is neither a folder nor a hub name owner/name")
    elif "config" in chats:
        raise ValueError("config is of a data set; name its split, too")
    elif why := trouble(ROOT / place):
        raise ValueError(f"chats = {place!r}: {why}; a data set has a split, too")
    return chats


# Chats in place of texts of the corpus, as `helpers.training.chats` reads them.
Chats = Annotated[
    dict[Literal["chats", "config", "split"], Word],
    AfterValidator(source_of_chats),
    Tag("of chats"),
]


def kind_of_mix(mix: Any) -> str:
    is_of_chats = isinstance(mix, dict) and {"chats", "config", "split"} & set(mix)
    return "of chats" if is_of_chats else "of texts"


Mix = Annotated[Annotated[Texts, Tag("of texts")] | Chats, Discriminator(kind_of_mix)]
# The student as it is has an empty mix.
MixOrNone = Annotated[Annotated[TextsPerK, Tag("of texts")] | Chats, Discriminator(kind_of_mix)]


def as_named(mixes: dict[str, dict]) -> dict[str, dict]:
    """A mix that is called k12 holds texts of k = 1 and 2; chats are called like no such mix."""
    for mix, texts in mixes.items():
        if "chats" in texts and re.fullmatch(r"k\d+|padded", mix):
            raise ValueError(f"mix {mix} holds chats of your own; give it another name")
        if re.fullmatch("k[1-9]+", mix) and sorted(mix[1:]) != sorted(texts):
            raise ValueError(
                f"mix {mix} holds texts of k = {', '.join(texts)}; its name says something else"
            )
    return mixes


Mixes = Annotated[dict[MixName, Mix], AfterValidator(as_named)]


# --------------------------------------------------------------------------------------- paths
def trouble(path: Path) -> str:
    """Why a file cannot be read, in a few words; empty if it can."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "no such file"
    except (OSError, ValueError) as error:  # a loop of links, 300 letters, a zero byte
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    if stat.S_ISDIR(mode):
        return "a folder; name a file in it"
    if not stat.S_ISREG(mode):
        return "no regular file"
    return "" if os.access(path, os.R_OK) else "this user may not read it"


def inside(path: str) -> str:
    """As it is written: `runs` may be a link to another disk."""
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError("it lies outside of the repository; name it from the repository's root")
    return path


def regular_file(path: str) -> str:
    if why := trouble(ROOT / path):
        raise ValueError(why)
    return path


def file_or_folder(path: str) -> str:
    return path if (ROOT / path).is_dir() else regular_file(path)


File = Annotated[Word, AfterValidator(regular_file)]
RepositoryFile = Annotated[Word, AfterValidator(inside), AfterValidator(regular_file)]
FileOrFolder = Annotated[Word, AfterValidator(inside), AfterValidator(file_or_folder)]


def figures_folder(path: str) -> str:
    if not re.fullmatch(f"(figures|runs/{NAME}/{NAME})(/{NAME})*", path):
        raise ValueError(
            f"use figures, or a folder under figures/ or runs/<profile>/; {NAME_IN_WORDS}"
        )
    if (ROOT / path).exists() and not (ROOT / path).is_dir():
        raise ValueError("a file; name a folder")
    return path


FiguresFolder = Annotated[Word, AfterValidator(inside), AfterValidator(figures_folder)]

HUB_NAME = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}"


def is_hub_name(student: str) -> bool:
    """`owner/model`, and not a path that begins with a folder of the repository."""
    owner = student.split("/")[0]
    return bool(re.fullmatch(HUB_NAME, student, re.ASCII)) and not (ROOT / owner).exists()


def model_at(student: str) -> str:
    """A folder with a model, or a hub name; whether the hub has it, `make preflight` asks."""
    if is_hub_name(student):
        return student
    folder = ROOT / student
    if trouble(folder / "config.json"):
        raise ValueError("neither a folder with a model nor a hub name owner/model")
    if all(trouble(file) for file in folder.glob("*.safetensors")):
        raise ValueError("a folder without weights (*.safetensors)")
    return student


Student = Annotated[Word, AfterValidator(model_at)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]{1,2})?)$")]
