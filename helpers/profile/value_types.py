"""The types of parameters' values, each with its bounds.

A value within them can be used; any other ends in one sentence. Names and folders end up in paths
and in make's rules, so neither may hold anything that a shell or make would interpret.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Discriminator, Field, Tag

from helpers.paths import ROOT
from helpers.task.mixes import Part, below_in, part_of
from helpers.task.points import FIRST_JUDGE


# ------------------------------------------------------------------------------------- numbers
def within(kind: type, least: float, most: float) -> Any:
    return Annotated[kind, Field(ge=least, le=most)]


MOST = 10**8
Seed = within(int, 0, 2**63 - 1)
Whole = within(int, 0, MOST)
Count = within(int, 1, MOST)
Few = within(int, 1, 128)  # a request may ask for at most 128 choices
Tokens = within(int, 32, 2**24)  # of a chat: no text fits in fewer
NewTokens = within(int, 1, 2**20)  # of an answer
Temperature = within(float, 0, 10)
Minutes = within(float, 0, 10**5)
Share = Annotated[float, Field(gt=0, le=1)]
ShareApart = Annotated[float, Field(ge=0, lt=1)]
# US dollars that everything in the profile's ledger, all stages together, may cost; null: no limit.
Budget = within(float, 0, 10**9) | None


# --------------------------------------------------------------------------------------- words
def written(pattern: str, words: str) -> AfterValidator:
    """Checks that the pattern matches the whole text; `words` tell a user what is allowed."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(words)
        return text

    return AfterValidator(check)


NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
PRINTED = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]"

Line = Annotated[
    str,
    Field(max_length=2000),
    written(f"{PRINTED}*", "write it in one line, without control characters"),
]
Word = Annotated[Line, Field(min_length=1)]
# A dollar sign opens a formula in a figure's caption, and a variable in a Makefile.
Caption = Annotated[
    Line, written("[^$]{1,200}", "it has 1 to 200 characters, none of them a dollar sign")
]
Name = Annotated[
    str,
    written(
        NAME,
        "a name is of letters, digits, _, - and . only, at most 64, and neither - nor . first",
    ),
]
# A variant is `<student>-<mix>-s<seed>`: - is kept for that.
MixName = ModelName = JudgeName = Annotated[
    str,
    written(
        rf"(?!(base|{FIRST_JUDGE})$)\w{{1,64}}",
        "a mix, model or judge has a name of its own, of letters, digits and _ only,"
        f" at most 64; base and {FIRST_JUDGE} are taken",
    ),
]


# --------------------------------------------------------------------------- lists and mappings
def different(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError("it names something twice")
    return values


Value = TypeVar("Value")
Several = Annotated[list[Value], Field(min_length=1), AfterValidator(different)]

# In JSON and YAML the keys of a mapping are text: {"1": 1200} is 1200 texts of k = 1, and
# "1+2" are texts of one skill and two things to mention.
Kind = Annotated[
    str,
    written(
        r"[1-9]\d?(\+[1-9]\d?)?",
        "a number of skills is written as '1', '2', ..., or '1+2' with two things to mention",
    ),
]
Texts = Annotated[dict[Kind, Count], Field(min_length=1)]
Setting = Literal["I", "II", "III"]


# --------------------------------------------------------------------------------------- paths
def trouble(path: Path) -> str:
    """Why a file cannot be read, in a few words; empty if it can."""
    if os.access(path, os.R_OK) and path.is_file():  # access: no error of a name too long
        return ""
    return "no file that can be read" if os.path.lexists(path) else "no such file"


def is_folder(path: Path) -> bool:
    return os.access(path, os.R_OK) and path.is_dir()


def regular_file(path: str) -> str:
    if why := trouble(ROOT / path):
        raise ValueError(why)
    return path


def file_or_folder(path: str) -> str:
    return path if is_folder(ROOT / path) else regular_file(path)


# As it is written: `runs` may be a link to another disk.
INSIDE = written(
    r"(?!/)(?!(.*/)?\.\.(/|$)).*",
    "it lies outside of the repository; name it from the repository's root",
)
File = Annotated[Word, AfterValidator(regular_file)]
RepositoryFile = Annotated[Word, INSIDE, AfterValidator(regular_file)]
FileOrFolder = Annotated[Word, AfterValidator(file_or_folder)]
FiguresFolder = Annotated[
    str,
    Field(max_length=200),
    written(
        rf"(figures|runs/{NAME}/[\w-]+)(/[\w-]+)*",
        "use figures, or a folder under figures/ or runs/<profile>/, of letters, digits, _ and -",
    ),
]

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


# --------------------------------------------------------------------------------------- mixes
def source_of_chats(chats: dict[str, str]) -> dict[str, str]:
    """A file, or with a split a data set, which `make preflight` reads."""
    place = chats.get("chats", "")
    if not place or ("split" not in chats and trouble(ROOT / place)):
        raise ValueError(
            f"chats = {place!r} is no file that can be read; a data set has a split, too"
        )
    return chats


# Chats in place of texts of the corpus, as `helpers.training.own_chats` reads them.
Chats = Annotated[
    dict[Literal["chats", "config", "split"], Word],
    AfterValidator(source_of_chats),
    Tag("of chats"),
]


def kind_of_mix(mix: Any) -> str:
    is_of_chats = isinstance(mix, dict) and {"chats", "config", "split"} & set(mix)
    return "of chats" if is_of_chats else "of texts"


def complete_part(part: Part) -> Part:
    """A number of texts, and what they are restricted to (`helpers.task.mixes`)."""
    texts, pairs, below = (part.get(key) for key in ("texts", "pairs", "below_full_marks"))
    if not isinstance(texts, int) or not 1 <= texts <= MOST:
        raise ValueError(f"texts is a whole number from 1 to {MOST:,}")
    if "pairs" in part and not (isinstance(pairs, int) and 1 <= pairs <= texts):
        raise ValueError(f"pairs is a whole number from 1 to that of the texts, {texts:,}")
    if "below_full_marks" in part and not 0 < below <= 1:
        raise ValueError("below_full_marks is a share of the texts, above 0 and at most 1")
    if "below_full_marks" in part and not below_in(part):
        raise ValueError(f"below_full_marks = {below} of {texts} texts is none; leave it out")
    if len(part) > 2:
        raise ValueError("pairs and below_full_marks do not go together")
    return part


def form_of_amount(amount: Any) -> str:
    return "a part" if isinstance(amount, dict) else "a number"


Amount = Annotated[
    Annotated[Count, Tag("a number")]
    | Annotated[
        dict[Literal["texts", "pairs", "below_full_marks"], int | float],
        AfterValidator(complete_part),
        Tag("a part"),
    ],
    Discriminator(form_of_amount),
]


def of_their_kind(mix: dict[str, Amount]) -> dict[str, Amount]:
    """Only a kind with two skills and no things may be restricted to pairs of skills."""
    for kind, amount in mix.items():
        if kind != "2" and "pairs" in part_of(amount):
            raise ValueError(f"pairs is for texts of k = 2, and stands at {kind}")
    return mix


# Empty: nothing, as of a student that is asked as it is.
TextsPerK = Annotated[dict[Kind, Amount], AfterValidator(of_their_kind), Tag("of texts")]
Mix = Annotated[TextsPerK | Chats, Discriminator(kind_of_mix)]


def as_named(mixes: dict[str, dict]) -> dict[str, dict]:
    """A mix called k12 must hold texts of k = 1 and 2, and chats must not have such a name."""
    for mix, texts in mixes.items():
        if not texts:
            raise ValueError(f"mix {mix} holds nothing")
        if "chats" in texts and re.fullmatch(r"k\d+|padded", mix):
            raise ValueError(f"mix {mix} holds chats of your own; give it another name")
        if re.fullmatch("k[1-9]+", mix) and sorted(mix[1:]) != sorted(texts):
            raise ValueError(
                f"mix {mix} holds texts of k = {', '.join(texts)}; its name says something else"
            )
    return mixes


Mixes = Annotated[dict[MixName, Mix], AfterValidator(as_named)]
