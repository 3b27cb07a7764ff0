"""Scores whose truth is known, for all tests of results."""

import re

import numpy as np
import pandas as pd
import pytest

TEXTS = {"base": 0, "k1": 1200, "k12": 2400, "k123": 3600, "padded": 3600}


def draw(rng, means, *, seeds=3, queries=40, setting="I", ks=(2, 3, 4, 5), texts=None, apart=0):
    """Full marks drawn per query, with queries of differing difficulty that all models share.

    All pairs of the first `apart` queries of a k are kept apart, and no other.
    """
    rows = []
    numbers = TEXTS | (texts or {})
    for k in ks:
        difficulty = rng.normal(0, 0.15, queries)
        for model, mean in means.items():
            about = {
                "model": model,
                "sweep": "sizes" if re.search(r"n\d+$", model) else "",
                "kind": model.partition("n")[0],
                "texts": numbers[model],
                "judge": "first",
                "setting": setting,
                "k": k,
            }
            for seed in range(1 if model == "base" else seeds):
                marks = rng.random(queries) < np.clip(mean + difficulty, 0, 1)
                rows += [
                    {
                        **about,
                        "seed": seed,
                        "query": q,
                        "generation": 0,
                        "apart": k * (k - 1) // 2 * (q < apart),
                        "full_marks": float(m),
                    }
                    for q, m in enumerate(marks)
                ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def simulated():
    """`draw`: simulated(rng, {model: mean}, ...) gives a tidy table without votes."""
    return draw


@pytest.fixture(scope="session")
def sweep():
    """Texts of mixes of equal sizes, by name."""
    return {f"{kind}n{n}": n for n in (300, 600) for kind in ("k12", "k123")}
