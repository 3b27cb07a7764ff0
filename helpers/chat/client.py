"""The chat client: sends requests to an OpenAI-compatible endpoint and stores every reply in the ledger.

Teacher, judge and served students all go through `ask`. The SDK's own retries are off, since they lose paid replies
and give up on rate limits; ours are three: rate limits by time, transport failures by count (`limits.py`), and replies
that were paid for but cannot be used by count (`replies.Outcome`).
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai

from helpers.chat import batch_api, money
from helpers.chat.endpoint import Endpoint, client
from helpers.chat.ledger import Asked, Ledger
from helpers.chat.limits import FAILURES, Pace, Patience, is_billed
from helpers.chat.replies import Outcome, Read, Request, usage_of, with_text
from helpers.errors import UserError
from helpers.progress import Progress

FULL_BUDGET_WAIT = (
    0.2  # seconds until the budget is asked again, while requests in flight may turn out cheaper
)


class Ended(Exception):
    """Another request has ended the run."""


@dataclass
class Run:
    """What the requests of one `ask` share."""

    endpoint: Endpoint
    ledger: Ledger
    role: str
    progress: Progress
    price: money.Price | None = None
    spent: float = 0.0  # US dollars, by this `ask`
    in_flight: int = 0
    ending: asyncio.Event = field(
        default_factory=asyncio.Event
    )  # what is in flight is finished, nothing more is sent
    locks: defaultdict = field(default_factory=lambda: defaultdict(asyncio.Lock))
    in_batches: dict | None = None  # by key, the batches that hold requests; None before `connect`
    api: openai.AsyncOpenAI | None = None

    def __post_init__(self):
        self.requests, self.tokens = (
            Pace(self.endpoint.requests_per_minute),
            Pace(self.endpoint.tokens_per_minute),
        )

    async def connect(self) -> None:
        """Before anything is sent, and only then: what is stored needs neither key nor price.

        Raises:
            UserError: no key, or a budget and no price.
        """
        async with self.locks["connect"]:
            if self.in_batches is not None:
                return
            money.check_budget(self.ledger, self.endpoint)
            self.price = money.price_of(self.endpoint)
            self.api = self.api or client(self.endpoint)
            # What batches hold is not asked, and paid, again outside of them.
            self.in_batches = {} if self.endpoint.batch_api else await batch_api.collect_ended(self)

    async def pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ending.wait(), seconds)
        if self.ending.is_set():
            raise Ended

    def paid(self, raw: bytes, price: money.Price | None) -> dict:
        """What the ledger notes of a reply; counts its cost."""
        usage = usage_of(raw)
        dollars = money.paid(usage, price)
        self.spent += dollars or 0
        self.note(", price unknown" if price is None else "")
        return {"usage": usage, "dollars": dollars}

    def note(self, more: str = "") -> None:
        """What the progress line ends with: the running cost, unless everything is free, and more."""
        note = (f", {self.spent:,.2f} US dollars" if self.spent else "") + more
        if note != self.progress.note:
            self.progress.note = note
            self.progress.advance(0)

    def no_room(self, dollars: float) -> UserError:
        spent = f"{self.ledger.spent():,.2f} are spent or reserved for requests without a reply"
        return UserError(
            f"budget = {self.ledger.budget} US dollars: {spent}, and the next request to {self.endpoint.model} may cost {dollars:,.4f};"
            f" replies so far are stored, raise budget or lower {self.role}.max_tokens and run again to go on"
        )


async def send(run: Run, asked: Asked) -> None:
    """Ask until a reply is stored.

    Raises:
        UserError: an error that no second try can mend, or a budget is used up.
        Ended: another request met such an error before this one was sent, or sent again.
    """
    patience, ledger, dollars = (
        Patience(run.endpoint, run.role),
        run.ledger,
        money.most(asked.body, run.price),
    )
    likely = money.likely_tokens(asked.body)
    who = {
        "endpoint": run.endpoint.base_url,
        "model": run.endpoint.model,
        "role": run.role,
        "replicate": asked.replicate,
    }
    while True:
        await run.requests.take()
        await run.tokens.take(likely)
        if run.ending.is_set():
            raise Ended
        while (attempt := ledger.begin(asked.key, **who, body=asked.body, dollars=dollars)) is None:
            if not run.in_flight:
                raise run.no_room(dollars or 0)
            await run.pause(FULL_BUDGET_WAIT)
        run.in_flight += 1
        try:
            # The body as it stands in the ledger; the SDK's typed method costs a third more, and knows not every endpoint's parameters.
            raw = await run.api.post("/chat/completions", body=asked.body, cast_to=httpx2.Response)
        except FAILURES as error:
            why = (
                f"HTTP {error.status_code}"
                if isinstance(error, openai.APIStatusError)
                else type(error).__name__
            )
            ledger.failed(attempt, why, billed=is_billed(error))
            wait = patience.after(error)
        else:
            ledger.replied(
                attempt,
                raw.content,
                request_id=raw.headers.get("x-request-id"),
                **run.paid(raw.content, run.price),
            )
            return
        finally:
            run.in_flight -= 1
        await run.pause(wait)


async def answer(run: Run, outcome: Outcome) -> None:
    """Ask for what the ledger does not hold of one request's replies, until nothing is left to ask."""
    while missing := outcome.look(run.ledger):
        for asked in missing:
            async with run.locks[asked.key]:  # the same may be on its way for another request
                await run.connect()
                if run.ledger.reply(asked.key) is not None:
                    continue
                if holder := run.in_batches.get(asked.key):
                    raise batch_api.still_running(holder, run.endpoint)
                await send(run, asked)


async def by_workers(run: Run, outcomes: Sequence[Outcome]) -> None:
    """A pool of `endpoint.concurrency` workers.

    The first failure stops it, once what is in flight has come and is stored.
    """
    waiting, failures = iter(outcomes), []

    async def worker():
        for outcome in waiting:
            try:
                await answer(run, outcome)
            except Exception as failure:
                failures.append(failure)
                run.note(", stopping when what is on its way has come")
                run.ending.set()
            if run.ending.is_set():
                return
            run.progress.advance()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(run.endpoint.concurrency, len(outcomes))):
            group.create_task(worker())
    if failures:
        raise failures[0] from None


async def by_batches(run: Run, outcomes: Sequence[Outcome]) -> None:
    """Batch after batch of what is missing; the second asks again for what the first left unreadable."""
    open_outcomes = list(outcomes)
    while open_outcomes:
        missing = {}
        still_open = []
        for outcome in open_outcomes:
            if requests := outcome.look(run.ledger):
                still_open.append(outcome)
                missing |= {asked.key: asked for asked in requests}
        run.progress.advance(len(open_outcomes) - len(still_open))
        open_outcomes = still_open
        if missing:
            await run.connect()
            await batch_api.fill(run, list(missing.values()))


def in_thread(work: Coroutine) -> Any:
    """Run to the end in a thread, since a notebook's kernel has an event loop of its own; an interrupt cancels the work."""
    loop = asyncio.new_event_loop()

    def run():
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(work)

    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(run)
        try:
            return result.result()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # it had ended
                loop.call_soon_threadsafe(
                    lambda: [task.cancel() for task in asyncio.all_tasks(loop)]
                )
            raise


def ask(
    requests: Sequence[Request],
    endpoint: Endpoint,
    ledger: Ledger,
    *,
    role: str,
    read: Read = with_text,
    re_asks: int = 2,
    what: str = "",
) -> list[Outcome]:
    """Ask all requests, at most `endpoint.concurrency` at once; what the ledger holds is not asked again.

    Args:
        role: who is asked (teacher, judge, student), for the ledger.
        read: what is made of a reply; one that gives `Unreadable` is asked for again, at most
            `re_asks` times a request.

    Returns:
        For each request what was read of its replies, at most `request.n`, and why others could
        not be; fewer where the re-asks were used up.

    Raises:
        UserError: what no second try can mend, or the ledger's budget is spent. Replies that came
            before it, and those that were on their way, are stored.
    """
    outcomes = [Outcome(request, endpoint, read, re_asks) for request in requests]

    async def ask_all() -> None:
        with Progress(what or role, len(requests)) as progress:
            run = Run(endpoint, ledger, role, progress)
            try:
                await (by_batches if endpoint.batch_api else by_workers)(run, outcomes)
            finally:
                if run.api is not None:
                    await run.api.close()

    in_thread(ask_all())
    return outcomes
