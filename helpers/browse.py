"""The widgets of `explore.ipynb`: rows to filter, sort, open; two models to compare, to ask."""

import functools
from collections.abc import Callable, Sequence

import pandas as pd
from ipywidgets import HTML, Dropdown, HBox, Layout, SelectMultiple, VBox, interactive
from itables.widget import ITable

from helpers.errors import UserError
from helpers.explore import Run
from helpers.reading import Page
from helpers.results.scores import METRICS
from helpers.task.catalog import Query, Skill

ANY = "any"
# Rows that go to the browser at once, about 300 KB: Jupyter drops messages of over 3 MB.
MOST = 1000
NARROW = Layout(width="260px")  # fits a phone


class Browser(VBox):
    """The rows that pass the filters; a click opens one.

    Args:
        page: makes the HTML of a row.
        shown: columns that the table shows, in this order.
        filters: those to choose a value of, of a list any of its items.
        chosen: what filters are set to at first.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        page: Callable[[dict], str],
        shown: Sequence[str],
        filters: Sequence[str],
        **chosen: str,
    ):
        self.table = table
        self.page_of = page
        self.shown = list(shown)
        self.filters = {}
        for name in filters:
            options = [ANY, *sorted(set(items_of(table[name]).explode()) - {""})]
            filter = Dropdown(options=options, description=name, layout=NARROW)
            filter.value = chosen.get(name, ANY)
            filter.observe(self.refresh, "value")
            self.filters[name] = filter
        self.count = HTML()
        look = {"classes": "display compact", "style": "width:100%;min-width:900px"}
        self.grid = ITable(pd.DataFrame(), select="single", scrollX=True, showIndex=False, **look)
        self.grid.observe(self.open_row, "selected_rows")
        self.page = HTML()
        in_a_row = HBox([*self.filters.values()], layout=Layout(flex_flow="row wrap"))
        super().__init__([in_a_row, self.count, self.grid, self.page])
        self.refresh()

    def refresh(self, _=None) -> None:
        """Show the rows that pass, and open the first."""
        rows = self.table
        for name, filter in self.filters.items():
            if filter.value != ANY:
                rows = rows[[filter.value in items for items in items_of(rows[name])]]
        self.rows = rows.head(MOST)
        more = "" if len(rows) <= MOST else f", the first {MOST:,} below: filter on"
        self.count.value = f"{len(rows):,} of {len(self.table):,}{more}"
        self.words = self.rows[self.shown].map(in_words)
        self.grid.update(self.words, selected_rows=[0][: len(rows)], maxBytes=0)
        self.open_row()

    def open_row(self, _=None) -> None:
        """Show the page of the row that is selected."""
        selected = self.rows.iloc[self.grid.selected_rows].to_dict("records")
        self.page.value = "".join(self.page_of(row) for row in selected)

    def _repr_html_(self) -> str:
        """What is shown now, for a reader without a kernel."""
        table = self.words.head().to_html(index=False, border=0)
        return f"<p>{self.count.value}</p>{table}{self.page.value}"


class Live(interactive):
    """Choices, and what a function makes of them; without a kernel, what it made of them last."""

    def _repr_html_(self) -> str:
        return self.result._repr_html_() if self.result else "<p>Nothing was asked yet.</p>"


def answers(run: Run, **chosen: str) -> Browser:
    """All graded answers of a run."""
    shown = "model setting k topic text skills verdict lost disagree near".split()
    filters = "model setting k skills verdict lost disagree near".split()
    return Browser(run.answers, run.answer_page, shown, filters, **chosen)


def corpus(run: Run, **chosen: str) -> Browser:
    """All texts that were written for training."""
    shown = "kind topic text skills outcome lost".split()
    filters = "kind topic skills outcome lost".split()
    return Browser(run.corpus, run.text_page, shown, filters, **chosen)


def comparison(run: Run, models: Sequence[str]) -> Live:
    """Two models query by query; a click opens their answers side by side."""
    shown = "setting k topic skills first second difference".split()

    def compare(first: str, second: str, metric: str) -> Browser:
        table = run.compared(first, second, metric)
        page = functools.partial(run.query_page, models=(first, second))
        return Browser(table, page, shown, ["setting", "k", "skills"])

    return Live(compare, {"auto_display": True}, **pair(run, models), metric=list(METRICS))


def asker(run: Run, models: Sequence[str], skills: Sequence[Skill], topics: list[str]) -> Live:
    """A query of one's own, asked of two models at the press of a button."""

    def ask(topic: str, shows: tuple[Skill, ...], first: str, second: str, samples: int) -> Page:
        return run.ask(Query(topic, shows), [first, second], samples)

    named = [(f"{skill.category}: {skill.name}", skill) for skill in skills]
    several = SelectMultiple(options=named, value=skills[:2], rows=8, description="skills")
    choices = {"topic": topics, "shows": several, **pair(run, models), "samples": (0, 10)}
    return Live(ask, {"manual": True, "manual_name": "Ask", "auto_display": True}, **choices)


def in_words(value):
    """A list as a table shows it."""
    return ", ".join(value) if isinstance(value, list) else value


def items_of(column: pd.Series) -> pd.Series:
    """Of each value its items, if it is a list of them or in words; else itself, as text."""
    return column.map(in_words).astype(str).str.split(", ")


def pair(run: Run, models: Sequence[str]) -> dict[str, Dropdown]:
    """Two of the run's models to choose."""
    choices = {}
    for name, model in zip(("first", "second"), models, strict=True):
        if model not in run.models:
            raise UserError(f"models: {model} is none of {', '.join(run.models)}")
        choices[name] = Dropdown(options=list(run.models), value=model)
    return choices
