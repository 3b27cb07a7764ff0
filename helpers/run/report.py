"""Makes `report.html`, a short paper of a profile's run, as one page that loads nothing.

Words, numbers and tables are computed from `scores.csv`, the corpus, the graded answers and the
manifest; figures are those of the executed 04_plot. What a model wrote is escaped, and what a run
does not have has no section.
"""

import re
from html import escape
from pathlib import Path

import nbformat
import pandas as pd

from helpers import paths, reading
from helpers.errors import UserError, command
from helpers.files import read_json_lines, write_text
from helpers.mark import marked
from helpers.paths import ROOT
from helpers.profile.load import load_profile
from helpers.profile.schema import Model
from helpers.results import agreement, anatomy, findings, leaks, scores
from helpers.run import cards, manifest, took
from helpers.run.page import html, paragraph, scrolling
from helpers.task.points import KEPT

STYLE = Path(__file__).with_suffix(".css")
METHOD = Path(__file__).with_name("method.svg")
TITLE = "Can models learn skill composition from examples?"
PAIRS = 5  # texts shown before and after the training
FIGURES = {  # of the executed 04_plot, by the ids of its cells
    "anatomy-missing": "What single answers without full marks lack.",
    "anatomy-position": "By the place of a skill in the request.",
    "anatomy-skill": "Each skill by itself: training ones in setting I, held-out ones in II.",
    "anatomy-combining": "Beside what independent points would give: what is lost in combining.",
}


class Run:
    """What a report is made of: a finished run's parameters, files and tables."""

    def __init__(self, profile: str, notebooks: dict[str, Model]):
        self.notebooks = notebooks
        self.p = notebooks["04_plot"]
        self.rules = {"over_generations": self.p.over_generations}
        self.executed = nbformat.read(paths.run(profile) / "04_plot.ipynb", as_version=4)
        self.table = scores.read_csv(ROOT / self.p.figures / "scores.csv")
        self.corpus = []
        if self.p.generated:
            self.corpus = read_json_lines(paths.corpus(profile), "01_generate")
        self.graded = {}
        for variant in self.p.graded:
            self.graded[variant] = read_json_lines(paths.grades(profile, variant), "03_grade")
        written = findings.with_own(self.p.claims)
        self.verdicts = findings.findings(self.table, written, **self.rules)
        self.swapped = agreement.swap(self.table, written, **self.rules)
        largest = scores.largest(scores.summary(self.table, **self.rules))

        trained = largest[largest.kind != scores.PADDED]
        self.best = trained.sort_values(["texts", "model"]).model.iloc[-1]
        self.base = scores.name_of(scores.student_of(self.best), "base")
        longest = max((record["k"] for record in self.corpus), default=0)
        ks = sorted(set(largest.k))
        self.unseen = next((k for k in ks if k > longest > 0), ks[-1])

    def figure(self, cell: str) -> str:
        """HTML: the figure that a cell of 04_plot shows, its caption as alternative text."""
        outputs = [c.outputs for c in self.executed.cells if c.id == cell]
        for output in outputs[0] if outputs else []:
            if "image/png" in output.get("data", {}):
                alt = escape(output.metadata.get("image/png", {}).get("alt", ""))
                picture = output.data["image/png"].strip()
                return f'<img alt="{alt}" src="data:image/png;base64,{picture}">'
        return ""


# ---- the sections ----


def question(run: Run) -> str:
    queries = run.table.groupby(["setting", "k"])["query"].nunique().max()
    words = paragraph(
        f"Can a model show k language skills at once in a short text on a random topic?"
        f" {len(run.p.graded)} models are asked up to {queries} queries for each k and setting (I:"
        " training skills and topics, II: held-out ones, III: all). Answers a query:"
        f" {run.table.generation.nunique()}; gradings an answer, by a judge:"
        f" {run.table.gradings.max()}. Full marks are all skills shown, on topic, sensible, and at"
        " most max(1, k - 1) sentences; each point goes by majority."
    )
    kept = [record for record in run.corpus if not record["dropped"] and not record["things"]]
    if not kept:
        return words
    example = max(kept, key=lambda record: record["k"])
    asked_for = f"{example['topic']}: {', '.join(example['skills'])}"
    return (
        f"{words}<p>One of the teacher's texts, for k = {example['k']}, {escape(asked_for)}:</p>"
        f"<blockquote>{marked(example['text'], example['skills'])}</blockquote>"
    )


def method(run: Run) -> str:
    if not run.p.generated:
        return run.figure("04-16")
    outcomes = scores.outcomes(run.corpus)
    kept = outcomes[outcomes.outcome == KEPT].texts.sum()
    words = paragraph(
        "A teacher writes texts of a few skills, a judge keeps those with full marks, and a small"
        " student is fine-tuned on them. Does that teach it the ability to combine: more skills at"
        " once than its texts showed, and skills of categories that it was never trained on? Zhao,"
        " Kaur, Yu, Goyal and Arora asked that (NeurIPS 2024, arXiv 2409.19808), and answered yes."
        f" Here {kept:,} of {outcomes.texts.sum():,} texts were kept, and {len(run.p.trained)}"
        " times a student was trained."
    )
    figures = [run.figure(cell) for cell in ("04-15", "04-16")]
    return words + METHOD.read_text(encoding="utf-8") + "".join(figures)


def headline(run: Run) -> str:
    tables = {}
    for metric in scores.METRICS:
        tables[metric] = scores.spread(scores.summary(run.table, metric, **run.rules))
    full_marks = tables.pop("full_marks")
    sentences = [f"Full marks at k = {run.unseen}, of queries and, after the stroke, of answers."]
    for (setting, model), cell in full_marks[run.unseen].items():
        if model in (run.base, run.best):
            sentences.append(f"Setting {setting}, {model}: {cell}.")
    others = html(pd.concat(tables, names=["metric"]), na_rep="")
    return (
        paragraph(" ".join(sentences))
        + run.figure("04-06")
        + paragraph(
            "By k: the mean over queries with its 95% interval, and after the stroke the mean of"
            " single answers. A cell where nothing varies counts as one answer a query, so that 40"
            " of 40 still get an interval, [0.91, 1.00]."
        )
        + html(full_marks, na_rep="")
        + f"<details><summary>The other two metrics</summary>{others}</details>"
    )


def in_words(rows: pd.DataFrame) -> str:
    """HTML: what rows of `findings` say, a line a claim and model."""
    lines = []
    for (claim, setting, model, against), cells in rows.groupby(
        ["claim", "setting", "model", "against"], sort=False
    ):
        gains = []
        for row in cells.itertuples():
            gains.append(f"{row.gain:+.2f} [{row.low:+.2f}, {row.high:+.2f}] at k = {row.k}")
        words = f"{claim} ({model} against {against}, setting {setting}): {', '.join(gains)}."
        lines.append(f"<li>{escape(words)}</li>")
    return f"<ul>{''.join(lines)}</ul>"


def claims(run: Run) -> str:
    verdicts = run.verdicts
    if verdicts.empty:
        gains = findings.exploratory(run.table, verdicts, **run.rules)
        words = "No claim about these mixes was written down beforehand: gains without a test."
        return paragraph(words) + html(findings.headline(gains)) if len(gains) else ""
    parts = [
        paragraph(
            "Each claim was written down before results of these training seeds were seen. A gain"
            " in full marks holds if it is significant after Holm's correction over all of them; it"
            " does not hold if its whole interval lies below 0.05, or it is a loss."
        )
    ]
    for verdict in ("holds", "does not hold", "undecided"):
        rows = verdicts[verdicts.verdict == verdict]
        if len(rows):
            name = "is undecided" if verdict == "undecided" else verdict
            parts.append(f"<h3>What {name}: {len(rows)} of {len(verdicts)}</h3>{in_words(rows)}")
    numbers = ["gain", "low", "high", "single", "p_holm", "verdict"]
    every = verdicts[["setting", "model", "against", "k", *numbers]]
    every = html(every, index=False, float_format="{:.3f}".format)
    parts.append(f"<details><summary>Every number</summary>{every}</details>")
    sweep = findings.findings(run.table, findings.sweep_findings(run.table), **run.rules)
    if len(sweep):
        parts.append(f"<h3>Equal numbers of texts</h3>{run.figure('8dcea781')}")
        parts.append(html(findings.headline(sweep)))
    return "".join(parts)


def beside_the_paper(run: Run) -> str:
    rows = []
    for claim, cells in run.verdicts.groupby("claim", sort=False):
        ours = []
        for (setting, model, verdict), same in cells.groupby(
            ["setting", "model", "verdict"], sort=False
        ):
            ks = ", ".join(map(str, same.k))
            ours.append(f"{verdict} at k = {ks} ({model}, setting {setting})")
        if claim in findings.PAPER:
            rows.append((findings.PAPER[claim], claim, "; ".join(ours)))
    if len(run.swapped):
        stay = f"{run.swapped.survives.sum()} of {len(run.swapped)} verdicts stay"
        rows.append((findings.OTHER_GRADER, "a second judge", stay))
    table = pd.DataFrame(rows, columns=["the paper found", "our claim", "this run"])
    return html(table, index=False, justify="left") if rows else ""


def points_lost(run: Run) -> str:
    missing = anatomy.missing(scores.largest(run.table))
    cell = missing[(missing.model == run.best) & (missing.k == run.unseen)]
    sentences = []
    for setting, rows in cell.groupby("setting"):
        shares = rows[rows["mean"] >= 0.005].sort_values("mean", ascending=False)
        listed = [f"{row.outcome} {row.mean:.0%}" for row in shares.itertuples()]
        sentences.append(f"In setting {setting}: {', '.join(listed)}.")
    words = f"Single answers of {run.best} at k = {run.unseen}. {' '.join(sentences)}"
    parts = [paragraph(words)]
    for name, title in FIGURES.items():
        if picture := run.figure(name):
            parts.append(f"<figure><figcaption>{title}</figcaption>{picture}</figure>")
    if run.p.trained:
        words = anatomy.single_skills(run.table, run.verdicts)
        parts += [paragraph(line) for line in words.split("\n\n")]
    return "".join(parts)


def before_and_after(run: Run) -> str:
    """The first answer to the first query, of up to five settings and k, by base and best model."""
    after = next(v for v in run.p.graded if re.sub(r"-s\d+$", "", v) == run.best)
    if run.base not in run.graded or after == run.base:
        return ""
    place = ["setting", "k", "query", "generation", "topic"]
    both = reading.answers(run.graded[run.base]).merge(
        reading.answers(run.graded[after])[[*place, "text", "lost"]],
        on=place,
        suffixes=(" before", " after"),
    )
    firsts = both[both.k > 1].groupby(["setting", "k"]).head(1)
    chosen = firsts.iloc[:: max(1, len(firsts) // PAIRS)].head(PAIRS)
    texts = ["text before", "text after"]
    columns = ["setting", "k", "topic", "skills", "text before", "lost before"]
    table = reading.table(chosen[[*columns, "text after", "lost after"]], texts)
    words = (
        f"Answers of {run.base} and {after} to the same queries: the first answer to the first"
        " query of each, not the best. Skills are marked where a pattern finds them."
    )
    return paragraph(words) + scrolling(table) if table else ""


def judges(run: Run) -> str:
    parts = []
    if run.table.gradings.max() > 1:
        points = (run.table.k + 2)[run.table.gradings > 1].sum()
        share = 1 - len(anatomy.not_unanimous(run.table)) / points
        words = f"The gradings of one answer agree on {share:.1%} of the points that judges decide."
        parts.append(paragraph(words))
    if len(run.swapped):
        parts.append(f"<pre>{escape(agreement.what_changed(run.swapped))}</pre>")
        parts.append(html(agreement.agreement(run.table).round(3), index=False))
    return "".join(parts)


def shared(run: Run) -> str:
    if not run.p.trained:
        return ""
    table = leaks.leaks(run.graded, run.corpus)
    tasks = table[(table.setting == "I") & (table.k > 1)].same_task.sum()
    held_out = table[table.setting == "II"][["same_topic", "same_skill"]].to_numpy().sum()
    near = table.assign(share=table.near_texts / table.answers)
    near = near.pivot(index=["setting", "k"], columns="model", values="share").round(3)
    words = (
        f"Queries of setting I with k > 1 that were trained on: {tasks}. Queries of setting II with"
        f" a topic or a skill of the training: {held_out}. The table is the share of answers that"
        f" are near-duplicates of a text the model was trained on (similarity {leaks.NEAR} of 100)."
    )
    return paragraph(words) + html(near)


def render(run: Run, lines: list[dict]) -> str:
    """The page, which loads nothing. `lines`: the run's manifest."""
    sections = {
        "The question": question(run),
        "The method": method(run),
        "The headline": headline(run),
        "The findings": claims(run),
        "Beside the paper": beside_the_paper(run),
        "Where the points are lost": points_lost(run),
        "Before and after": before_and_after(run),
        "The judges": judges(run),
        "How they answered": html(scores.manners(run.graded)),
        "Leaks": shared(run),
        "What it took": took.costs(lines),
        "Provenance": took.provenance(lines, run.notebooks),
    }
    contents, body = [], []
    for title, text in sections.items():
        if text:
            place = title.lower().replace(" ", "-")
            contents.append(f'<li><a href="#{place}">{title}</a></li>')
            body.append(f'<section id="{place}"><h2>{title}</h2>{text}</section>')
    about = escape(f"This run: {run.p.caption}. {run.p.about}".strip())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">\
<meta name="viewport" content="width=device-width, initial-scale=1">\
<title>{TITLE}</title><style>{STYLE.read_text(encoding="utf-8")}</style></head><body>
<header><h1>{TITLE}</h1><p><strong>{about}</strong></p></header>
<nav><strong>Contents</strong><ol>{"".join(contents)}</ol></nav>
<main>{"".join(body)}</main>
</body></html>
"""


def main(profile: str) -> None:
    """Write the report beside the profile's figures, and print where; the models get their cards.

    Raises:
        UserError: the profile has not been run to its end.
    """
    notebooks = load_profile(profile)
    executed, p = paths.run(profile) / "04_plot.ipynb", notebooks["04_plot"]
    if not executed.exists():
        raise UserError(
            f"{executed.relative_to(ROOT)}: no such file;"
            f" make reproduce PROFILE={profile} makes it, and the report"
        )
    page = render(Run(profile, notebooks), manifest.read(profile))
    write_text(ROOT / p.figures / "report.html", page)
    cards.write(notebooks)
    print(f"{p.figures}/report.html")


if __name__ == "__main__":
    command(main)
