"""Texts for training as a data set: those of a run, written, and somebody else's, read.

The form is JSON lines, which the hub's library `datasets` reads. 01_generate writes them to
`runs/<profile>/dataset/`: a file and a config for each D(k), and a card, from `dataset.md`. Texts
of the same form can be trained on in place of a teacher's: `corpus: <file or folder>`.
"""

from collections import Counter
from pathlib import Path
from typing import Literal

import huggingface_hub
import pydantic
from pydantic import Field

from helpers import paths
from helpers.chat.conversation import Conversation
from helpers.chat.endpoint import host
from helpers.errors import UserError
from helpers.files import sha256, validated, write_card, write_json_lines
from helpers.profile.schema import Generate
from helpers.results.scores import outcomes
from helpers.task.catalog import Pool, Query
from helpers.task.pairs import count_apart
from helpers.task.prompts import extract_answer
from helpers.training.own_chats import Message

SIZES = {"n<1K": 1_000, "1K<n<10K": 10_000, "10K<n<100K": 100_000, "100K<n<1M": 1_000_000}


def record_of(query: Query, messages: list[dict], points: list[int] | None = None) -> dict:
    """One line of the corpus, as `corpus.build` returns it.

    Args:
        messages: empty where the teacher gave no answer.
    """
    return {
        "kind": query.kind,
        "k": query.k,
        "topic": query.topic,
        "skills": list(query.names),
        "things": list(query.things),
        "messages": messages,
        "text": Conversation(messages).text if messages else "",
        "points": points,
        "dropped": "",
    }


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
    origin = {"teacher": p.corpus or p.teacher.model, "judge": p.judge.model, "split": "train"}
    for kind in p.texts:
        rows = []
        for record in records:
            if record["kind"] == kind and not record["dropped"]:
                rows.append({**record, **origin})
                del rows[-1]["kind"], rows[-1]["dropped"]
        write_json_lines(folder / f"D{kind}.jsonl", rows)
    write_card(folder / "README.md", card(p, records, dollars))
    return folder


def card(p: Generate, records: list[dict], dollars: float) -> str:
    """The dataset card: front matter that the hub reads, then words."""
    n = sum(not record["dropped"] for record in records)
    configs = []
    for kind in p.texts:
        files = [{"split": "train", "path": f"D{kind}.jsonl"}]
        # The hub's library takes folders of one name and card for one, and gives the older's texts.
        content = f"sha256 {sha256(paths.dataset(p.profile) / f'D{kind}.jsonl')}"
        config = {"config_name": f"D{kind}", "description": content, "data_files": files}
        configs.append(config)
    front = huggingface_hub.DatasetCardData(
        license="unknown" if p.corpus else host(p.teacher.base_url).licence,
        language=["en"],
        size_categories=[name for name, most in SIZES.items() if n < most][:1],
        task_categories=["text-generation"],
        tags=["skill-mix", "synthetic"],
        configs=configs,
    )
    table = outcomes(records).sort_values(["k", "outcome"])
    return str(
        huggingface_hub.DatasetCard.from_template(
            front,
            template_path=Path(__file__).with_suffix(".md"),
            p=p,
            embedded=not p.corpus and p.teacher.base_url.startswith("world:"),
            pack=p.pack(),
            dollars=dollars,
            outcomes=table.to_dict("records"),
        )
    )


class Row(pydantic.BaseModel):
    """A row of somebody else's texts: the last message is the text. Other fields are ignored."""

    topic: str
    skills: list[str] = Field(min_length=1)
    messages: list[Message] = Field(min_length=2)
    k: int | None = None
    things: list[str] = []
    points: list[Literal[0, 1]] | None = None  # as `Points` has them, if the text was graded

    @pydantic.model_validator(mode="after")
    def _fits(self):
        k = len(self.skills)
        if self.k not in (None, k):
            raise ValueError(f"k = {self.k}, and skills names {k}")
        if self.points is not None and len(self.points) != k + 3:
            raise ValueError(f"{len(self.points)} points; k = {k} has {k + 3}")
        roles = [message.role for message in self.messages]
        if roles != ["user", "assistant"] * (len(roles) // 2):
            raise ValueError("messages do not alternate user, assistant")
        if not extract_answer(self.messages[-1].content):
            raise ValueError("the last message holds no text")
        return self


def read(
    path: Path, pool: Pool, *, reserved: set = frozenset(), pairs_apart: float = 0.0
) -> list[dict]:
    """Somebody's texts as records of the corpus, with the points that they claim, or full marks.

    Left out, and counted in a printed line, are those that no training may show.

    Args:
        path: JSON lines, or a folder of them.
        pool: the skills and topics that may be trained on.
        reserved: identities of the evaluation's queries; texts that answer them are left out.
        pairs_apart: the share of the pairs of skills kept apart; texts that show one are left out.

    Raises:
        UserError: no such file, or a row that cannot be used; names its line.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise UserError(f"corpus: {path}: no such file, and no folder with *.jsonl files")
    skills = {skill.name: skill for skill in pool.skills}
    records, left_out = [], Counter()
    for file in files:
        for number, row in validated(file.read_bytes().split(b"\n"), Row, f"corpus: {file}"):
            named = [("skill", name, skills) for name in row.skills]
            for kind, name, trained in (*named, ("topic", row.topic, pool.topics)):
                if name not in trained:
                    raise UserError(
                        f"corpus: {file}, line {number}: {kind} {name} is none of the training"
                        f" {kind}s"
                    )
            shown = tuple(skills[name] for name in row.skills)
            query = Query(row.topic, shown, tuple(row.things))
            messages = [message.model_dump() for message in row.messages]
            if query.identity in reserved:
                left_out["they answer a query of the evaluation"] += 1
            elif count_apart(query.names, pairs_apart):
                left_out[
                    f"they show a pair of skills kept apart (pairs_apart = {pairs_apart})"
                ] += 1
            else:
                full_marks = [1] * (query.k + 3)
                points = full_marks if row.points is None else row.points
                records.append(record_of(query, messages, points))
    for why, n in left_out.items():
        print(f"{n:,} texts of the corpus are left out: {why}")
    return records
