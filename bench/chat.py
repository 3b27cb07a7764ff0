"""How fast the chat client is, beside the ideal and beside peers: `make bench-chat`.

The server is the tests' one, in a process of its own; so is every client. All of it in one run on
one machine, in turns, medians of `ROUNDS`. Prints a table and writes runs/bench/chat.json.
"""

import asyncio
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import openai

from bench.table import write
from helpers import paths
from helpers.chat.client import ask
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Request
from helpers.profile import load
from helpers.task.prompts import grading_turn
from helpers.task.queries import draw
from tests.faults.server import Server

ROUNDS = 5
REQUESTS, AT_ONCE, LATENCY = 400, 50, 0.2
IDEAL = REQUESTS / AT_ONCE * LATENCY  # seconds
RATE, BURST = 100, 20  # requests a second, and at once
RATE_IDEAL = (REQUESTS - BURST) / RATE
MANY, MANY_LATENCY = 20_000, 0.002
PEERS = {  # what else a user would take; they store nothing before the end
    "AsyncOpenAI and a semaphore": "plain",
    "the same with aiohttp": "plain-aiohttp",
    "inspect_ai": "inspect",
}
INSPECT = paths.ROOT / ".venv-bench/bin/python"


def questions(count: int) -> list[Request]:
    return [Request([{"role": "user", "content": f"question {i}"}]) for i in range(count)]


def memory() -> float:
    """Of this process now, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


# ---- clients, each in a process of its own ----


def ours(address: str, count: int, at_once: int) -> dict:
    """Every reply stored before it is looked at."""
    with tempfile.TemporaryDirectory() as folder:
        ledger, seen = Ledger(Path(folder) / "ledger.sqlite"), []

        def read(request, reply):
            seen.append(memory() if len(seen) in (count // 4, count - 1) else 0.0)
            return reply

        requests = questions(count)
        endpoint = Endpoint(base_url=address, model="m", concurrency=at_once)
        start = time.perf_counter()
        outcomes = ask(requests, endpoint, ledger, role="bench", read=read)
        seconds = time.perf_counter() - start
        assert ledger.summary().query("state == 'replied'").attempts.sum() == count
    quarter, end = (x for x in seen if x)
    return {
        "seconds": seconds,
        "usable": sum(len(outcome.usable) for outcome in outcomes),
        "mb_at_a_quarter": quarter,
        "mb_at_the_end": end,
    }


def plain(address: str, count: int, at_once: int, http=None) -> dict:
    """What most scripts do."""

    async def everything() -> tuple[float, list]:
        api, few = (
            openai.AsyncOpenAI(base_url=address, api_key="none", http_client=http),
            asyncio.Semaphore(at_once),
        )

        async def one(request: Request):
            async with few:
                return (
                    (await api.chat.completions.create(model="m", messages=request.messages))
                    .choices[0]
                    .message.content
                )

        start = time.perf_counter()
        replies = await asyncio.gather(*map(one, questions(count)), return_exceptions=True)
        return time.perf_counter() - start, replies

    seconds, replies = asyncio.run(everything())
    return {"seconds": seconds, "usable": sum(isinstance(r, str) for r in replies)}


def embedded(count: int) -> dict:
    """Judge requests to the embedded world, on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    p = load.load_profile("mini")["01_generate"]
    pack, queries = p.pack(), draw(p.pools()["I"], 3, seed=0, purpose="bench")
    some = [
        Request(
            [
                {
                    "role": "user",
                    "content": grading_turn(next(queries), f"The needle is a storm {i}.", pack),
                }
            ]
        )
        for i in range(count)
    ]
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.sqlite")
        start, worked = time.perf_counter(), time.process_time()
        ask(some, p.judge, ledger, role="judge")
        seconds, worked = time.perf_counter() - start, time.process_time() - worked
        asked = int(ledger.summary().attempts.sum())
    return {"seconds": seconds, "requests": asked, "processor_seconds": worked}


def client(name: str, *numbers: str) -> None:
    """The body of a client's process; prints what it measured."""
    if name == "embedded":
        result = embedded(int(numbers[0]))
    else:
        address, count, at_once = numbers[0], int(numbers[1]), int(numbers[2])
        if name == "ours":
            result = ours(address, count, at_once)
        else:
            result = plain(
                address,
                count,
                at_once,
                openai.DefaultAioHttpClient() if name == "plain-aiohttp" else None,
            )
    print(json.dumps(result))


# ---- the runs ----


def serve(latency: str, rate: str) -> None:
    """The body of the server's process; prints its address, ends with its input."""
    with Server(latency=float(latency), rate=float(rate) or None, burst=BURST) as server:
        print(server.url, flush=True)
        sys.stdin.read()


def process(*words) -> list[str]:
    return [sys.executable, "-m", "bench.chat", *map(str, words)]


def measured(name: str, count: int, *, latency: float, rate: float = 0.0) -> dict:
    """One client against a fresh server."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(process("serve", latency, rate), cwd=paths.ROOT, **pipes) as server:
        address = server.stdout.readline().strip()
        numbers = [address, str(count), str(AT_ONCE)]
        command = (
            [str(INSPECT), "bench/chat_inspect_ai.py", *numbers]
            if name == "inspect"
            else process(name, *numbers)
        )
        done = subprocess.run(
            command,
            cwd=paths.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        )
        server.stdin.close()
    return json.loads(done.stdout.splitlines()[-1])


def median(some: list[dict], key: str = "seconds") -> float:
    return statistics.median(x[key] for x in some)


def version_of(name: str) -> str:
    if name != "inspect":
        return f"openai {importlib.metadata.version('openai')}"
    code = "import importlib.metadata as m; print('inspect_ai', m.version('inspect_ai'))"
    return subprocess.run(
        [INSPECT, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> None:
    """All of it; about five minutes on two quiet cores."""
    load, peers = (
        os.getloadavg(),
        {k: v for k, v in PEERS.items() if v != "inspect" or INSPECT.exists()},
    )
    runs: dict[str, list[dict]] = {name: [] for name in ("ours", *peers.values())}
    for _ in range(ROUNDS):
        for name, some in runs.items():  # in turns: other load on the machine hits all alike
            some.append(measured(name, REQUESTS, latency=LATENCY))
    limited = [measured("ours", REQUESTS, latency=0.0, rate=RATE) for _ in range(ROUNDS)]
    many = measured("ours", MANY, latency=MANY_LATENCY)
    inside = [
        json.loads(
            subprocess.run(
                process("embedded", 2000),
                cwd=paths.ROOT,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for _ in range(ROUNDS)
    ]
    table = {
        "requests": REQUESTS,
        "at_once": AT_ONCE,
        "latency_seconds": LATENCY,
        "ideal_seconds": IDEAL,
        "seconds": round(median(runs["ours"]), 3),
        "ratio_to_ideal": round(median(runs["ours"]) / IDEAL, 3),
        "peers": {
            label: {
                "ratio_to_ideal": round(median(runs[name]) / IDEAL, 3),
                "ratio_to_ours": round(median(runs[name]) / median(runs["ours"]), 3),
                "version": version_of(name),
            }
            for label, name in peers.items()
        },
        "usable": {name: min(x["usable"] for x in some) for name, some in runs.items()},
        "rate_limit": {
            "per_second": RATE,
            "burst": BURST,
            "lost": REQUESTS - min(x["usable"] for x in limited),
            "ratio_to_ideal": round(median(limited) / RATE_IDEAL, 3),
        },
        "many": {
            "requests": MANY,
            "latency_seconds": MANY_LATENCY,
            "per_second": round(MANY / many["seconds"]),
            "mb_at_a_quarter": round(many["mb_at_a_quarter"], 1),
            "mb_at_the_end": round(many["mb_at_the_end"], 1),
        },
        "embedded": {
            "per_second_on_one_core": round(
                statistics.median(x["requests"] / x["seconds"] for x in inside)
            ),
            "per_processor_second": round(
                statistics.median(x["requests"] / x["processor_seconds"] for x in inside)
            ),
        },
        "rounds": ROUNDS,
        "load_before_and_after": [
            load[0],
            os.getloadavg()[0],
        ],  # far above 0: other work ran at the same time
    }
    target = paths.run("bench") / "chat.json"
    write(target, table)
    print(
        f"{REQUESTS} requests, {AT_ONCE} at once, {LATENCY} s each: the ideal is {IDEAL:.1f} s."
        f" Medians of {ROUNDS}."
    )
    print(f"  {'ours, every reply stored':30} {table['ratio_to_ideal']:6.2f} x ideal")
    for label, peer in table["peers"].items():
        print(f"  {label:30} {peer['ratio_to_ideal']:6.2f} x ideal")
    if "inspect_ai" not in peers:
        print("  inspect_ai                     not there: .venv-bench could not be made")
    limit, mass = table["rate_limit"], table["many"]
    print(
        f"{RATE} a second with bursts of {BURST}: {limit['ratio_to_ideal']:.2f} x ideal"
        f" ({RATE_IDEAL:.1f} s), {limit['lost']} lost."
    )
    print(
        f"{MANY:,} requests at {MANY_LATENCY * 1000:.0f} ms:"
        f" {mass['per_second']:,} a second;"
        f" {mass['mb_at_a_quarter']:.0f} MB after a quarter,"
        f" {mass['mb_at_the_end']:.0f} MB at the end."
    )
    one, pure = table["embedded"].values()
    print(f"Embedded judge: {one:,} a second on one core ({pure:,} a processor second).")
    print(
        f"In {target.relative_to(paths.ROOT)}; load before and after: {load[0]:.1f},"
        f" {os.getloadavg()[0]:.1f}."
    )


if __name__ == "__main__":
    what, *rest = sys.argv[1:] or ["main"]
    {"main": main, "serve": serve}.get(what, lambda *numbers: client(what, *numbers))(*rest)
