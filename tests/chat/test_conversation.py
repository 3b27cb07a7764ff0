"""Conversations of several turns."""

import json

from helpers.chat.conversation import SPACING, converse
from helpers.chat.replies import Reply
from helpers.profile.load import load_profile
from helpers.task.queries import draw


def test_each_turn_holds_the_ones_before_it():
    p = load_profile("paper")["01_generate"]
    queries = draw(p.pools()["I"], 2, seed=0, purpose="test")
    three = [next(queries) for _ in range(3)]
    turns = []

    def ask(requests):
        turns.append(requests)
        gone = {1} if len(turns) == 1 else set()
        return [
            None if i in gone else Reply(f"Answer: {len(turns)}.{i}", cut=i == 0)
            for i, _ in enumerate(requests)
        ]

    conversations = converse(ask, three, [4, 5, 6], p.pack(), turns=2)
    assert conversations[1] is None, "a reply that never came"
    assert [c.text for c in conversations if c] == ["2.0", "2.1"]
    assert [c.cut for c in conversations if c] == [True, False]
    assert [len(requests) for requests in turns] == [3, 2]
    assert [r.replicate for r in turns[1]] == [4 * SPACING, 6 * SPACING]
    first, second = turns[0][0], turns[1][0]
    assert second.messages[:1] == first.messages
    assert second.messages[1] == {"role": "assistant", "content": "Answer: 1.0"}
    assert json.dumps(conversations[0].messages[:3]) == json.dumps(second.messages)
