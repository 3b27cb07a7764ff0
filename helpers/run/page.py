"""The pieces of a page: paragraphs, and tables that scroll where it is narrow."""

import re
from html import escape

import pandas as pd

INTERVAL = re.compile(r"([-+\d.]+) \[([-+\d.]+), ([-+\d.]+)\]")  # kept on one line


def html(table: pd.DataFrame, **settings) -> str:
    """A table with everything in it escaped; `settings` are those of `DataFrame.to_html`."""
    with pd.option_context("display.max_colwidth", None):
        text = table.to_html(border=0, **settings)
    return scrolling(INTERVAL.sub(r"\1&nbsp;[\2,&nbsp;\3]", text))


def scrolling(table: str) -> str:
    return f'<div class="scroll" tabindex="0">{table}</div>'


def paragraph(words: str) -> str:
    return f"<p>{escape(words)}</p>"
