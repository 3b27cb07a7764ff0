"""Texts that leave, and texts that come: JSON lines that the hub's `datasets` library reads.

01_generate writes `runs/<profile>/dataset/`: a file and a config for each D(k), and a card. The
same form comes back in: `corpus: <file or folder>` trains on texts that somebody else wrote.
"""

import math
from pathlib import Path
from typing import Literal

import pydantic
import yaml
from pydantic import Field

from helpers import paths
from helpers.chat.endpoint import host
from helpers.errors import UserError
from helpers.files import validated, write_card, write_json_lines
from helpers.profile.schema import Generate
from helpers.results.scores import outcomes
from helpers.task.catalog import Pool, Query

SIZES = {"n<1K": 1_000, "1K<n<10K": 10_000, "10K<n<100K": 100_000}

CARD = """
# Short texts that show several language skills at once

Each text is on one topic and shows k skills. D1 holds texts of one skill, D2 of two, and so on;
D1+2 are texts of one skill that also mention two things. A teacher wrote them, a judge graded them,
and only texts with full marks are here: all skills shown, on topic, sensible, few sentences.

```python
datasets.load_dataset("<this folder>", "D2")["train"]
```

| | |
|---|---|
| Teacher | `{teacher}`; licence of its output: {licence} |
| Judge | `{judge}`, {gradings} grading(s) a text; number of sentences counted in code |
| Skills, topics | training part only; nothing of the held-out part |
| Cost | {dollars} US dollars of the teacher's replies |

A row: `k`, `topic`, `skills`, `things` (mentioned beside the skills), `messages` (the chat as the
teacher had it), `text`, `points` (the skills in their order, topic, sense, sentences), `teacher`,
`judge`, `split`.

## What was written, and what became of it

{outcomes}

## Known errors

The points are a judge's and not a person's: some texts lack a skill that it saw, and some good ones
were dropped. Texts are short, alike in form, and say nothing true about the world.

## Prompts

{prompts}
"""


def write(p: Generate, records: list[dict], dollars: float) -> Path:
    """Write the kept texts of each kind, and the card.

    Args:
        records: what `corpus.build` returns.
        dollars: what the teacher's replies cost; NaN where the price is unknown.

    Returns:
        The folder, for `datasets.load_dataset(folder, "D2")`.
    """
    folder = paths.dataset(p.profile)
    for stale in folder.glob("D*.jsonl"):
        if stale.stem[1:] not in p.texts:
            stale.unlink()
    for kind in p.texts:
        rows = []
        for record in records:
            if record["kind"] == kind and not record["dropped"]:
                rows.append(row_of(record, p))
        write_json_lines(folder / f"D{kind}.jsonl", rows)
    write_card(folder / "README.md", card(p, records, dollars))
    return folder


def row_of(record: dict, p: Generate) -> dict:
    """A kept text as it leaves."""
    row = {name: value for name, value in record.items() if name not in ("kind", "dropped")}
    row["teacher"] = p.corpus or p.teacher.model
    row["judge"] = p.judge.model
    row["split"] = "train"
    return row


def card(p: Generate, records: list[dict], dollars: float) -> str:
    """The dataset card: front matter that the hub reads, then words."""
    licence = "unknown" if p.corpus else host(p.teacher.base_url).licence
    n = sum(not record["dropped"] for record in records)
    size = next((name for name, most in SIZES.items() if n < most), "100K<n<1M")
    configs = []
    for kind in p.texts:
        files = [{"split": "train", "path": f"D{kind}.jsonl"}]
        configs.append({"config_name": f"D{kind}", "data_files": files})
    front = {
        "license": licence,
        "language": ["en"],
        "size_categories": [size],
        "task_categories": ["text-generation"],
        "tags": ["skill-mix", "synthetic"],
        "configs": configs,
    }
    table = ["| D | outcome | texts |", "|---|---|---|"]
    for row in outcomes(records).sort_values(["k", "outcome"]).itertuples():
        table.append(f"| D{row.k} | {row.outcome} | {row.texts:,} |")
    pack = p.pack()
    prompts = [f"```\n{turn}\n```" for turn in (*pack.generation, pack.grading)]
    words = CARD.format(
        teacher=p.corpus or p.teacher.model,
        judge=p.judge.model,
        licence=licence,
        gradings=p.filter_gradings,
        dollars="an unknown number of" if math.isnan(dollars) else f"{dollars:,.2f}",
        outcomes="\n".join(table),
        prompts="\n\n".join(prompts),
    )
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n{words}"


class Message(pydantic.BaseModel):
    role: Literal["user", "assistant"]
    content: str


class Row(pydantic.BaseModel):
    """A text of somebody else's; the last message ends with it. Other fields are not looked at."""

    topic: str
    skills: list[str] = Field(min_length=1)
    messages: list[Message] = Field(min_length=2)
    k: int | None = None
    things: list[str] = []
    points: list[Literal[0, 1]] | None = None  # as `Points` has them, if the text was graded


def read(path: Path, pool: Pool) -> list[tuple[Query, Row]]:
    """Somebody's texts, each with the query that it answers: JSON lines, or a folder of them.

    Args:
        pool: the skills and topics that may be trained on.

    Raises:
        UserError: no such file, or a row that cannot be used; names its line.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise UserError(f"corpus: {path}: no such file, and no folder with *.jsonl files")
    skills = {skill.name: skill for skill in pool.skills}
    texts = []
    for file in files:
        for number, row in validated(file.read_bytes().split(b"\n"), Row, f"corpus: {file}"):
            if wrong := fault(row, pool):
                raise UserError(f"corpus: {file}, line {number}: {wrong}")
            shown = tuple(skills[name] for name in row.skills)
            texts.append((Query(row.topic, shown, tuple(row.things)), row))
    return texts


def fault(row: Row, pool: Pool) -> str:
    """Why a row cannot be trained on, in a few words; empty if it can."""
    trained = [skill.name for skill in pool.skills]
    unknown = [name for name in row.skills if name not in trained]
    if unknown:
        return f"skill {', '.join(unknown)} is none of the training skills"
    if row.topic not in pool.topics:
        return f"topic {row.topic} is none of the training topics"
    k = len(row.skills)
    if row.k not in (None, k):
        return f"k = {row.k}, and skills names {k}"
    if row.points is not None and len(row.points) != k + 3:
        return f"{len(row.points)} points; k = {k} has {k + 3}"
    roles = [message.role for message in row.messages]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        return "messages do not alternate user, assistant"
    return ""
