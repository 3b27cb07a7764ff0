"""Makes `report.html`, one self-contained page, from a profile's executed 04_plot notebook, its manifest and its parameters."""

import re
import sys
from html import escape

import nbformat
import pandas as pd
import yaml
from nbconvert import HTMLExporter

from helpers import paths
from helpers.errors import UserError, command
from helpers.paths import ROOT
from helpers.profile.load import load_profile
from helpers.profile.schema import Model
from helpers.run import manifest

STYLE = """
body { font: 16px/1.5 Georgia, serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; border: 0; margin: 1rem 0; font: 12px/1.4 system-ui, sans-serif; display: block; overflow-x: auto; }
table:not(:has(tbody tr)) { display: none; }
.facts td { overflow-wrap: anywhere; }
th, td { padding: .25rem .45rem; border: 0; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
img, svg { max-width: 100%; height: auto; }
pre, code { overflow-wrap: anywhere; }
pre { white-space: pre-wrap; font-size: 13px; background: #f6f6f6; padding: .6rem; }
.prompt, .anchor-link, .jp-InputArea { display: none; }
@media print { body { max-width: none; font-size: 11pt; } h2 { break-after: avoid; } img, tr { break-inside: avoid; } }
@media print { table { display: table; font-size: 8pt; } }
"""

INTERVAL = re.compile(r"([-+\d.]+) \[([-+\d.]+), ([-+\d.]+)\]")  # kept on one line


def stages(lines: list[dict]) -> pd.DataFrame:
    """What the stages took and cost, all attempts together. Columns: stage, notebooks, runs, minutes, replies, tokens, US dollars.

    Minutes are of the runs that were done, failed and interrupted ones too; notebooks run side by side. A cost of which a
    part is unknown is unknown.
    """
    rows = []
    for line in lines:
        asked = (
            line["asked"] if isinstance(line["asked"], list) else [{"replies": 0, "dollars": None}]
        )
        tokens = sum(a.get("prompt_tokens", 0) + a.get("completion_tokens", 0) for a in asked)
        dollars = (
            float("nan")
            if any(a["dollars"] is None for a in asked)
            else sum(a["dollars"] for a in asked)
        )
        rows.append(
            (
                line["notebook"].split()[0],
                line["notebook"],
                line["seconds"] / 60,
                sum(a["replies"] for a in asked),
                tokens,
                dollars,
            )
        )
    table = pd.DataFrame(
        rows, columns=["stage", "notebook", "minutes", "replies", "tokens", "US dollars"]
    )
    found = table.groupby("stage").agg(
        notebooks=("notebook", "nunique"),
        runs=("notebook", "size"),
        minutes=("minutes", "sum"),
        replies=("replies", "sum"),
        tokens=("tokens", "sum"),
    )
    found["US dollars"] = table.groupby("stage")["US dollars"].agg(
        lambda some: some.sum(skipna=False)
    )
    return found.reset_index()


def provenance(lines: list[dict], notebooks: dict[str, Model]) -> str:
    """HTML: what it took and cost, on what code, packages and machine it ran, and with which parameters."""
    done = list(manifest.newest(lines).values())

    def every(values) -> str:
        return escape("; ".join(sorted(set(values))))

    commits = every(
        f"{line['commit'] or 'unknown'}{' with changes' if line['changed'] else ''}"
        for line in done
    )
    machines = every(
        ", ".join(
            [
                line["machine"]["processor"],
                f"{line['machine']['cores']} cores",
                *line["machine"]["gpus"],
            ]
        )
        for line in done
    )
    packages = every(
        f"{name} {version}" for line in done for name, version in line["versions"].items()
    )
    p = notebooks["04_plot"]
    trained = {values.training_seed for name, values in notebooks.items() if name.startswith("02")}
    seeds = f"split, queries and sampling {p.seed}; training {', '.join(map(str, sorted(trained)))}"
    rows = {"commit": commits, "machine": machines, "seeds": seeds, "packages": packages}
    facts = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows.items())
    costs = stages(lines).to_html(
        index=False,
        border=0,
        na_rep="unknown",
        formatters={
            "minutes": "{:.1f}".format,
            "replies": "{:,}".format,
            "tokens": "{:,}".format,
            "US dollars": "{:,.2f}".format,
        },
    )
    shown = {
        name.split("/")[0]: values.model_dump(mode="json")
        for name, values in reversed(notebooks.items())
    }
    texts = {
        stage: escape(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        for stage, values in sorted(shown.items())
    }
    parameters = "".join(
        f"<details><summary>{stage}</summary><pre>{text}</pre></details>"
        for stage, text in texts.items()
    )
    intro = "Every run of a stage since the run's folder was made; notebooks of a stage run side by side."
    return (
        f"<h2>What it took</h2>\n<p>{intro}</p>\n{costs}\n<h2>Provenance</h2>\n<table class='facts'>{facts}</table>\n"
        f"<p>Parameters, of the first notebook of each stage:</p>\n{parameters}"
    )


def render(notebook: nbformat.NotebookNode, caption: str, more: str = "") -> str:
    """The notebook's prose and results, and `more`, as a page that loads nothing; `caption` says what its numbers are from."""
    exporter = HTMLExporter(template_name="basic", exclude_input=True, embed_images=True)
    body, _ = exporter.from_notebook_node(notebook)
    body = INTERVAL.sub(r"\1&nbsp;[\2,&nbsp;\3]", body)
    meta = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    )
    head = f"{meta}<title>Skill composition from examples</title><style>{STYLE}</style>"
    opening = f"<p><strong>This run: {escape(caption)}.</strong></p>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{opening}\n{body}\n{more}\n</body></html>\n'


def main(profile: str) -> None:
    """Write the report beside the profile's figures.

    Raises:
        UserError: the profile has not been run to its end.
    """
    notebooks = load_profile(profile)
    executed, p = paths.run(profile) / "04_plot.ipynb", notebooks["04_plot"]
    if not executed.exists():
        raise UserError(
            f"{executed.relative_to(ROOT)}: no such file; make reproduce PROFILE={profile} makes it, and the report"
        )
    target = ROOT / p.figures / "report.html"
    more = provenance(manifest.read(profile), notebooks)
    target.write_text(
        render(nbformat.read(executed, as_version=4), p.caption, more), encoding="utf-8"
    )
    print(f"report in {target.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    command(main)
