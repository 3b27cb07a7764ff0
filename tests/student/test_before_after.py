"""A few tasks answered before and after a training."""

import pandas as pd

from helpers.chat.ledger import Ledger
from helpers.student.before_after import answers

BASE = "helpers/world/weights/three"


def test_the_same_tasks_by_both_students_and_nothing_without_any(tmp_path):
    task = [{"role": "user", "content": "Topic: mining\nShow: metaphor"}, {"role": "assistant"}]
    text = {"kind": "1", "topic": "mining", "skills": ["metaphor"], "text": "A text."}
    texts = pd.DataFrame([text | {"messages": task}])
    ledger = Ledger(tmp_path / "ledger.sqlite")
    settings = {"new_tokens": 40, "dtype": "float32"}
    assert answers(texts, {}, ledger, **settings) is None
    pairs = answers(texts, {"before": BASE, "after": BASE}, ledger, **settings)
    assert list(pairs) == ["kind", "topic", "skills", "before", "after", "teacher"]
    assert pairs.before[0] == pairs.after[0] != ""
    assert pairs.teacher[0] == "A text."
    assert ledger.summary().attempts.sum() == 1, "the same model is asked once"
