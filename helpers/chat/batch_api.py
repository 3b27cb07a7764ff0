"""Asks by the provider's Batch API: half the price, within a day, over the same ledger and keys.

A batch stands in the ledger, with its requests and what they may cost, before it is uploaded and
created, and carries our name in its metadata: killed between any two calls, the next run goes on
with it, or finds it at the provider.
"""

import contextlib
import fcntl
import json
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import openai

from helpers.chat import money
from helpers.chat.endpoint import Endpoint, redacted, without_key
from helpers.chat.ledger import Batch, Call
from helpers.chat.limits import FAILURES, Patience, is_billed, refused
from helpers.chat.replies import contents
from helpers.errors import UserError

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000  # of one batch, by the provider's rules
POLL = 30.0  # seconds between looks at running batches
TRIES = 3  # batches in a row that bring a request no reply
ADDRESS = "/v1/chat/completions"
NAME = "skill_composition"  # of our name in a batch's metadata
FAILED = (*FAILURES, json.JSONDecodeError)  # the SDK reads these replies itself
ENDED = ("completed", "failed", "expired", "cancelled")
KEY = re.compile(rb'"custom_id"\s*:\s*"(\w+)"')  # of a line that may be torn


def still_running(name: str, endpoint: Endpoint) -> UserError:
    """Why a request that a batch holds is not asked outside of it."""
    return UserError(
        f"{endpoint.base_url}: a batch ({NAME} = {name} in its metadata) holds some of these"
        " requests and has not ended; with batch_api: true a run waits for it, or cancel it at the"
        " provider and run again"
    )


def place_of(run) -> dict[str, str]:
    return {"endpoint": run.endpoint.base_url, "model": run.endpoint.model}


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
async def alone(run) -> AsyncIterator[None]:
    """One of the ledger's processes at a time; the system unlocks when a process ends."""
    path = run.ledger.path.with_name(f"{run.ledger.path.name}-batches.lock")
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


def line(key: str, body: dict) -> bytes:
    """One request of a batch's file."""
    request = {"custom_id": key, "method": "POST", "url": ADDRESS, "body": body}
    return json.dumps(request, ensure_ascii=False).encode(errors="replace") + b"\n"


def chunks(calls: list[Call]) -> Iterator[list[Call]]:
    """Within the provider's limits."""
    chunk, size = [], 0
    for call in calls:
        length = len(line(call.key, call.body))
        if chunk and (len(chunk) == MOST_REQUESTS or size + length > MOST_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(call)
        size += length
    yield chunk


async def find(run, held: Batch) -> str | None:
    """The provider's name of a batch that we may have created before we were killed."""

    async def search():
        async for batch in run.api.batches.list(limit=100):  # the newest first
            if (batch.metadata or {}).get(NAME) == held.name:
                return batch.id
            if batch.created_at < held.created - 86400:
                break
        return None

    return await calling(run, search)


def give_up(run, held: Batch) -> None:
    """A batch that the provider does not have costs nothing; its requests may be asked anew."""
    unbilled = dict.fromkeys(run.ledger.requests_of(held.id), "batch not created")
    run.ledger.end_batch(held.id, "not created", unbilled=unbilled, rest="")


async def upload(run, held: Batch) -> str:
    """The provider's name of the uploaded requests.

    Raises:
        UserError: it was refused, or the provider cannot be reached.
    """
    content = b"".join(line(*request) for request in run.ledger.requests_of(held.id).items())
    file = (f"{held.name}.jsonl", content)

    async def post():
        try:
            return await run.api.files.create(file=file, purpose="batch")
        except openai.NotFoundError:
            raise UserError(
                f"{run.endpoint.base_url} has no Batch API (HTTP 404):"
                f" set batch_api: false of this {run.role}"
            ) from None

    try:
        return (await calling(run, post)).id
    except UserError:
        give_up(run, held)
        raise


async def create(run, held: Batch) -> None:
    """Upload and create a batch that stands in the ledger, as far as it is not done yet.

    Raises:
        UserError: it was refused, or the provider cannot be reached.
    """
    file = held.file
    may_exist = file is not None  # created, and we were killed before its name came
    if file is None:
        file = await upload(run, held)
        run.ledger.sent_batch(held.id, file=file)
    patience = Patience(run.endpoint, run.role)
    while True:
        name = await find(run, held) if may_exist else None
        if name is not None:
            break
        try:
            batch = await run.api.batches.create(
                input_file_id=file,
                endpoint=ADDRESS,
                completion_window="24h",
                metadata={NAME: held.name},
            )
        except FAILED as error:
            may_exist = is_billed(error)
            try:
                wait = patience.after(error)
            except UserError:
                if not may_exist:
                    give_up(run, held)
                raise
        else:
            name = batch.id
            break
        await run.pause(wait)
    run.ledger.sent_batch(held.id, name=name)


async def submit(run, wanted: list[Call]) -> None:
    """Send what no open batch holds, as far as the budget has room.

    Before that go on with what a killed process left.
    """
    place = place_of(run)
    async with alone(run):
        for held in run.ledger.open_batches(**place):
            if held.batch is None:
                await create(run, held)
        pending = run.ledger.pending(**place)
        for chunk in chunks([call for call in wanted if call.key not in pending]):
            priced = [(call, money.most(call.body, run.price)) for call in chunk]
            held = run.ledger.begin_batch(uuid.uuid4().hex, priced, **place, role=run.role)
            if held is None:
                return
            await create(run, held)


async def lines_of(run, file: str | None) -> dict[str, tuple[bytes, dict]]:
    """The lines of one of a batch's files, by their requests' keys: their bytes, and their JSON.

    There may be no file; the JSON is empty where a line is torn.
    """
    if file is None:
        return {}
    content = (await calling(run, lambda: run.api.files.content(file))).content
    lines = {}
    for text in without_key(content, run.endpoint).splitlines():
        if key := KEY.search(text):
            lines[key[1].decode()] = (text, contents(text))
    return lines


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

    batch = await calling(run, retrieve)
    if batch is None:
        run.ledger.end_batch(held.id, "not found", rest="batch not found")
        return
    if batch.status not in ENDED:
        return
    price = money.price_of(run.endpoint, batch=True)
    lines = await lines_of(run, batch.error_file_id) | await lines_of(run, batch.output_file_id)
    replies, unbilled, refusals = [], {}, []
    for key, (text, content) in lines.items():
        response = content.get("response")
        response = response if isinstance(response, dict) else {}
        status, body = response.get("status_code"), response.get("body")
        if status == 200 or not content:  # a torn line is kept as it came; it may be billed
            raw = text
            if content:
                raw = json.dumps(body, ensure_ascii=False).encode(errors="replace")
            request_id = redacted(str(response.get("request_id") or ""), run.endpoint)
            replies.append((key, raw, request_id or None, run.read(raw, price)))
            continue
        error = content.get("error") or (isinstance(body, dict) and body.get("error")) or {}
        if not isinstance(error, dict):
            error = {"message": str(error)}
        code, message = error.get("code"), str(error.get("message") or "")
        unbilled[key] = f"batch: HTTP {status}" if status else f"batch: {code or 'no reply'}"
        refusals.append(refused(status, code, message, run.endpoint, run.role))
    if batch.status != "completed":  # what it did not get to costs nothing
        for key in run.ledger.requests_of(held.id):
            if key not in lines:
                unbilled[key] = f"batch {batch.status}"
    rest = "no line in the batch's files"
    run.ledger.end_batch(held.id, batch.status, replies, unbilled=unbilled, rest=rest)
    if batch.status == "failed":
        raise why_failed(run, batch)
    for sentence in refusals:
        if sentence:
            raise sentence


def why_failed(run, batch) -> UserError:
    """The sentence for a batch that the provider found invalid."""
    errors = (batch.errors and batch.errors.data) or []
    reasons = dict.fromkeys(error.message or error.code or "" for error in errors)
    words = redacted("; ".join(reasons) or "no reason given", run.endpoint)
    code = next((error.code for error in errors if error.code), None)
    return refused(None, code, words, run.endpoint, run.role) or UserError(
        f"{run.endpoint.base_url}, model {run.endpoint.model}: the batch {batch.id} was refused and"
        f" cost nothing: {words}"
    )


async def fill(run, wanted: list[Call]) -> None:
    """Send batches until the ledger has a reply to each request.

    Raises:
        UserError: a refusal, a spent budget, or a request that `TRIES` batches brought no reply to.
    """
    ledger, place, failures = run.ledger, place_of(run), Counter()
    while missing := [call for call in wanted if ledger.reply(call.key) is None]:
        most = max(failures[call.key] for call in missing)
        if most >= TRIES:
            lost = sum(failures[call.key] == most for call in missing)
            raise UserError(
                f"{run.endpoint.base_url}, model {run.endpoint.model}: {most} batches in a row"
                f" brought no reply to {lost:,} of {len(wanted):,} requests; replies so far are"
                " stored, run again to go on"
            )
        await submit(run, missing)
        keys = {call.key for call in missing}
        waiting = keys & set(ledger.pending(**place))
        dollars = money.most(missing[0].body, run.price)
        is_stored = any(ledger.reply(key) is not None for key in keys)
        if not waiting and not is_stored:
            if not ledger.has_room(dollars):
                raise run.no_room(dollars)
            await run.pause(POLL)  # another process asks all of them one by one just now
        failures.update(waiting)
        while still := waiting & set(pending := ledger.pending(**place)):
            batches = {pending[key] for key in still}
            run.note(f", waiting for {len(still):,} requests in {len(batches)} batches")
            for held in ledger.open_batches(**place):
                if held.batch is not None:
                    await look(run, held)
            if waiting & set(ledger.pending(**place)):
                await run.pause(POLL)


async def collect_ended(run) -> None:
    """For a run without batches: store what earlier ones have brought by now."""
    ledger, place = run.ledger, place_of(run)
    if not ledger.open_batches(**place):
        return
    async with alone(run):
        for held in ledger.open_batches(**place):
            if held.batch is not None:
                continue
            name = await find(run, held) if held.file else None
            if name is None:
                give_up(run, held)
            else:
                ledger.sent_batch(held.id, name=name)
    for held in ledger.open_batches(**place):
        await look(run, held)
