"""One table of all benchmarks: `python -m bench.table`, with which `make bench` ends.

Reads what the benchmarks wrote to runs/bench/*.json and writes runs/bench/README.md: what, ours,
the best peer, our own limit, how much better we are than that peer, date and machine.
"""

import json
import os
import time
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pandas as pd

from helpers import paths
from helpers.errors import UserError, command
from helpers.results.findings import markdown
from helpers.run.manifest import machine

FOLDER = paths.run("bench")


@dataclass(frozen=True)
class Row:
    """A line of the table. A place in a file is its keys with slashes between them."""

    file: str
    what: str
    ours: str  # place
    peers: str = ""  # places, with * for names
    limit: float | None = None
    more_is_better: bool = False


ROWS = (
    *(
        Row("startup", f"{stage} without work, s", f"seconds/{stage}", "peers/*", limit=3.0)
        for stage in ("01_generate", "02_finetune", "03_grade", "04_plot")
    ),
    Row("chat", "chat, times the ideal", "ratio_to_ideal", "peers/*/ratio_to_ideal", limit=1.1),
    Row("chat", "chat at a rate limit, times the ideal", "rate_limit/ratio_to_ideal", limit=1.3),
    Row(
        "chat",
        "embedded judge, requests/s on a core",
        "embedded/per_second_on_one_core",
        limit=400,
        more_is_better=True,
    ),
    Row(
        "sample",
        "sampling, answers/s",
        "cpu/rates/ours/answers_per_s",
        "cpu/rates/*/answers_per_s",
        more_is_better=True,
    ),
    *(
        Row(
            "train",
            f"training, {shape}, tokens/s",
            f"{shape}/tokens_per_s/ours",
            f"{shape}/tokens_per_s/TRL*",
            more_is_better=True,
        )
        for shape in ("2M parameters", "embedded base")
    ),
    Row("dry_run", "03_grade at the paper's size, peak MiB", "peak_mib"),
    Row(
        "gpu",
        "training of 7B layers on a GPU, MFU",
        "training/as it is, 8 texts/mfu",
        limit=0.55,
        more_is_better=True,
    ),
)


def write(file: Path, found: dict) -> None:
    """Write what a benchmark found, with date, machine and its load, which should be low."""
    file.parent.mkdir(parents=True, exist_ok=True)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    about = {"when": now, "machine": machine(), "load": round(os.getloadavg()[0], 1)}
    file.write_text(json.dumps(found | about, indent=1) + "\n")


def line(row: Row, found: dict) -> dict | None:
    """A line of the table, from the benchmark's file.

    None where that lacks our number: its way failed, or the share of an unknown GPU's peak.
    """
    numbers = pd.json_normalize(found, sep="/").iloc[0].dropna()
    if row.ours not in numbers:
        return None
    peers = numbers[[fnmatch(place, row.peers) and place != row.ours for place in numbers.index]]
    ours, best = numbers[row.ours], ""
    ratio = ""
    if len(peers):
        place = peers.astype(float).idxmax() if row.more_is_better else peers.astype(float).idxmin()
        names = [part for part in place.split("/") if part not in row.peers.split("/")]
        best = f"{numbers[place]:,} ({' '.join(names)})"
        times = ours / numbers[place] if row.more_is_better else numbers[place] / ours
        ratio = f"{times:.2f} x"
    sign = "at least" if row.more_is_better else "at most"
    about = found.get("machine", {})
    gpus = about.get("gpus", [])
    return {
        "what": row.what,
        "ours": f"{ours:,}",
        "best peer": best,
        "limit": "" if row.limit is None else f"{sign} {row.limit:,}",
        "better than the peer": ratio,
        "date": found.get("when", "")[:10],
        "machine": ", ".join([f"{about['processor']}, {about['cores']} cores", *gpus])
        if about
        else "",
    }


def main() -> None:
    """Write the table of what has been measured, and print it."""
    lines = []
    for row in ROWS:
        file = FOLDER / f"{row.file}.json"
        if file.exists():
            lines.append(line(row, json.loads(file.read_text())))
    lines = [measured for measured in lines if measured]
    if not lines:
        raise UserError("bench.table: nothing has been measured yet; make bench does")
    table = markdown(pd.DataFrame(lines).set_index("what"))
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "README.md").write_text(f"# Benchmarks\n\n{table}\n")
    print(table)


if __name__ == "__main__":
    command(main)
