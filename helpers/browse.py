"""The widgets of `explore.ipynb`: rows to filter, sort, open; two models to compare, to ask."""

import html
from collections.abc import Callable, Iterable, Sequence

import pandas as pd
from ipywidgets import HTML, Button, Dropdown, HBox, IntSlider, Layout, SelectMultiple, VBox
from itables.widget import ITable

from helpers.errors import UserError
from helpers.explore import Run
from helpers.results.scores import METRICS
from helpers.task.catalog import Query, Skill

ANY = "any"
# Rows that go to the browser at once, about 300 KB: Jupyter drops messages of over 3 MB.
MOST = 1000
NARROW = Layout(width="260px")  # fits a phone


class Shown(VBox):
    """Widgets with a page below them, which says in a sentence what a user can mend."""

    def __init__(self, *widgets):
        self.page = HTML()
        super().__init__([*widgets, self.page])

    def show(self, page: Callable[..., str], *of) -> None:
        try:
            self.page.value = page(*of)
        except UserError as error:
            self.page.value = f"<p>{html.escape(str(error))}</p>"

    def still(self) -> str:
        """What is shown now, as HTML for a reader without a kernel."""
        return self.page.value

    def _repr_mimebundle_(self, **settings) -> dict:
        return {**super()._repr_mimebundle_(**settings), "text/html": self.still()}


class Browser(Shown):
    """The rows that pass the filters; a click opens one.

    Args:
        filters: columns to choose a value of; where a row holds a list, any item of it.
        hidden: columns that only the page shows.
        page: makes the HTML of a row.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        filters: Sequence[str],
        page: Callable[[dict], str],
        hidden: Sequence[str] = (),
    ):
        self.table = table
        self.hidden = list(hidden)
        self.page_of = page
        self.filters = {name: chooser(name, [ANY, *values_of(table[name])]) for name in filters}
        self.count = HTML()
        look = {"classes": "display compact", "style": "width:100%;min-width:900px"}
        self.grid = ITable(pd.DataFrame(), select="single", scrollX=True, **look)
        super().__init__(in_a_row(self.filters.values()), self.count, self.grid)
        for filter in self.filters.values():
            filter.observe(self.refresh, "value")
        self.refresh()
        self.grid.observe(self.open_row, "selected_rows")

    def refresh(self, _=None) -> None:
        """Show the rows that pass, and open the first."""
        rows = self.table
        for name, filter in self.filters.items():
            if filter.value != ANY:
                items = rows[name].explode().astype(str)
                rows = rows.loc[items.index[items == filter.value].unique()]
        self.rows = rows.head(MOST)
        more = "" if len(rows) <= MOST else f", the first {MOST:,} below: filter on"
        self.count.value = f"{len(rows):,} of {len(self.table):,}{more}"
        self.grid.update(
            self.columns(), selected_rows=[0][: len(rows)], showIndex=False, maxBytes=0
        )
        self.open_row()

    def columns(self) -> pd.DataFrame:
        return self.rows.drop(columns=self.hidden).map(in_words)

    def still(self) -> str:
        table = self.columns().head(5).to_html(index=False, border=0)
        return f"<p>{self.count.value}</p>{table}{self.page.value}"

    def open_row(self, _=None) -> None:
        """Show the page of the row that is selected."""
        if self.grid.selected_rows and len(self.rows):
            self.show(self.page_of, self.rows.iloc[self.grid.selected_rows[0]].to_dict())
        else:
            self.page.value = ""


class Comparison(Browser):
    """Two models query by query; a click opens their answers side by side."""

    def __init__(self, run: Run, models: Sequence[str]):
        self.run = run
        self.choices = pair(run, models)
        self.choices.append(chooser("metric", METRICS))
        super().__init__(self.compared(), ["setting", "k", "skills"], self.query_page)
        self.children = (in_a_row(self.choices), *self.children)
        for choice in self.choices:
            choice.observe(self.choose, "value")

    def compared(self) -> pd.DataFrame:
        return self.run.compared(*(choice.value for choice in self.choices))

    def choose(self, _) -> None:
        self.table = self.compared()
        self.refresh()

    def query_page(self, query: dict) -> str:
        return self.run.query_page(query, [choice.value for choice in self.choices[:2]])


class Asker(Shown):
    """A query of one's own, asked of two models."""

    def __init__(
        self,
        run: Run,
        models: Sequence[str],
        *,
        skills: Sequence[Skill],
        topics: Sequence[str],
        ask_now: bool,
    ):
        self.run = run
        options = [(f"{skill.category}: {skill.name}", skill) for skill in skills]
        self.topic = chooser("topic", topics)
        self.skills = SelectMultiple(
            options=options, value=skills[:2], rows=8, description="skills", layout=NARROW
        )
        self.models = pair(run, models)
        self.samples = IntSlider(3, min=1, max=10, description="samples", layout=NARROW)
        button = Button(description="Ask", button_style="primary")
        choices = [self.topic, self.skills, *self.models, self.samples]
        super().__init__(in_a_row(choices), button)
        button.on_click(self.ask)
        for choice in choices:
            choice.observe(self.preview, "value")
        self.preview()
        if ask_now:
            self.ask()

    def query(self) -> Query:
        return Query(self.topic.value, self.skills.value)

    def preview(self, _=None) -> None:
        """Show what the models would be asked."""
        self.show(self.run.prompts, self.query())

    def ask(self, _=None) -> None:
        self.page.value += "<p>asking ...</p>"
        models = [choice.value for choice in self.models]
        self.show(self.run.ask, self.query(), models, self.samples.value)


def answers(run: Run) -> Browser:
    """All graded answers of a run."""
    filters = ["model", "setting", "k", "skills", "verdict", "lost", "disagree", "near"]
    columns = [*filters[:3], "topic", "text", *filters[3:]]
    table = run.answers
    table = table[[*columns, *table.columns.difference(columns)]]
    return Browser(table, filters, run.answer_page, hidden=table.columns[len(columns) :])


def corpus(run: Run) -> Browser:
    """All texts that were written for training."""
    filters = ["kind", "topic", "skills", "outcome", "lost"]
    columns = [*filters[:2], "text", *filters[2:]]
    table = run.corpus
    table = table[[*columns, *table.columns.difference(columns)]]
    return Browser(table, filters, run.text_page, hidden=table.columns[len(columns) :])


def values_of(column: pd.Series) -> list[str]:
    """What there is to choose: the values, or those of all lists."""
    return sorted({str(value) for value in column.explode().dropna()})


def in_words(value):
    """A list as a table shows it."""
    return ", ".join(value) if isinstance(value, list) else value


def chooser(name: str, options: Sequence[str]) -> Dropdown:
    return Dropdown(options=options, description=name, layout=NARROW)


def pair(run: Run, models: Sequence[str]) -> list[Dropdown]:
    """Two of the run's models to choose."""
    choices = [chooser(f"model {number}", list(run.models)) for number in (1, 2)]
    for choice, model in zip(choices, models, strict=True):
        choice.value = model
    return choices


def in_a_row(widgets: Iterable) -> HBox:
    """Side by side, and in further rows where the page is narrow."""
    return HBox([*widgets], layout=Layout(flex_flow="row wrap"))
