"""The chat client: sends requests to an OpenAI-compatible endpoint and stores every reply.

Teacher, judge and served students all go through `ask`. The SDK's own retries are off, since they
lose paid replies and give up on rate limits; ours are three: rate limits by time, transport
failures by count (`limits.py`), and replies that were paid for but cannot be used by count
(`replies.Outcome`).
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx2
import openai

from helpers.chat import batch_api, money
from helpers.chat.endpoint import Endpoint, client, redacted, without_key
from helpers.chat.ledger import Call, Held, Ledger, Reading
from helpers.chat.limits import AT_ONCE, FAILURES, NoAnswer, Patience, is_billed, name_of
from helpers.chat.replies import Outcome, Read, Request, choices, contents, usage_of, with_text
from helpers.errors import UserError
from helpers.progress import Progress

# Seconds between looks at what only others can change: the budget, another process's request, the
# ledger's write lock.
LOOK = 0.2
STALL = 0.05  # seconds that a write may hold up all requests; others hold the lock for milliseconds


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
    # Set: what is in flight is finished, nothing more is sent.
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    locks: defaultdict = field(default_factory=lambda: defaultdict(asyncio.Lock))
    api: openai.AsyncOpenAI | None = None  # None before `connect`
    open: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def connect(self) -> None:
        """Before anything is sent, and only then: what is stored needs neither key nor price.

        Raises:
            UserError: no key, or a budget and no price.
        """
        async with self.locks["connect"]:
            if self.api is not None:
                return
            money.check_budget(self.ledger, self.endpoint)
            self.price = money.price_of(self.endpoint)
            self.api = await self.open.enter_async_context(client(self.endpoint))
            if not self.endpoint.batch_api:
                await batch_api.collect_ended(self)
                self.open.enter_context(self.ledger.claiming(STALL))

    async def pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ending.wait(), seconds)
        if self.ending.is_set():
            raise Ended

    async def write(self, work: Callable[[], Any]) -> Any:
        """What a write to the ledger gives, as soon as no other process holds the ledger.

        It waits without end: a reply that has come is paid for, and a new request, too, is
        written down before it is sent, so nothing more is sent meanwhile.

        Raises:
            UserError: it cannot be written.
        """
        while True:
            try:
                return work()
            except Held:
                self.note(", waiting for a process that holds the ledger")
                await asyncio.sleep(LOOK)

    async def wait_for_turn(self, unit: str, amount: float, per_minute: float) -> None:
        """Keep to a rate limit, in the order of asking, with all processes of the ledger."""
        place = (self.endpoint.base_url, self.endpoint.model, unit)
        turn = partial(self.ledger.turn, place, amount, rate=per_minute / 60, at_once=AT_ONCE)
        async with self.locks[unit]:
            while wait := await self.write(turn):
                await self.pause(wait)

    def read(self, raw: bytes, price: money.Price | None) -> Reading:
        """What the ledger notes of a reply; counts its cost."""
        content = contents(raw)
        usage = usage_of(content)
        dollars = money.paid(usage, price)
        self.spent += dollars or 0
        self.note(", price unknown" if price is None else "")
        tokens = (usage.prompt, usage.completion) if usage else (None, None)
        return Reading(bool(choices(content)), *tokens, dollars)

    def note(self, more: str = "") -> None:
        """What the progress line ends with: the cost so far, unless all is free, and more."""
        note = (f", {self.spent:,.2f} US dollars" if self.spent else "") + more
        if note != self.progress.note:
            self.progress.note = note
            self.progress.advance(0)

    def no_room(self, dollars: float | None) -> UserError:
        spent = f"{self.ledger.spent():,.2f} are spent or reserved for requests without a reply"
        model = self.endpoint.model
        return UserError(
            f"budget = {self.ledger.budget} US dollars: {spent}, and the next request to {model}"
            f" may cost {dollars or 0:,.4f}; replies so far are stored, raise budget or lower"
            f" {self.role}.max_tokens and run again to go on"
        )


async def begin(run: Run, call: Call) -> int | None:
    """The number of a new attempt, as soon as limits, budget and other processes allow it.

    Returns:
        None where a reply has come meanwhile.

    Raises:
        UserError: the budget is used up, or an open batch holds the request.
        Ended: another request met an error that no second try can mend.
    """
    ledger, endpoint = run.ledger, run.endpoint
    if endpoint.requests_per_minute:
        await run.wait_for_turn("requests", 1, endpoint.requests_per_minute)
    if endpoint.tokens_per_minute:
        tokens = money.likely_tokens(call.body)
        await run.wait_for_turn("tokens", tokens, endpoint.tokens_per_minute)
    row = {"endpoint": endpoint.base_url, "model": endpoint.model, "role": run.role}
    row |= {"replicate": call.replicate, "body": call.body}
    row |= {"dollars": money.most(call.body, run.price)}
    while True:
        if run.ending.is_set():
            raise Ended
        attempt = await run.write(partial(ledger.begin, call.key, **row))
        if attempt is not None or ledger.reply(call.key) is not None:
            return attempt
        claim = ledger.claim(call.key)
        if claim and claim.batch:
            raise batch_api.still_running(claim.batch, endpoint)
        if claim and not claim.is_live:  # its process is gone; what was reserved stays reserved
            await run.write(partial(ledger.failed, claim.attempt, "lost"))
            continue
        if not claim and not ledger.has_room(row["dollars"]) and not run.in_flight:
            raise run.no_room(row["dollars"])
        if claim:
            run.note(", waiting for another process that asks the same")
        await run.pause(LOOK)


async def send(run: Run, call: Call) -> None:
    """Ask until an answer is stored.

    Raises:
        UserError: an error that no second try can mend, or a budget is used up.
        Ended: another request met such an error before this one was sent, or sent again.
    """
    patience = Patience(run.endpoint, run.role)
    while (attempt := await begin(run, call)) is not None:
        run.in_flight += 1
        try:
            failure = await post(run, call, attempt)
        finally:
            run.in_flight -= 1
        if failure is None:
            return
        await run.pause(patience.after(failure))


async def post(run: Run, call: Call, attempt: int) -> Exception | None:
    """Send one request once and store what comes; returns why it brought no answer."""
    ledger = run.ledger
    try:
        # The body as it stands in the ledger; the SDK's typed method costs a third more, and knows
        # not every endpoint's parameters.
        response = await run.api.post("/chat/completions", body=call.body, cast_to=httpx2.Response)
    except FAILURES as error:
        await run.write(partial(ledger.failed, attempt, name_of(error), is_billed=is_billed(error)))
        return error
    raw = without_key(response.content, run.endpoint)
    request_id = redacted(response.headers.get("x-request-id", ""), run.endpoint)
    await run.write(partial(ledger.replied, attempt, raw, request_id=request_id or None))
    reading = run.read(raw, run.price)
    await run.write(partial(ledger.settled, attempt, reading))
    if reading.is_answer:
        return None
    return NoAnswer(redacted(raw[:300].decode(errors="replace"), run.endpoint) or "nothing")


async def answer(run: Run, outcome: Outcome) -> None:
    """Ask for what the ledger does not hold of one request's replies, until nothing is left."""
    while missing := outcome.look(run.ledger):
        await run.connect()
        for call in missing:
            async with run.locks[call.key]:  # the same may be on its way for another request
                await send(run, call)


async def by_workers(run: Run, outcomes: Sequence[Outcome]) -> None:
    """A pool of `endpoint.concurrency` workers.

    The first failure stops it, once what is in flight has come and is stored.
    """
    waiting = iter(outcomes)
    failures = []

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
    """Batch after batch of what is missing; the second asks for what the first left unreadable."""
    open_outcomes = list(outcomes)
    while open_outcomes:
        missing = {}
        still_open = []
        for outcome in open_outcomes:
            if calls := outcome.look(run.ledger):
                still_open.append(outcome)
                missing |= {call.key: call for call in calls}
        run.progress.advance(len(open_outcomes) - len(still_open))
        open_outcomes = still_open
        if missing:
            await run.connect()
            await batch_api.fill(run, list(missing.values()))


def in_thread(work: Coroutine) -> Any:
    """Run to the end in a thread, since a notebook's kernel has an event loop of its own.

    An interrupt cancels the work.
    """
    loop = asyncio.new_event_loop()

    def run():
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(work)

    def cancel():
        for task in asyncio.all_tasks(loop):
            task.cancel()

    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(run)
        try:
            return result.result()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # it had ended
                loop.call_soon_threadsafe(cancel)
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
    """Ask all requests that the ledger has no reply to, at most `endpoint.concurrency` at once.

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
    ask_by = by_batches if endpoint.batch_api else by_workers

    async def ask_all() -> None:
        with Progress(what or role, len(requests)) as progress:
            run = Run(endpoint, ledger, role, progress)
            async with run.open:
                await ask_by(run, outcomes)

    in_thread(ask_all())
    return outcomes
