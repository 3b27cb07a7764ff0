"""The widgets of `explore.ipynb`.

Tables of answers and texts to filter, sort and open; two models compared; a question to ask.
"""

from collections.abc import Callable, Sequence

import pandas as pd
from ipywidgets import HTML, Dropdown, SelectMultiple, VBox, interactive
from itables.widget import ITable

from helpers.explore import Run
from helpers.results.scores import METRICS
from helpers.task.catalog import Query, Skill
from helpers.text_tables import PAGES, Page

MOST = 2_500_000  # bytes of a table: Jupyter drops messages of over 3 MB
SHOWN = {"auto_display": True}  # what a function makes is shown below the choices
FEW = 40  # a column with at most so many values is filtered by choosing from a list


class Browser(VBox):
    """Rows to filter and sort by the heads of their columns; a click opens one.

    Args:
        page: makes the HTML of a row.
        columns: those that the table shows, in this order.
    """

    def __init__(self, rows: pd.DataFrame, page: Callable[[dict], str], columns: Sequence[str]):
        self.rows = rows
        self.page_of = page
        self.words = rows[columns].map(in_words)
        to_choose = [i for i, name in enumerate(columns) if self.words[name].nunique() <= FEW]
        self.grid = ITable(
            self.words,
            classes="display compact",
            style="width:100%;min-width:900px",
            select="single",
            selected_rows=[0][: len(rows)],
            scrollX=True,
            showIndex=False,
            maxBytes=MOST,
            pageLength=5,
            lengthMenu=[5, 20, 100],
            columnControl=[["search"]],
            columnDefs=[{"targets": to_choose, "columnControl": [["searchList"]]}],
        )
        self.grid.observe(self.open_row, "selected_rows")
        self.page = HTML()
        super().__init__([self.grid, self.page])
        self.open_row()

    def open_row(self, _=None) -> None:
        """Show the page of the row that is selected."""
        selected = self.rows.iloc[self.grid.selected_rows].to_dict("records")
        self.page.value = "".join(map(self.page_of, selected))

    def _repr_html_(self) -> str:
        """What is shown at first, for a reader without a kernel."""
        table = PAGES.table(self.words.columns, self.words.head().to_dict("records"), ())
        return f"{table}<p>... {len(self.rows):,} in all. The first of them:</p>{self.page.value}"


class Live(interactive):
    """Choices, and below them what a function shows for them; without a kernel, its last result."""

    def __init__(self, make: Callable, settings: dict, **choices):
        super().__init__(make, settings, **choices)
        for choice in self.children[:-1]:
            choice.layout.width = "240px"  # fits a phone

    def _repr_html_(self) -> str:
        return self.result._repr_html_() if self.result else "<p>(Needs a kernel: make lab.)</p>"


def answers(run: Run) -> Live:
    """All graded answers of a model; those whose gradings differ first, then by falling k."""
    columns = "setting k topic text skills verdict lost disagree near".split()

    def browser(model: str) -> Browser:
        rows = run.answers[run.answers.variant == model]
        rows = rows.sort_values(["disagree", "k"], ascending=[True, False], kind="stable")
        return Browser(rows, run.page, columns)

    return Live(browser, SHOWN, model=one_of(run, -1))


def comparison(run: Run) -> Live:
    """Two models query by query; a click opens their answers side by side."""
    columns = "setting k topic skills first second difference".split()

    def browser(first: str, second: str, metric: str) -> Browser:
        rows = run.compared(first, second, metric)
        return Browser(rows, lambda row: run.query_page(row, [first, second]), columns)

    two = {"first": one_of(run, 0), "second": one_of(run, -1)}
    return Live(browser, SHOWN, **two, metric=list(METRICS))


def corpus(run: Run) -> Browser:
    """All texts that were written for training; those that were dropped first."""
    columns = "kind topic text skills outcome lost".split()
    rows = run.corpus.sort_values("dropped", ascending=False, kind="stable")
    return Browser(rows, run.page, columns)


def asker(run: Run, skills: Sequence[Skill], topics: list[str]) -> Live:
    """A form for a query of one's own, which asks the chosen models at the press of a button."""

    def ask(topic: str, skills: tuple[Skill, ...], models: Sequence[str], samples: int) -> Page:
        return run.ask(Query(topic, skills), models, samples)

    named = [(f"{skill.category}: {skill.name}", skill) for skill in skills]
    return Live(
        ask,
        {**SHOWN, "manual": True, "manual_name": "Ask"},
        topic=topics,
        skills=SelectMultiple(options=named, value=skills[:2], rows=8),
        models=SelectMultiple(options=list(run.models), value=run.chosen),
        samples=(0, 10),
    )


def one_of(run: Run, place: int) -> Dropdown:
    """The run's models to choose from."""
    return Dropdown(options=list(run.models), value=run.chosen[place])


def in_words(value):
    """A list as a table shows it."""
    return ", ".join(value) if isinstance(value, list) else value
