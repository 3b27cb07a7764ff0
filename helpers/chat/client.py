"""The chat client: sends requests to an OpenAI-compatible endpoint and stores every reply.

Teacher, judge and served students all go through `ask`. The SDK's own retries are off, since they
lose paid replies and give up on rate limits; ours are three: rate limits by time, transport
failures by count (`retries.py`), and replies that were paid for but cannot be used by count
(`replies.Outcome`).
"""

import asyncio
import contextlib
import gc
import json
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf

import httpx2
import openai
from anyio.from_thread import start_blocking_portal
from filelock import AsyncFileLock

from helpers.chat import batch_api, money
from helpers.chat.endpoint import Endpoint, client, host, redacted, without_key
from helpers.chat.ledger import WAIT, Busy, Call, Ledger
from helpers.chat.replies import (
    Outcome,
    Read,
    Request,
    choices,
    contents,
    identity,
    usage_of,
    with_text,
)
from helpers.chat.retries import FAILURES, NoAnswer, is_billed, name_of, persist
from helpers.errors import UserError
from helpers.progress import Progress

AT_ONCE = 0.1  # seconds' worth of requests that may go out together, for late wake-ups
SENT = ("Content-Type", "OpenAI-Organization", "OpenAI-Project")  # of the SDK's headers
LOOK = 0.1  # seconds between looks at what only others can change: budget, another process's lock


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
    due: float = 0.0  # Unix time from which on rate limits allow for the next request
    # Set: what is in flight is finished, nothing more is sent.
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    locks: defaultdict = field(default_factory=lambda: defaultdict(asyncio.Lock))
    who: dict = field(init=False)  # endpoint, model and role, for the ledger
    # While connected: the SDK's client, what it sends with, and a request without its body.
    api: openai.AsyncOpenAI | None = None
    http: httpx2.AsyncClient | None = None
    request: Callable[..., httpx2.Request] | None = None

    def __post_init__(self):
        where = {"endpoint": self.endpoint.base_url, "model": self.endpoint.model}
        self.who = {**where, "role": self.role}

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Hold a connection while something is sent.

        It is made only then, since what is stored already needs neither a key nor a price.

        Raises:
            UserError: no key, or a budget and no price.
        """
        money.check_budget(self.ledger, self.endpoint)
        self.price = money.price_of(self.endpoint)
        http = host(self.endpoint.base_url).http_client()
        async with client(self.endpoint, http) as self.api:
            # Whose account, too: organization and project, where the SDK's variables name them.
            said = self.api.default_headers
            headers = {name: said[name] for name in SENT if said[name]}
            # What all requests share is worked out once: that takes longer than to store a reply.
            self.request = partial(
                httpx2.Request,
                "POST",
                httpx2.URL(f"{self.api.base_url}chat/completions"),
                headers=httpx2.Headers({**http.headers, **headers, **self.api.auth_headers}),
                extensions={"timeout": httpx2.Timeout(self.endpoint.timeout).as_dict()},
            )
            self.http = http
            if self.endpoint.batch_api:
                yield
                return
            async with self.alone():
                await batch_api.collect_ended(self)
                self.ledger.wait_at_most(0)  # here: it would hold up all requests
                try:
                    yield
                finally:
                    self.ledger.wait_at_most(WAIT)

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Hold a lock, so that no other process asks this model for the same ledger meanwhile.

        So the same question is paid once, and all processes keep to the rate limits together: the
        time of the locked file says when the next request is due.
        """
        name = identity(self.endpoint, {"model": self.endpoint.model}, 0)[:16]
        path = self.ledger.path.with_name(f"{self.ledger.path.name}.{name}.lock")
        wait = partial(self.note, ", waiting for other processes that ask the same model")
        async with await AsyncFileLock(path).acquire(poll_interval=LOOK, cancel_check=wait):
            self.note()
            self.due = path.stat().st_mtime
            try:
                yield
            finally:
                os.utime(path, (self.due, self.due))

    async def pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ending.wait(), seconds)
        if self.ending.is_set():
            raise Ended

    async def wait_for_turn(self, body: dict) -> None:
        """Keep to the rate limits, in the order of asking."""
        requests, tokens = self.endpoint.requests_per_minute, self.endpoint.tokens_per_minute
        if not requests and not tokens:
            return
        share = max(1 / (requests or inf), money.likely_tokens(body) / (tokens or inf))
        async with self.locks["turn"]:
            while (early := self.due - time.time()) > 0:
                await self.pause(early)
            self.due = max(self.due, time.time() - AT_ONCE) + 60 * share

    def store(self, attempt: int, raw: bytes, request_id: str, price: money.Price | None) -> bool:
        """Store a reply as it came, then what is read of it; returns whether it is an answer."""
        self.ledger.replied(attempt, raw, request_id=request_id)
        content = contents(raw)
        usage = usage_of(content)
        dollars = money.paid(usage, price)
        state = "replied" if choices(content) else "no answer"
        self.ledger.settled(attempt, state, *(usage or ())[:2], dollars=dollars)
        self.spent += dollars or 0
        self.note(", price unknown" if price is None else "")
        return state == "replied"

    async def write(self, work: partial) -> bool | None:
        """Write to the ledger as soon as no other process does; returns what the write returns.

        Requests go on meanwhile. A cancelled write is done all the same: its reply is paid for.
        """
        try:
            while True:
                with contextlib.suppress(Busy):
                    return work()
                self.note(", waiting for a process that holds the ledger")
                await asyncio.sleep(LOOK)
        except asyncio.CancelledError:
            self.ledger.wait_at_most(WAIT)
            work()
            raise

    def note(self, more: str = "") -> None:
        """End the progress line with the cost so far, unless all is free, and with `more`."""
        self.progress.note = (f", {self.spent:,.2f} US dollars" if self.spent else "") + more
        self.progress.advance(0)  # shown when it is time, so a wait says it again and again

    def check_room(self, dollars: float | None) -> None:
        """Raises `UserError` where the budget has no room for a request."""
        if self.ledger.has_room(dollars):
            return
        spent = f"{self.ledger.spent():,.2f} are spent or reserved for requests without a reply"
        raise UserError(
            f"budget = {self.ledger.budget} US dollars: {spent}, and the next request to"
            f" {self.endpoint.model} may cost {dollars or 0:,.4f}; replies so far are stored, raise"
            f" budget or lower {self.role}.max_tokens and run again to go on"
        )


async def begin(run: Run, call: Call) -> int | None:
    """The number of a new attempt, as soon as limits and budget allow it.

    Returns:
        None where a reply has come meanwhile.

    Raises:
        UserError: the budget is used up.
        Ended: another request met an error that no second try can mend.
    """
    await run.wait_for_turn(call.body)
    dollars = money.most(call.body, run.price)
    while not run.ending.is_set():
        with contextlib.suppress(Busy):
            attempt = run.ledger.begin(**vars(call), **run.who, dollars=dollars)
            if attempt is not None or run.ledger.reply(call.key) is not None:
                return attempt
            if not run.in_flight:
                run.check_room(dollars)
        await run.pause(LOOK)
    raise Ended


async def send(run: Run, call: Call) -> None:
    """Send one request once, unless it has a reply, and store what comes.

    Raises:
        Exception: one of `retries.FAILURES`, why it brought no answer.
    """
    attempt = await begin(run, call)
    if attempt is None:
        return
    run.in_flight += 1
    try:
        # The body as it stands in the ledger. The SDK's own way costs a third of all time here.
        request = run.request(content=json.dumps(call.body).encode())
        response = await run.http.send(request)
        if response.status_code >= 400:
            said = contents(response.content)
            raise openai.APIStatusError("", response=response, body=said.get("error", said))
        raw = without_key(response.content, run.endpoint)
        request_id = redacted(response.headers.get("x-request-id", ""), run.endpoint)
        is_answer = await run.write(partial(run.store, attempt, raw, request_id, run.price))
    except FAILURES as error:
        may_cost = is_billed(error)
        await run.write(partial(run.ledger.failed, attempt, name_of(error), is_billed=may_cost))
        raise
    finally:
        run.in_flight -= 1
    if not is_answer:
        raise NoAnswer(redacted(raw[:300].decode(errors="replace"), run.endpoint) or "nothing")


async def answer(run: Run, outcome: Outcome) -> None:
    """Ask for what the ledger does not hold of one request's replies, until nothing is left."""
    while missing := outcome.look(run.ledger):
        for call in missing:
            async with run.locks[call.key]:  # the same may be on its way for another request
                await persist(run, partial(send, run, call))


async def by_workers(run: Run, outcomes: Sequence[Outcome]) -> None:
    """A pool of `endpoint.concurrency` workers.

    The first failure stops it, once what is in flight has come and is stored.
    """
    waiting = iter(outcomes)

    async def worker():
        for outcome in waiting:
            try:
                await answer(run, outcome)
            except Exception:
                run.note(", stopping when what is on its way has come")
                run.ending.set()
                raise
            run.progress.advance()

    workers = [worker() for _ in range(min(run.endpoint.concurrency, len(outcomes)))]
    for failure in await asyncio.gather(*workers, return_exceptions=True):
        if failure and not isinstance(failure, Ended):
            raise failure


async def by_batches(run: Run, outcomes: Sequence[Outcome]) -> None:
    """Batch after batch of what is missing; the second asks for what the first left unreadable."""
    while True:
        calls = [outcome.look(run.ledger) for outcome in outcomes]
        run.progress.advance(calls.count([]) - run.progress.n)
        missing = {call.key: call for some in calls for call in some}
        if not missing:
            return
        await batch_api.fill(run, list(missing.values()))


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
            if any(outcome.look(ledger) for outcome in outcomes):
                async with run.connected():
                    await ask_by(run, outcomes)
            progress.advance(len(requests) - progress.n)

    # Looking for garbage among all that a notebook has loaded takes a tenth of a second, in which
    # no request goes out and no reply is stored.
    gc.freeze()
    try:
        # In a thread: a notebook's kernel has its own event loop. An interrupt cancels the work.
        with start_blocking_portal() as portal:
            portal.call(ask_all)
    finally:
        gc.unfreeze()
    return outcomes
