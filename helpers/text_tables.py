"""Tables of graded texts, as HTML: skills marked, points won and lost by their names.

The templates are in `text_tables.html`.
"""

from collections.abc import Sequence
from itertools import compress
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from helpers.highlight import marked
from helpers.results.scores import METRICS, OTHERS
from helpers.task.points import FIRST_JUDGE, Points

FULL = "full marks"
UNREADABLE = "unreadable"
# The macros of `text_tables.html`, to be called.
FORMS = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
FORMS.globals |= {"marked": marked, "metrics": METRICS}
PAGES = FORMS.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8")).module


class Page(Markup):
    """HTML, which a notebook shows as such."""

    def _repr_html_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return "a page to be read in HTML"


def outcome(skills: Sequence[str], points: Sequence[int] | None) -> dict:
    """What a judge's points come to, as columns of a table.

    `verdict` is full marks, the fault, or unreadable; `won` and `lost` name the criteria; the
    metrics are NaN where no grading was readable.
    """
    if points is None:
        words = {"verdict": UNREADABLE, "won": "", "lost": UNREADABLE}
        return words | dict.fromkeys(METRICS, np.nan)
    names = (*skills, *OTHERS)
    lost = compress(names, (not point for point in points))
    result = Points.of(points)
    return {
        "verdict": result.fault() or FULL,
        "won": ", ".join(compress(names, points)),
        "lost": ", ".join(lost),
        **result.metrics(),
    }


def with_points(texts: pd.DataFrame) -> pd.DataFrame:
    """Texts, which have the columns skills and points, with those of `outcome` beside them."""
    outcomes = list(map(outcome, texts.skills, texts.points))
    return texts.join(pd.DataFrame(outcomes, index=texts.index))


def answers(records: Sequence[dict]) -> pd.DataFrame:
    """Graded answers of 03, with the first judge's points.

    Columns: what 03_grade writes of an answer, points, and those of `outcome`.
    """
    points = [record["grades"][FIRST_JUDGE]["points"] for record in records]
    return with_points(pd.DataFrame(records).assign(points=points))


def table(rows: pd.DataFrame | None, texts: Sequence[str] = ("text",)) -> Page | None:
    """Rows as an HTML table; None, which a notebook does not show, where there are no rows.

    Args:
        rows: has the column skills, which is not shown: skills are marked in the texts, or named
            after them.
        texts: the columns in which skills are marked. All others are escaped.
    """
    if rows is None or rows.empty:
        return None
    columns = rows.columns.drop("skills")
    return Page(PAGES.table(columns, rows.to_dict("records"), texts))
