"""A conversation of several turns with whoever answers: a teacher or a student."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from helpers.chat.replies import Reply, Request
from helpers.task.catalog import Query
from helpers.task.prompts import Pack, extract_answer, generation_turns

SPACING = 100  # between the replicates of a query, so that re-asking one never meets the next


@dataclass(frozen=True)
class Conversation:
    """The messages of one conversation, and what is known of its last reply (`Reply`)."""

    messages: list[dict]
    cut: bool = False
    refused: bool = False
    thought: bool = False

    @property
    def text(self) -> str:
        """The text that was asked for, out of the last reply."""
        return extract_answer(self.messages[-1]["content"])


def converse(
    ask: Callable[[list[Request]], list[Reply | None]],
    queries: Sequence[Query],
    replicates: Sequence[int],
    pack: Pack,
    *,
    turns: int,
) -> list[Conversation | None]:
    """Hold each query's conversation: the first `turns` user turns of the pack, each answered.

    The request of turn two holds the reply to turn one, so a resumed run finds both in the ledger.

    Args:
        ask: gives one reply to each request, or None where there is none to be had.
        replicates: which sample of its query each conversation is.

    Returns:
        One conversation a query; None where a reply never came.
    """
    assert 1 <= turns <= len(pack.generation), f"{turns} turns of a pack of {len(pack.generation)}"
    conversations = {i: Conversation([]) for i in range(len(queries))}
    for turn in range(turns):
        requests = []
        for i, conversation in conversations.items():
            user = {"role": "user", "content": generation_turns(queries[i], pack)[turn]}
            messages = [*conversation.messages, user]
            requests.append(Request(messages, replicate=replicates[i] * SPACING))
        answered = {}
        for i, request, reply in zip(conversations, requests, ask(requests), strict=True):
            if reply is not None:
                messages = [*request.messages, {"role": "assistant", "content": reply.text}]
                answered[i] = Conversation(messages, reply.cut, reply.refused, reply.thought)
        conversations = answered
    return [conversations.get(i) for i in range(len(queries))]
