"""What `explore.ipynb` shows: the prompts of any query, students' answers to it, their grades."""

from typing import TYPE_CHECKING

from helpers import paths
from helpers.chat.conversation import converse
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.errors import UserError
from helpers.judge.grade import grade
from helpers.mark import marked  # noqa: F401
from helpers.task.catalog import Query, Skill
from helpers.task.points import Rules
from helpers.task.prompts import Pack, criteria, generation_turns, grading_turn

if TYPE_CHECKING:
    from helpers.student.local import Student


def show_prompts(topic: str, skills: tuple[Skill, ...], pack: Pack) -> None:
    """Print what teacher, student and judge would be asked."""
    query = Query(topic, tuple(skills))
    for i, turn in enumerate(generation_turns(query, pack), 1):
        print(f"--- generation, turn {i}\n{turn}\n")
    print(f"--- grading\n{grading_turn(query, '(the answer)', pack)}")


def load_students(
    models: dict[str, str], ledger: Ledger, *, new_tokens: int = 120, temperature: float = 0.7
) -> dict[str, "Student"]:
    """The students whose folders exist; says which do not."""
    from helpers.student.local import Student  # torch: only when a model is asked

    students = {}
    for name, path in models.items():
        folder = paths.ROOT / path
        if not folder.is_dir():
            print(f"{name}: {path} is not there yet; make reproduce trains it")
            continue
        students[name] = Student(
            str(folder), ledger, new_tokens=new_tokens, temperature=temperature, batch=64, seed=0
        )
    return students


def show_answers(
    topic: str,
    skills: tuple[Skill, ...],
    attempt: int,
    pack: Pack,
    students: dict[str, "Student"],
    judge: Endpoint,
    ledger: Ledger,
) -> None:
    """Print each student's answer and its points by criterion; `attempt` counts the samples."""
    query = Query(topic, tuple(skills))
    for name, student in students.items():
        (conversation,) = converse(student.ask, [query], [attempt], pack, turns=1)
        text = conversation.text
        print(f"--- {name}\n{text}\n")
        try:
            (graded,) = grade([query], [text], pack, judge, ledger, gradings=3, rules=Rules())
        except UserError as error:
            print(error)
            continue
        points = graded.points.numbers if graded.points else ()
        for point, criterion in zip(points, criteria(query, pack.rubric), strict=False):
            print(f"  {'+' if point else '-'} {criterion}")
        print()
