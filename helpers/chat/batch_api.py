"""Asks by the provider's Batch API: half the price, within a day, over the same ledger and keys.

A batch stands in the ledger, with its requests and what they may cost, before it is created, and
carries our name in its metadata: killed between any two calls, the next run finds it at the
provider, or knows that it costs nothing.
"""

import contextlib
import json
import uuid
from collections.abc import Iterator
from functools import partial

import openai

from helpers.chat import money
from helpers.chat.endpoint import redacted, without_key
from helpers.chat.ledger import Batch, Call
from helpers.chat.limits import persist, refused
from helpers.chat.replies import contents, part
from helpers.errors import UserError

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000  # of one batch, by the provider's rules
POLL = 30.0  # seconds between looks at running batches
TRIES = 3  # batches in a row that bring no reply
ADDRESS = "/v1/chat/completions"
NAME = "skill_composition"  # of our name in a batch's metadata
ENDED = ("completed", "failed", "expired", "cancelled")


def line(call: Call) -> bytes:
    """One request of a batch's file."""
    request = {"custom_id": call.key, "method": "POST", "url": ADDRESS, "body": call.body}
    return json.dumps(request, ensure_ascii=False).encode(errors="replace") + b"\n"


def chunks(calls: list[Call]) -> Iterator[list[Call]]:
    """Within the provider's limits."""
    chunk, size = [], 0
    for call in calls:
        length = len(line(call))
        if chunk and (len(chunk) == MOST_REQUESTS or size + length > MOST_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(call)
        size += length
    yield chunk


def open_batches(run) -> list[Batch]:
    return run.ledger.open_batches(run.endpoint.base_url, run.endpoint.model)


# ---- sending ----


async def find(run, held: Batch) -> str | None:
    """The provider's name of a batch that we may have created."""
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
            name = await persist(run, partial(find, run, held))
            if name is None:
                unbilled = dict.fromkeys(held.attempts, "batch not created")
                run.ledger.end_batch(held, "not created", unbilled=unbilled)
            else:
                run.ledger.name_batch(held, name)


async def create(run, held: Batch, content: bytes) -> str:
    """The provider's name of a batch with these lines, created unless an earlier try did it."""
    if name := await find(run, held):
        return name
    try:
        file = await run.api.files.create(file=(f"{held.name}.jsonl", content), purpose="batch")
    except openai.NotFoundError:
        raise UserError(
            f"{run.endpoint.base_url} has no Batch API (HTTP 404):"
            f" set batch_api: false of this {run.role}"
        ) from None
    batch = await run.api.batches.create(
        input_file_id=file.id,
        endpoint=ADDRESS,
        completion_window="24h",
        metadata={NAME: held.name},
    )
    return batch.id


async def send(run, calls: list[Call]) -> None:
    """Send what no open batch holds, as far as the budget has room.

    Raises:
        UserError: it was refused, or the provider cannot be reached.
    """
    priced = [(call, money.most(call.body, run.price)) for call in calls]
    held = run.ledger.begin_batch(uuid.uuid4().hex, priced, **run.who)
    if not held.attempts:
        return
    content = b"".join(line(call) for call in calls if call.key in held.attempts)
    try:
        run.ledger.name_batch(held, await persist(run, partial(create, run, held, content)))
    except UserError:
        await recover(run)
        raise


# ---- what comes ----


async def lines_of(run, file: str | None) -> dict[str, dict]:
    """The lines of one of a batch's files, by their requests' keys; there may be no file."""
    if file is None:
        return {}
    content = await persist(run, partial(run.api.files.content, file))
    lines = map(contents, without_key(content.content, run.endpoint).splitlines())
    return {str(said.get("custom_id")): said for said in lines}


async def look(run, held: Batch) -> None:
    """Store what a batch has brought, if it has ended.

    Raises:
        UserError: the batch was found invalid, or a request in it was refused; all its replies are
            stored before.
    """

    async def retrieve():
        try:
            return await run.api.batches.retrieve(held.batch)
        except openai.NotFoundError:
            return None

    batch = await persist(run, retrieve)
    if batch is None:
        run.ledger.end_batch(held, "not found", rest="batch not found")
        return
    if batch.status not in ENDED:
        return
    price = money.price_of(run.endpoint, batch=True)
    lines = await lines_of(run, batch.error_file_id) | await lines_of(run, batch.output_file_id)
    replies, unbilled, refusals = {}, {}, []
    if batch.status == "failed":  # found invalid, before anything was asked
        unbilled = dict.fromkeys(held.attempts, "batch failed")
        refusals.append(why_failed(run, batch))
    for key, said in lines.items():
        response = part(said, "response")
        status = response.get("status_code")
        if status == 200:
            raw = json.dumps(response.get("body"), ensure_ascii=False).encode(errors="replace")
            request_id = redacted(str(response.get("request_id", "")), run.endpoint)
            replies[key] = (raw, request_id, run.read(raw, price))
            continue
        error = part(said, "error") or part(part(response, "body"), "error")
        code, message = error.get("code"), str(error.get("message"))
        unbilled[key] = f"batch: HTTP {status}" if status else f"batch: {code}"
        refusals.append(refused(run, status, code, message))
    run.ledger.end_batch(held, batch.status, replies=replies, unbilled=unbilled)
    for sentence in filter(None, refusals):
        raise sentence


def why_failed(run, batch) -> UserError:
    """The sentence for a batch that the provider found invalid."""
    errors = batch.errors.data if batch.errors else []
    words = redacted("; ".join(str(error.message) for error in errors), run.endpoint)
    return UserError(
        f"{run.endpoint.base_url}, model {run.endpoint.model}: the batch {batch.id} was refused and"
        f" cost nothing: {words}"
    )


def holding(run, calls: list[Call]) -> list[Batch]:
    """The open batches that hold some of these requests."""
    keys = {call.key for call in calls}
    return [held for held in open_batches(run) if keys & held.attempts.keys()]


async def fill(run, wanted: list[Call]) -> None:
    """Send batches until the ledger has a reply to each request.

    Raises:
        UserError: a refusal, a spent budget, or `TRIES` batches in a row that brought no reply.
    """
    missing, tries = wanted, 0
    while missing:
        async with run.alone():
            await recover(run)
            for chunk in chunks(missing):
                await send(run, chunk)
        while waiting := holding(run, missing):
            run.note(f", waiting for {len(waiting)} batches")
            await run.pause(POLL)
            for held in waiting:
                if held.batch is not None:
                    await look(run, held)
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
    await recover(run)
    for held in open_batches(run):
        await look(run, held)
    for held in open_batches(run):
        raise UserError(
            f"{run.endpoint.base_url}: the batch {held.batch} has not ended; with batch_api: true a"
            " run waits for it, or cancel it at the provider and run again"
        )
