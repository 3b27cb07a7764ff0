"""The manifest as tables for the report: how long a run took, its cost, and on what it ran."""

import pandas as pd

from helpers.run import manifest

ASKED = ["state", "attempts", "prompt_tokens", "completion_tokens", "dollars"]
# The fields of the manifest's lines that say what decides a result.
FACTS = "^(commit|changed|machine|versions)"


def stages(lines: list[dict]) -> pd.DataFrame:
    """What the stages took and cost, all runs together, failed and interrupted ones too.

    Columns: notebooks, runs, minutes (of all runs, although notebooks run side by side) and those
    of `manifest.PARTS`, replies, tokens, US dollars (not a number if a part is unknown).
    """
    times = ["seconds", *(f"parts.{part}" for part in manifest.PARTS)]
    runs = pd.json_normalize(lines).reindex(columns=["notebook", *times])
    by_stage = runs.groupby(stage_of(runs))
    table = by_stage.notebook.agg(notebooks="nunique", runs="size")
    table[["minutes", *manifest.PARTS]] = by_stage[times].sum() / 60

    asked = pd.json_normalize(lines, "asked", ["notebook"]).reindex(columns=["notebook", *ASKED])
    asked["replies"] = asked.attempts.where(asked.state == "replied", 0)
    asked["tokens"] = asked.prompt_tokens + asked.completion_tokens
    asked["US dollars"] = asked.dollars.astype(float)
    sums = asked.groupby(stage_of(asked))[["replies", "tokens", "US dollars"]].sum(skipna=False)
    return table.join(sums.reindex(table.index, fill_value=0))  # others asked nothing


def stage_of(rows: pd.DataFrame) -> pd.Series:
    return rows.notebook.astype(str).str.split().str[0].rename("stage")


def facts(lines: list[dict]) -> pd.DataFrame:
    """On what code, machines and packages the stages ran, each once."""
    newest = pd.json_normalize(list(manifest.newest(lines).values())).filter(regex=FACTS)
    words = newest.astype(object).fillna("unknown").astype(str)
    return words.agg(lambda values: "; ".join(values.unique())).to_frame()
