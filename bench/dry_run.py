"""03_grade at the paper's size against the embedded world: how long it takes, how memory grows.

`make dry-run`: 3 settings x 4 values of k x 100 queries x 3 generations x 3 gradings x 8 models =
86,400 gradings, one request each as in the paper profile, through the same sampling, client, ledger
and reader. The models are the embedded base with eight seeds. Everything stays in `runs/dry-run/`;
`--resume` goes on with what is there. Writes `runs/bench/dry_run.json`.
"""

import argparse
import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path

import psutil

from bench.table import write
from helpers import evaluate, paths
from helpers.chat.ledger import Ledger
from helpers.files import write_json_lines
from helpers.profile.load import load_profile
from helpers.profile.schema import Grade
from helpers.progress import HEADLESS
from helpers.task.points import FIRST_JUDGE

EVERY = 0.5  # seconds between looks at the memory


class Memory(threading.Thread):
    """Watches this process's resident memory, MiB."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most = 0.0
        self.start()

    def now(self) -> float:
        return psutil.Process().memory_info().rss / 2**20

    def run(self):
        while True:
            self.most = max(self.most, self.now())
            time.sleep(EVERY)

    def since_last(self) -> float:
        most, self.most = max(self.most, self.now()), 0.0
        return most


def grade_of(run: str, seed: int, queries: int) -> Grade:
    """The miniature's settings at the paper's counts; the paper's judge takes no n."""
    mini, paper = (load_profile(name) for name in ("mini", "paper"))
    base, counts = mini["03_grade/base"], paper["03_grade/mistral-7b-base"]
    names = ("evaluation_ks", "settings", "generations", "gradings")
    judge = base.judge.model_copy(update={"takes_n": False})
    # Hotter than the miniature: its base says the same thing twice now and then, and equal texts
    # are graded once.
    own = {
        "profile": "dry-run",
        "variant": f"model-{seed}",
        "seed": seed,
        "evaluation_queries": queries,
        "judge": judge,
        "temperature": 1.3,
    }
    return base.model_copy(update={**{name: getattr(counts, name) for name in names}, **own})


def main() -> None:
    parser = argparse.ArgumentParser(
        description="03_grade at the paper's size against the embedded world."
    )
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--queries", type=int, default=100, help="per k and setting")
    parser.add_argument("--run", default="dry-run", help="folder in runs/, dry-run...")
    parser.add_argument("--out", type=Path, default=paths.run("bench") / "dry_run.json")
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    # The folder is removed, its ledger too: never that of a run that somebody may have paid for.
    if not re.fullmatch(r"dry-run[\w-]*", arguments.run):
        sys.exit(f"--run {arguments.run}: the name of a dry run's folder begins with dry-run")
    os.environ.setdefault(HEADLESS, "dry run")
    if not arguments.resume:
        shutil.rmtree(paths.run(arguments.run), ignore_errors=True)
    ledger, memory = Ledger(paths.ledger(arguments.run)), Memory()
    start, rows = time.monotonic(), []
    for seed in range(arguments.models):
        p, began = grade_of(arguments.run, seed, arguments.queries), time.monotonic()
        tasks = evaluate.tasks(p)
        with evaluate.student(p, ledger) as student:
            answers = evaluate.answers(p, tasks, student)
        sampled, sampling = time.monotonic(), memory.since_last()
        records = evaluate.evaluate(p, tasks, answers, ledger)
        write_json_lines(paths.grades(arguments.run, p.variant), records)
        row = {
            "model": p.variant,
            "answers": len(records),
            "gradings": sum(len(r["grades"][FIRST_JUDGE]["gradings"]) for r in records),
            "sampling_s": round(sampled - began),
            "grading_s": round(time.monotonic() - sampled),
            "sampling_mib": round(sampling),
            "grading_mib": round(memory.since_last()),
            "after_mib": round(memory.now()),
        }
        rows.append(row)
        print(row, flush=True)
        del records, answers, student
    summary = ledger.summary()
    judged = summary[(summary.role == "judge") & (summary.state == "replied")]
    found = {
        "gradings": sum(row["gradings"] for row in rows),
        "judge_requests": int(judged.attempts.sum()),
        "seconds": round(time.monotonic() - start),
        "peak_mib": max(max(row["sampling_mib"], row["grading_mib"]) for row in rows),
        "ledger_mib": round(ledger.path.stat().st_size / 2**20),
        "models": rows,
    }
    print({name: value for name, value in found.items() if name != "models"})
    write(arguments.out, found)


if __name__ == "__main__":
    main()
