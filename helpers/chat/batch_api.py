"""Asks by the provider's Batch API: half the price, within a day, over the same ledger and with the same keys.

A batch stands in the ledger, with its requests and what they may cost, before it is uploaded and created, and carries
our name in its metadata: killed between any two calls, the next run goes on with it, or finds it at the provider.
"""

import contextlib
import fcntl
import json
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import openai

from helpers.chat import money
from helpers.chat.endpoint import Endpoint, redacted
from helpers.chat.ledger import Asked, Batch
from helpers.chat.limits import FAILURES, Patience, is_billed, refused
from helpers.errors import UserError

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000  # of one batch, by the provider's rules
POLL = 30.0  # seconds between looks at running batches
TRIES = 3  # batches in a row that bring a request no reply
ADDRESS = "/v1/chat/completions"
NAME = "skill_composition"  # of our name in a batch's metadata
FAILED = (*FAILURES, json.JSONDecodeError)  # the SDK reads these replies itself
ENDED = ("completed", "failed", "expired", "cancelled")


def still_running(held: Batch, endpoint: Endpoint) -> UserError:
    """Why a request that a batch holds is not asked outside of it."""
    name = held.batch or "that was just being sent"
    return UserError(
        f"{endpoint.base_url}: the batch {name} holds some of these requests and has not ended; with batch_api: true a run waits for it,"
        " or cancel it at the provider and run again"
    )


async def calling(run, call: Callable[[], Awaitable]) -> Any:
    """The result of a call that may be repeated.

    Raises:
        UserError: as `Patience` does.
    """
    patience = Patience(run.endpoint, run.role)
    while True:
        try:
            return await call()
        except FAILED as error:
            wait = patience.after(error)
        await run.pause(wait)


@contextlib.asynccontextmanager
async def alone(run):
    """One of the ledger's processes at a time; the system lets go of the lock when a process ends, however it ends."""
    path = run.ledger.path.with_name(run.ledger.path.name + "-batches.lock")
    try:
        file = open(path, "w")  # noqa: SIM115
    except OSError as e:
        raise UserError(f"{path}: cannot be written ({e.strerror}); nothing was asked") from None
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await run.pause(0.1)
        yield


def line(asked_key: str, body: dict) -> bytes:
    """One request of a batch's file."""
    request = {"custom_id": asked_key, "method": "POST", "url": ADDRESS, "body": body}
    return json.dumps(request, ensure_ascii=False).encode(errors="replace") + b"\n"


def chunks(asked: list[Asked]) -> Iterator[list[Asked]]:
    """Within the provider's limits."""
    some, size = [], 0
    for a in asked:
        length = len(line(a.key, a.body))
        if some and (len(some) == MOST_REQUESTS or size + length > MOST_BYTES):
            yield some
            some, size = [], 0
        some.append(a)
        size += length
    yield some


async def find(run, held: Batch) -> str | None:
    """The provider's name of a batch that we may have created before we were killed."""

    async def search():
        async for there in run.api.batches.list(limit=100):  # the newest first
            if (there.metadata or {}).get(NAME) == held.name:
                return there.id
            if there.created_at < held.created - 86400:
                break
        return None

    return await calling(run, search)


def given_up(run, held: Batch) -> None:
    """A batch that the provider does not have costs nothing; its requests may be asked anew."""
    keys = [k for k, _ in run.ledger.requests_of(held.id)]
    run.ledger.end_batch(
        held.id, "not created", unbilled=dict.fromkeys(keys, "batch not created"), rest=""
    )


async def create(run, held: Batch) -> None:
    """Upload and create a batch that stands in the ledger, as far as it is not done yet.

    Raises:
        UserError: it was refused, or the provider cannot be reached.
    """
    file, ledger = held.file, run.ledger
    if file is None:
        content = b"".join(line(k, body) for k, body in ledger.requests_of(held.id))

        async def upload():
            try:
                return await run.api.files.create(
                    file=(f"{held.name}.jsonl", content), purpose="batch"
                )
            except openai.NotFoundError:
                raise UserError(
                    f"{run.endpoint.base_url} has no Batch API (HTTP 404): set batch_api: false of this {run.role}"
                ) from None

        try:
            file = (await calling(run, upload)).id
        except UserError:
            given_up(run, held)
            raise
        ledger.sent_batch(held.id, file=file)
    settings = {
        "input_file_id": file,
        "endpoint": ADDRESS,
        "completion_window": "24h",
        "metadata": {NAME: held.name},
    }
    patience, perhaps = (
        Patience(run.endpoint, run.role),
        held.file is not None,
    )  # created, and we were killed before its name came
    while True:
        name = await find(run, held) if perhaps else None
        try:
            name = name or (await run.api.batches.create(**settings)).id
            break
        except FAILED as error:
            perhaps = is_billed(error)
            try:
                wait = patience.after(error)
            except UserError:
                if not perhaps:
                    given_up(run, held)
                raise
        await run.pause(wait)
    ledger.sent_batch(held.id, name=name)


async def submit(run, wanted: list[Asked]) -> None:
    """Send what no open batch holds, as far as the budget has room; first go on with what a killed process left on its way."""
    who = {"endpoint": run.endpoint.base_url, "model": run.endpoint.model}
    async with alone(run):
        for held in run.ledger.open_batches(**who):
            if held.batch is None:
                await create(run, held)
        there = run.ledger.pending(**who)
        for some in chunks([a for a in wanted if a.key not in there]):
            asked = ((a, money.most(a.body, run.price)) for a in some)
            held = run.ledger.begin_batch(uuid.uuid4().hex, asked, **who, role=run.role)
            if held is None:
                return
            await create(run, held)


async def lines_of(run, file: str | None) -> list[dict]:
    """The lines of one of a batch's files; there may be no file, and a line may be torn."""
    content = (await calling(run, lambda: run.api.files.content(file))).content if file else b""
    lines = []
    for text in content.splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return [x for x in lines if isinstance(x, dict) and isinstance(x.get("custom_id"), str)]


async def look(run, held: Batch) -> None:
    """Store what a batch has brought, if it has ended.

    Raises:
        UserError: the batch was found invalid, or a request in it was refused; all its replies are stored before.
    """

    async def retrieve():
        try:
            return await run.api.batches.retrieve(held.batch)
        except openai.NotFoundError:
            return None

    there = await calling(run, retrieve)
    if there is None:
        run.ledger.end_batch(held.id, "not found", rest="batch not found")
        return
    if there.status not in ENDED:
        return
    price, replies, unbilled, refusals = money.price_of(run.endpoint, batch=True), [], {}, []
    for x in [
        x for file in (there.output_file_id, there.error_file_id) for x in await lines_of(run, file)
    ]:
        response = x.get("response") or {}
        status, body = response.get("status_code"), response.get("body")
        if status == 200:
            raw = json.dumps(body, ensure_ascii=False).encode(errors="replace")
            noted = run.paid(raw, price)
            replies.append(
                (x["custom_id"], raw, response.get("request_id"), noted["usage"], noted["dollars"])
            )
            continue
        error = x.get("error") or (body.get("error") if isinstance(body, dict) else None) or {}
        error = error if isinstance(error, dict) else {"message": str(error)}
        code, said = error.get("code"), str(error.get("message") or "")
        unbilled[x["custom_id"]] = (
            f"batch: HTTP {status}" if status else f"batch: {code or 'no reply'}"
        )
        refusals.append(refused(status, code, said, run.endpoint, run.role))
    stopped = there.status != "completed"
    if stopped:  # what it did not get to costs nothing
        answered = {k for k, *_ in replies}
        unbilled |= {
            k: f"batch {there.status}"
            for k, _ in run.ledger.requests_of(held.id)
            if k not in answered | set(unbilled)
        }
    run.ledger.end_batch(
        held.id, there.status, replies, unbilled=unbilled, rest="no line in the batch's files"
    )
    if there.status == "failed":
        errors = (there.errors and there.errors.data) or []
        said = redacted(
            "; ".join(dict.fromkeys(e.message or e.code or "" for e in errors))
            or "no reason given",
            run.endpoint,
        )
        code = next((e.code for e in errors if e.code), None)
        what = f"{run.endpoint.base_url}, model {run.endpoint.model}: the batch {held.batch} was refused and cost nothing: {said}"
        raise refused(None, code, said, run.endpoint, run.role) or UserError(what)
    for sentence in refusals:
        if sentence:
            raise sentence


async def fill(run, wanted: list[Asked]) -> None:
    """Send batches until the ledger has a reply to each request.

    Raises:
        UserError: a refusal, a spent budget, or a request that `TRIES` batches brought no reply to.
    """
    who, failures = {"endpoint": run.endpoint.base_url, "model": run.endpoint.model}, Counter()
    while missing := [a for a in wanted if run.ledger.reply(a.key) is None]:
        if (most := max(failures[a.key] for a in missing)) >= TRIES:
            lost = sum(failures[a.key] == most for a in missing)
            raise UserError(
                f"{run.endpoint.base_url}, model {run.endpoint.model}: {most} batches in a row brought no reply to {lost:,} of"
                f" {len(wanted):,} requests; replies so far are stored, run again to go on"
            )
        await submit(run, missing)
        there = run.ledger.pending(**who)
        waiting = {a.key for a in missing} & set(there)
        if (
            not waiting
            and run.ledger.budget is not None
            and all(run.ledger.reply(a.key) is None for a in missing)
        ):
            raise run.no_room(money.most(missing[0].body, run.price))
        failures.update(waiting or [a.key for a in missing])
        while still := waiting & set(there):
            run.note(
                f", waiting for {len(still):,} requests in {len({there[k].id for k in still})} batches"
            )
            for held in run.ledger.open_batches(**who):
                if held.batch is not None:
                    await look(run, held)
            there = run.ledger.pending(**who)
            if waiting & set(there):
                await run.pause(POLL)


async def collect_ended(run) -> dict[str, Batch]:
    """For a run without batches: store what earlier ones have brought by now; returns which requests the open ones hold, by key."""
    who = {"endpoint": run.endpoint.base_url, "model": run.endpoint.model}
    if not run.ledger.open_batches(**who):
        return {}
    async with alone(run):
        for held in run.ledger.open_batches(**who):
            if held.batch is None:
                name = await find(run, held) if held.file else None
                given_up(run, held) if name is None else run.ledger.sent_batch(held.id, name=name)
    for held in run.ledger.open_batches(**who):
        await look(run, held)
    return run.ledger.pending(**who)
