"""What the tests of students share: requests, a student in this process, what its ledger holds."""

from pathlib import Path

from helpers.chat.ledger import Ledger
from helpers.chat.replies import Reply, Request
from helpers.paths import ROOT
from helpers.student.kv_cache import Answer
from helpers.student.local import Student
from helpers.student.sampler import in_threads
from tests.forks import forks

FORKS = forks(__name__)
BASE = str(ROOT / "helpers/world/weights/three")
SKILLS = ("metaphor", "simile", "folk physics", "modus ponens", "red herring")


def request(text: str, replicate: int = 0) -> Request:
    return Request([{"role": "user", "content": text}], replicate=replicate)


def requests(n: int = 24) -> list[Request]:
    """Tasks of one to five skills, each asked several times."""
    return [
        request(f"Topic: sewing\nSkills: {', '.join(SKILLS[: 1 + i % 5])}", i) for i in range(n)
    ]


def different(n: int) -> list[Request]:
    words = ("loom", "kite", "oven", "canoe", "hedge", "violin")
    return [request(f"Topic: sewing\nSkills: simile, {words[i % 6]} {i}") for i in range(n)]


def student(path: str, folder: Path, name: str = "l", **settings) -> Student:
    defaults = {"new_tokens": 24, "temperature": 0.7, "batch": 7, "seed": 0}
    return Student(path, Ledger(folder / f"{name}.sqlite"), **(defaults | settings))


def ask_all(path: str, folder: Path) -> None:
    """What is killed in the middle."""
    student(path, folder).ask(different(150))


def sample(model, prompts: list[list[int]], **settings) -> list[list[int]]:
    """The new tokens of each prompt, its place the seed."""
    answers = [Answer(i, tuple(prompt), seed=i) for i, prompt in enumerate(prompts)]
    list(in_threads(model, answers, **settings))
    return [answer.tokens for answer in answers]


def texts(replies: list[Reply]) -> list[str]:
    return [reply.text for reply in replies]


def stored(ledger: Path) -> int:
    summary = Ledger(ledger).summary()
    return int(summary.attempts.sum()) if len(summary) else 0
