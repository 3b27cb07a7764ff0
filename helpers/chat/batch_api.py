"""Asks through the provider's Batch API: at half the price, with replies within a day.

Requests have the same keys in the same ledger as those that are sent one by one.

A batch stands in the ledger, with its requests and what they may cost, before it is created, and
carries our name in its metadata: killed between any two calls, the next run finds it at the
provider, or knows that it costs nothing.

`run` is everywhere a `helpers.chat.client.Run`, whose module imports this one: one call of `ask`,
with its endpoint, ledger and role.
"""

import contextlib
import json
import sys
import uuid
from collections.abc import Iterator
from functools import partial

import openai

from helpers.chat import money
from helpers.chat.endpoint import redacted, without_key
from helpers.chat.ledger import Batch, Call
from helpers.chat.replies import contents, part
from helpers.chat.retries import persist, refused
from helpers.errors import UserError

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000  # of one batch, by the provider's rules
POLL = 30.0  # seconds between looks at running batches
TRIES = 3  # batches in a row that bring no reply; looks for a file that is not there
ADDRESS = "/v1/chat/completions"
NAME = "skill_composition"  # the key in a batch's metadata under which our name for it stands
ENDED = ("completed", "failed", "expired", "cancelled")


def line(call: Call) -> bytes:
    """The line of a batch's file for one request."""
    request = {"custom_id": call.key, "method": "POST", "url": ADDRESS, "body": call.body}
    return json.dumps(request, ensure_ascii=False).encode(errors="replace") + b"\n"


def chunks(calls: list[Call]) -> Iterator[list[Call]]:
    """The requests of each batch, within the provider's limits."""
    chunk, size = [], 0
    for call in calls:
        length = len(line(call))
        if len(chunk) == MOST_REQUESTS or size + length > MOST_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(call)
        size += length
    yield chunk


def open_batches(run) -> list[Batch]:
    return run.ledger.open_batches(run.endpoint.base_url, run.endpoint.model)


# ---- sending ----


async def find(run, held: Batch) -> str | None:
    """The provider's name of a batch that we may have created; None if it has no such batch."""
    with contextlib.suppress(openai.NotFoundError):
        async for batch in run.api.batches.list(limit=100):  # the newest first
            if (batch.metadata or {}).get(NAME) == held.name:
                return batch.id
            if batch.created_at < held.created - 86400:
                break
    return None


async def recover(run) -> None:
    """Find the batches of which we do not know whether they were created.

    One that the provider does not have costs nothing; its requests may be asked anew.
    """
    for held in open_batches(run):
        if held.batch is None:
            name = await find(run, held)
            if name is None:
                store(run, held, "not created", {}, is_billed=False)
            else:
                run.ledger.name_batch(held.id, name)


async def send(run, calls: list[Call]) -> None:
    """Send what no open batch holds, as far as the budget has room."""
    name, where, lines = uuid.uuid4().hex, run.endpoint, []
    with run.ledger.transaction():
        number = run.ledger.begin_batch(name, where.base_url, where.model)
        for call in calls:
            row = {**vars(call), **run.who, "dollars": money.most(call.body, run.price)}
            if run.ledger.begin(**row, batch=number) is not None:
                lines.append(line(call))
        if not lines:
            run.ledger.end_batch(number, "empty")
            return
    try:
        file = await run.api.files.create(file=(f"{name}.jsonl", b"".join(lines)), purpose="batch")
    except openai.NotFoundError:
        raise UserError(
            f"{where.base_url} has no Batch API (HTTP 404): set batch_api: false of this {run.role}"
        ) from None
    batch = await run.api.batches.create(
        input_file_id=file.id,
        endpoint=ADDRESS,
        completion_window="24h",
        metadata={NAME: name},
    )
    run.ledger.name_batch(number, batch.id)


async def submit(run, calls: list[Call]) -> None:
    """Send batches; what an earlier try or a killed process left is found first."""
    await recover(run)
    for chunk in chunks(calls):
        await send(run, chunk)


# ---- what comes ----


def store(run, held: Batch, state: str, lines: dict[str, dict], *, is_billed: bool) -> None:
    """Store how a batch has ended, whole and once, whichever of the processes does it.

    Args:
        is_billed: whether requests without a line may have cost something.

    Raises:
        UserError: a request was refused; all replies are stored before.
    """
    ledger, refusals = run.ledger, []
    price = money.price_of(run.endpoint.model_copy(update={"batch_api": True}))
    with ledger.transaction():
        if not ledger.end_batch(held.id, state):
            return
        for key, attempt in held.attempts.items():
            response = part(lines.get(key, {}), "response")
            status, body = response.get("status_code"), response.get("body")
            if status == 200:
                raw = json.dumps(body, ensure_ascii=False).encode(errors="replace")
                run.store(attempt, raw, str(response.get("request_id")), price)
                continue
            refusals.append(refused(run, status, part(part(response, "body"), "error")))
            why = f"batch: HTTP {status}" if status else f"batch {state}: no reply"
            ledger.failed(attempt, why, is_billed=is_billed and key not in lines)
    for sentence in filter(None, refusals):
        raise sentence


async def content_of(run, file: str) -> bytes | None:
    """A file of an ended batch; None where the provider has deleted it.

    It holds what is paid for, so it is looked for more than once.
    """
    for again in reversed(range(TRIES)):
        with contextlib.suppress(openai.NotFoundError):
            return (await run.api.files.content(file)).content
        if again:
            await run.pause(POLL)
    return None


def warn(run, batch: str, lost: int) -> None:
    print(
        f"{run.endpoint.base_url}, model {run.endpoint.model}: the provider has deleted what the"
        f" batch {batch} brought; {lost:,} replies, perhaps paid for, are gone, and are asked anew",
        file=sys.stderr,
    )


async def look(run, held: Batch) -> None:
    """Store what a batch has brought, if it has ended; what of it is gone may be asked anew.

    Raises:
        UserError: the batch was found invalid, or a request in it was refused.
    """
    if held.batch is None:  # another process is creating it, or was killed
        async with run.alone():
            await recover(run)
        return
    try:
        batch = await run.api.batches.retrieve(held.batch)
    except openai.NotFoundError:
        store(run, held, "gone", {}, is_billed=True)
        return
    if batch.status not in ENDED:
        return
    lines, state = {}, batch.status
    for file in filter(None, (batch.error_file_id, batch.output_file_id)):
        content = await content_of(run, file)
        if content is None:
            state = f"{batch.status}, its file gone"
            continue
        for text in without_key(content, run.endpoint).splitlines():
            said = contents(text)
            lines[str(said.get("custom_id"))] = said
    is_valid = batch.status != "failed"
    if state != batch.status:
        warn(run, batch.id, len(held.attempts.keys() - lines.keys()))
    store(run, held, state, lines, is_billed=is_valid)
    if not is_valid:
        errors = batch.errors.data if batch.errors else []
        words = redacted("; ".join(str(error.message) for error in errors), run.endpoint)
        raise UserError(
            f"{run.endpoint.base_url}, model {run.endpoint.model}: the batch {batch.id} was refused"
            f" and cost nothing: {words}"
        )


async def fill(run, wanted: list[Call]) -> None:
    """Send batches until the ledger has a reply to each request.

    Raises:
        UserError: a refusal, a spent budget, or `TRIES` batches in a row that brought no reply.
    """
    missing, tries = wanted, 0
    while missing:
        async with run.alone():
            await persist(run, partial(submit, run, missing))
        keys = {call.key for call in missing}
        while waiting := [held for held in open_batches(run) if keys & held.attempts.keys()]:
            run.note(f", waiting for {len(waiting)} batches")
            await run.pause(POLL)
            for held in waiting:
                await persist(run, partial(look, run, held))
        asked = len(missing)
        missing = [call for call in missing if run.ledger.reply(call.key) is None]
        tries = tries + 1 if len(missing) == asked else 0
        if tries:
            run.check_room(money.most(missing[0].body, run.price))
        if tries == TRIES:
            raise UserError(
                f"{run.endpoint.base_url}, model {run.endpoint.model}: {tries} batches in a row"
                f" brought no reply to {len(missing):,} of {len(wanted):,} requests; replies so far"
                " are stored, run again to go on"
            )


async def collect_ended(run) -> None:
    """For a run without batches: store what earlier ones have brought by now.

    Raises:
        UserError: one has not ended; what it holds would be asked and paid once more.
    """
    await persist(run, partial(recover, run))
    for held in open_batches(run):
        await persist(run, partial(look, run, held))
    for held in open_batches(run):
        raise UserError(
            f"{run.endpoint.base_url}: the batch {held.batch} has not ended; with batch_api: true a"
            " run waits for it, or cancel it at the provider and run again"
        )
