"""Makes `report.html`, one page that loads nothing, from a profile's run.

That is its executed 04_plot notebook, its manifest and its parameters.
"""

import re
import sys
from html import escape

sys.modules["rfc3987_syntax"] = None  # as in `stage`: 1.6 s for addresses that are not there

import nbformat
import pandas as pd
import yaml
from nbconvert import HTMLExporter

from helpers import paths
from helpers.errors import UserError, command
from helpers.files import write_text
from helpers.paths import ROOT
from helpers.profile.load import load_profile
from helpers.profile.schema import Model
from helpers.run import cards, manifest

STYLE = """
body { font: 16px/1.5 Georgia, serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
body { color: #222; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; border: 0; margin: 1rem 0; display: block; overflow-x: auto; }
table { font: 12px/1.4 system-ui, sans-serif; }
table:not(:has(tbody tr)) { display: none; }
.facts td { overflow-wrap: anywhere; }
th, td { padding: .25rem .45rem; border: 0; border-bottom: 1px solid #ddd; }
th, td { text-align: left; vertical-align: top; }
img, svg { max-width: 100%; height: auto; }
pre, code { overflow-wrap: anywhere; }
pre { white-space: pre-wrap; font-size: 13px; background: #f6f6f6; padding: .6rem; }
.prompt, .anchor-link, .jp-InputArea { display: none; }
@media print { body { max-width: none; font-size: 11pt; } h2 { break-after: avoid; } }
@media print { img, tr { break-inside: avoid; } table { display: table; font-size: 8pt; } }
"""

INTERVAL = re.compile(r"([-+\d.]+) \[([-+\d.]+), ([-+\d.]+)\]")  # kept on one line
UNKNOWN = [{"replies": 0, "dollars": None}]  # what a stage asked, where the ledger did not tell


def stages(lines: list[dict]) -> pd.DataFrame:
    """What the stages took and cost, all attempts together.

    Columns: stage, notebooks, runs, minutes, replies, tokens, US dollars. Minutes are the sum over
    runs, failed and interrupted ones too, although notebooks run side by side. A cost of which a
    part is unknown is unknown.
    """
    rows = []
    for line in lines:
        requests = line["asked"] if isinstance(line["asked"], list) else UNKNOWN
        tokens = dollars = 0
        for row in requests:
            tokens += row.get("prompt_tokens", 0) + row.get("completion_tokens", 0)
            dollars += float("nan") if row["dollars"] is None else row["dollars"]
        rows.append(
            {
                "stage": line["notebook"].split()[0],
                "notebook": line["notebook"],
                "minutes": line["seconds"] / 60,
                "replies": sum(row["replies"] for row in requests),
                "tokens": tokens,
                "US dollars": dollars,
            }
        )
    by_stage = pd.DataFrame(rows).groupby("stage")
    table = by_stage.agg(
        notebooks=("notebook", "nunique"),
        runs=("notebook", "size"),
        minutes=("minutes", "sum"),
        replies=("replies", "sum"),
        tokens=("tokens", "sum"),
    )
    table["US dollars"] = by_stage["US dollars"].sum(skipna=False)
    return table.reset_index()


def different(values: list[str]) -> str:
    """HTML: each value once."""
    return escape("; ".join(sorted(set(values))))


def facts(done: list[dict], notebooks: dict[str, Model]) -> dict[str, str]:
    """HTML: on what code, machine and packages the stages ran, and with which seeds."""
    commits, machines, packages = [], [], []
    for line in done:
        changes = " with changes" if line["changed"] else ""
        commits.append(f"{line['commit'] or 'unknown'}{changes}")
        machine = line["machine"]
        parts = [machine["processor"], f"{machine['cores']} cores", *machine["gpus"]]
        machines.append(", ".join(parts))
        packages += [f"{name} {version}" for name, version in line["versions"].items()]
    trained = {p.training_seed for name, p in notebooks.items() if name.startswith("02")}
    seeds = ", ".join(map(str, sorted(trained)))
    return {
        "commit": different(commits),
        "machine": different(machines),
        "seeds": f"split, queries and sampling {notebooks['04_plot'].seed}; training {seeds}",
        "packages": different(packages),
    }


def parameters(notebooks: dict[str, Model]) -> str:
    """HTML: the parameters of the first notebook of each stage, to be opened."""
    first: dict[str, Model] = {}
    for name, p in notebooks.items():
        first.setdefault(name.split("/")[0], p)
    parts = []
    for stage, p in sorted(first.items()):
        text = yaml.safe_dump(p.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        summary = f"<summary>{stage}</summary>"
        parts.append(f"<details>{summary}<pre>{escape(text)}</pre></details>")
    return "".join(parts)


def provenance(lines: list[dict], notebooks: dict[str, Model]) -> str:
    """HTML: what it took and cost, on what it ran, and with which parameters."""
    formats = {
        "minutes": "{:.1f}".format,
        "replies": "{:,}".format,
        "tokens": "{:,}".format,
        "US dollars": "{:,.2f}".format,
    }
    costs = stages(lines).to_html(index=False, border=0, na_rep="unknown", formatters=formats)
    done = list(manifest.newest(lines).values())
    rows = facts(done, notebooks).items()
    table = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows)
    return f"""<h2>What it took</h2>
<p>Every run of a stage since the run's folder was made; notebooks of a stage run side by side.</p>
{costs}
<h2>Provenance</h2>
<table class='facts'>{table}</table>
<p>Parameters, of the first notebook of each stage:</p>
{parameters(notebooks)}"""


def render(notebook: nbformat.NotebookNode, caption: str, more: str = "") -> str:
    """The notebook's prose and results, and `more`, as a page that loads nothing.

    `caption` says what its numbers are from.
    """
    exporter = HTMLExporter(template_name="basic", exclude_input=True, embed_images=True)
    body, _ = exporter.from_notebook_node(notebook)
    body = INTERVAL.sub(r"\1&nbsp;[\2,&nbsp;\3]", body)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">\
<meta name="viewport" content="width=device-width, initial-scale=1">\
<title>Skill composition from examples</title><style>{STYLE}</style></head><body>
<p><strong>This run: {escape(caption)}.</strong></p>
{body}
{more}
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
    more = provenance(manifest.read(profile), notebooks)
    page = render(nbformat.read(executed, as_version=4), p.caption, more)
    write_text(ROOT / p.figures / "report.html", page)
    cards.write(notebooks)
    print(f"{p.figures}/report.html")


if __name__ == "__main__":
    command(main)
