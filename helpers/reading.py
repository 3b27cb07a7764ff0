"""Graded texts as tables to be read: skills marked, points won and lost by their names."""

import html
from collections.abc import Sequence

import pandas as pd

from helpers.mark import marked
from helpers.results.scores import OTHERS
from helpers.task.points import FIRST_JUDGE


class Page(str):
    """HTML, which a notebook shows as such."""

    def _repr_html_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return "a table to be read in HTML"


def with_points(texts: pd.DataFrame) -> pd.DataFrame:
    """With two columns more, won and lost: criteria by name, from the columns skills and points."""
    won = []
    lost = []
    for skills, points in zip(texts.skills, texts.points, strict=True):
        criteria = list(zip((*skills, *OTHERS), points, strict=True))
        won.append(", ".join(name for name, point in criteria if point))
        lost.append(", ".join(name for name, point in criteria if not point))
    return texts.assign(won=won, lost=lost)


def answers(records: Sequence[dict]) -> pd.DataFrame:
    """Graded answers of 03, those with readable grades, with the first judge's points.

    Columns: what 03_grade writes of an answer, points, won, lost.
    """
    frame = pd.DataFrame(records)
    frame["points"] = [record["grades"][FIRST_JUDGE]["points"] for record in records]
    return with_points(frame[frame.points.notna()])


def table(rows: pd.DataFrame | None, texts: Sequence[str] = ("text",)) -> Page | None:
    """Rows to be read; None where there are none, for which a notebook shows nothing.

    Args:
        rows: has the column skills, which is not shown: they are marked in the texts, or named
            after them.
        texts: the columns in which they are marked. All others are escaped.
    """
    if rows is None or rows.empty:
        return None
    cells = rows.drop(columns="skills").astype(str).map(html.escape)
    for name in texts:
        pairs = zip(rows[name], rows.skills, strict=True)
        cells[name] = [marked(text, skills) for text, skills in pairs]
    with pd.option_context("display.max_colwidth", None):
        page = cells.to_html(escape=False, index=False, border=0)
    for cell in ("<td>", "<th>"):  # which JupyterLab would align to the right
        page = page.replace(cell, f'{cell[:-1]} style="text-align: left">')
    return Page(page)
