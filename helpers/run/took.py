"""What a run took and cost, and on what it ran, as the last sections of its report."""

from collections.abc import Sequence
from html import escape

import pandas as pd
import yaml

from helpers import paths
from helpers.profile.schema import Model
from helpers.run import manifest
from helpers.run.page import html, paragraph
from helpers.training import recipe

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


def costs(lines: list[dict]) -> str:
    formats = {
        "minutes": "{:.1f}".format,
        "replies": "{:,}".format,
        "tokens": "{:,}".format,
        "US dollars": "{:,.2f}".format,
    }
    words = "Every run of a stage since the run's folder was made; its notebooks ran side by side."
    table = html(stages(lines), index=False, na_rep="unknown", formatters=formats)
    return paragraph(words) + table


def different(values: Sequence[str]) -> str:
    """Each value once."""
    return "; ".join(sorted(set(values)))


def facts(lines: list[dict], notebooks: dict[str, Model]) -> dict[str, str]:
    """On what code, machine and packages the stages ran, and with which seeds."""
    commits, machines, packages = [], [], []
    for line in manifest.newest(lines).values():
        changes = " with changes" if line["changed"] else ""
        commits.append(f"{line['commit'] or 'unknown'}{changes}")
        machine = line["machine"]
        parts = [machine["processor"], f"{machine['cores']} cores", *machine["gpus"]]
        machines.append(", ".join(parts))
        packages += [f"{name} {version}" for name, version in line["versions"].items()]
    trained = {p.training_seed for name, p in notebooks.items() if name.startswith("02")}
    seeds = f"split, queries and sampling {notebooks['04_plot'].seed}"
    if trained:
        seeds += f"; training {', '.join(map(str, sorted(trained)))}"
    return {
        "commit": different(commits),
        "machine": different(machines),
        "seeds": seeds,
        "packages": different(packages),
    }


def provenance(lines: list[dict], notebooks: dict[str, Model]) -> str:
    """Code, machine, seeds and packages, and the parameters of each stage's first notebook."""
    rows = []
    for name, value in facts(lines, notebooks).items():
        rows.append(f"<tr><th>{name}</th><td>{escape(value)}</td></tr>")
    parts = [f"<table class='facts'>{''.join(rows)}</table>"]
    shown = set()
    for name, p in notebooks.items():
        stage = name.split("/")[0]
        if stage == "02_finetune":
            other = recipe.other_code(paths.training(p.profile, p.variant))
            parts.append(paragraph(other) if other else "")
        if stage not in shown:
            shown.add(stage)
            text = yaml.safe_dump(p.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            summary = f"<summary>Parameters of {name}</summary>"
            parts.append(f"<details>{summary}<pre>{escape(text)}</pre></details>")
    return "".join(parts)
