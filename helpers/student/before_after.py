"""What a student answers to a few tasks before and after its training, side by side."""

import pandas as pd

from helpers.chat.ledger import Ledger
from helpers.chat.replies import Request
from helpers.task.prompts import extract_answer


def answers(
    texts: pd.DataFrame, students: dict[str, str], ledger: Ledger, *, new_tokens: int, dtype: str
) -> pd.DataFrame | None:
    """The likeliest answer of each student to the task of each text; None without students.

    Args:
        texts: has the columns kind, topic, skills, text, messages; the first message is the task.
        students: folders or hub names, by the column that each one's answers get.

    Returns:
        Columns: kind, topic, skills, one for each student, teacher (the text).
    """
    if not students:
        return None
    from helpers.student.local import Student  # torch, only where a student is asked

    requests = [Request(messages[:1]) for messages in texts.messages]
    columns = {}
    for name, path in students.items():
        settings = {"new_tokens": new_tokens, "temperature": 0.0, "batch": 8, "seed": 0}
        with Student(path, ledger, **settings, dtype=dtype) as student:
            columns[name] = [extract_answer(reply.text) for reply in student.ask(requests)]
    return texts[["kind", "topic", "skills"]].assign(**columns, teacher=texts.text)
