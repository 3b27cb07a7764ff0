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
# Against peers: requests, how many at once, and seconds that the server takes for each.
REQUESTS = 400
AT_ONCE = 50
LATENCY = 0.2
IDEAL = REQUESTS / AT_ONCE * LATENCY  # seconds
# At a rate limit: requests a second, and how many may come at once.
RATE = 100
BURST = 20
RATE_IDEAL = (REQUESTS - BURST) / RATE  # seconds
# For speed and memory.
MANY = 20_000
MANY_LATENCY = 0.002
JUDGED = 2000  # requests to the embedded judge
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
    memories = []  # MB after a quarter of the replies, and after all
    replies = 0

    def read(request, reply):
        nonlocal replies
        replies += 1
        if replies in (count // 4 + 1, count):
            memories.append(memory())
        return reply

    requests = questions(count)
    endpoint = Endpoint(base_url=address, model="m", concurrency=at_once)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.sqlite")
        openai.DefaultAioHttpClient()  # loads aiohttp, once a process: of no client it is counted
        start = time.perf_counter()
        outcomes = ask(requests, endpoint, ledger, role="bench", read=read)
        seconds = time.perf_counter() - start
        assert ledger.summary().query("state == 'replied'").attempts.sum() == count
    return {
        "seconds": seconds,
        "usable": sum(len(outcome.usable) for outcome in outcomes),
        "mb_at_a_quarter": memories[0],
        "mb_at_the_end": memories[1],
    }


def plain(address: str, count: int, at_once: int, http=None) -> dict:
    """What most scripts do."""

    async def ask_all() -> tuple[float, list]:
        start = time.perf_counter()
        api = openai.AsyncOpenAI(base_url=address, api_key="none", http_client=http)
        limit = asyncio.Semaphore(at_once)

        async def ask_one(request: Request) -> str:
            async with limit:
                reply = await api.chat.completions.create(model="m", messages=request.messages)
            return reply.choices[0].message.content

        replies = await asyncio.gather(*map(ask_one, questions(count)), return_exceptions=True)
        return time.perf_counter() - start, replies

    seconds, replies = asyncio.run(ask_all())
    return {"seconds": seconds, "usable": sum(isinstance(reply, str) for reply in replies)}


def embedded(count: int) -> dict:
    """Judge requests to the embedded world, on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    p = load.load_profile("mini")["01_generate"]
    pack = p.pack()
    queries = draw(p.pools()["I"], 3, seed=0, purpose="bench")
    requests = []
    for i in range(count):
        question = grading_turn(next(queries), f"The needle is a storm {i}.", pack)
        requests.append(Request([{"role": "user", "content": question}]))
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.sqlite")
        start = time.perf_counter()
        start_of_work = time.process_time()
        ask(requests, p.judge, ledger, role="judge")
        seconds = time.perf_counter() - start
        worked = time.process_time() - start_of_work
        attempts = int(ledger.summary().attempts.sum())
    return {"seconds": seconds, "requests": attempts, "processor_seconds": worked}


def client(name: str, *arguments: str) -> None:
    """The body of a client's process; prints what it measured."""
    if name == "embedded":
        (count,) = arguments
        result = embedded(int(count))
    else:
        address, count, at_once = arguments
        where = (address, int(count), int(at_once))
        if name == "ours":
            result = ours(*where)
        elif name == "plain-aiohttp":
            result = plain(*where, openai.DefaultAioHttpClient())
        else:
            result = plain(*where)
    print(json.dumps(result))


# ---- the runs ----


def serve(latency: str, rate: str) -> None:
    """The body of the server's process; prints its address, ends with its input."""
    with Server(latency=float(latency), rate=float(rate) or None, burst=BURST) as server:
        print(server.url, flush=True)
        sys.stdin.read()


def process(*words) -> list[str]:
    """The command of a process of this file's own: a server or a client."""
    return [sys.executable, "-m", "bench.chat", *map(str, words)]


def result_of(command: list[str]) -> dict:
    """What a client's process measured: the last line that it prints."""
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    ended = subprocess.run(command, cwd=paths.ROOT, check=True, **quiet)
    return json.loads(ended.stdout.splitlines()[-1])


def measured(name: str, count: int, *, latency: float, rate: float = 0.0) -> dict:
    """One client against a fresh server."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(process("serve", latency, rate), cwd=paths.ROOT, **pipes) as server:
        address = server.stdout.readline().strip()
        command = process(name, address, count, AT_ONCE)
        if name == "inspect":
            script = "bench/chat_inspect_ai.py"
            command = [str(INSPECT), script, address, str(count), str(AT_ONCE)]
        result = result_of(command)
        server.stdin.close()
    return result


def median(results: list[dict], key: str = "seconds") -> float:
    return statistics.median(result[key] for result in results)


def median_rate(results: list[dict], key: str) -> int:
    """Requests by what `key` names: seconds, or the processor's."""
    return round(statistics.median(result["requests"] / result[key] for result in results))


def version_of(name: str) -> str:
    if name != "inspect":
        return f"openai {importlib.metadata.version('openai')}"
    code = "import importlib.metadata as m; print('inspect_ai', m.version('inspect_ai'))"
    ended = subprocess.run([INSPECT, "-c", code], capture_output=True, text=True, check=True)
    return ended.stdout.strip()


def measure() -> dict:
    """All of it; about five minutes on two quiet cores."""
    load_before = os.getloadavg()[0]
    peers = dict(PEERS)
    if not INSPECT.exists():
        del peers["inspect_ai"]
    runs: dict[str, list[dict]] = {name: [] for name in ("ours", *peers.values())}
    for _ in range(ROUNDS):
        for name, results in runs.items():  # in turns: other load on the machine hits all alike
            results.append(measured(name, REQUESTS, latency=LATENCY))
    limited = [measured("ours", REQUESTS, latency=0.0, rate=RATE) for _ in range(ROUNDS)]
    many = measured("ours", MANY, latency=MANY_LATENCY)
    judged = [result_of(process("embedded", JUDGED)) for _ in range(ROUNDS)]
    our_seconds = median(runs["ours"])
    beside_peers = {}
    for label, name in peers.items():
        seconds = median(runs[name])
        beside_peers[label] = {
            "ratio_to_ideal": round(seconds / IDEAL, 3),
            "ratio_to_ours": round(seconds / our_seconds, 3),
            "version": version_of(name),
        }
    return {
        "requests": REQUESTS,
        "at_once": AT_ONCE,
        "latency_seconds": LATENCY,
        "ideal_seconds": IDEAL,
        "seconds": round(our_seconds, 3),
        "ratio_to_ideal": round(our_seconds / IDEAL, 3),
        "peers": beside_peers,
        "usable": {
            name: min(result["usable"] for result in results) for name, results in runs.items()
        },
        "rate_limit": {
            "per_second": RATE,
            "burst": BURST,
            "lost": REQUESTS - min(result["usable"] for result in limited),
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
            "per_second_on_one_core": median_rate(judged, "seconds"),
            "per_processor_second": median_rate(judged, "processor_seconds"),
        },
        "rounds": ROUNDS,
        # Far above 0: other work ran at the same time.
        "load_before_and_after": [load_before, os.getloadavg()[0]],
    }


def report(table: dict, target: Path) -> None:
    """Print what was measured."""
    print(
        f"{REQUESTS} requests, {AT_ONCE} at once, {LATENCY} s each: the ideal is {IDEAL:.1f} s."
        f" Medians of {ROUNDS}."
    )
    print(f"  {'ours, every reply stored':30} {table['ratio_to_ideal']:6.2f} x ideal")
    for label, peer in table["peers"].items():
        print(f"  {label:30} {peer['ratio_to_ideal']:6.2f} x ideal")
    if "inspect_ai" not in table["peers"]:
        print("  inspect_ai                     not there: .venv-bench could not be made")
    limit = table["rate_limit"]
    print(
        f"{RATE} a second with bursts of {BURST}: {limit['ratio_to_ideal']:.2f} x ideal"
        f" ({RATE_IDEAL:.1f} s), {limit['lost']} lost."
    )
    many = table["many"]
    print(
        f"{MANY:,} requests at {MANY_LATENCY * 1000:.0f} ms:"
        f" {many['per_second']:,} a second;"
        f" {many['mb_at_a_quarter']:.0f} MB after a quarter,"
        f" {many['mb_at_the_end']:.0f} MB at the end."
    )
    judge = table["embedded"]
    print(
        f"Embedded judge: {judge['per_second_on_one_core']:,} a second on one core"
        f" ({judge['per_processor_second']:,} a processor second)."
    )
    before, after = table["load_before_and_after"]
    print(f"In {target}; load before and after: {before:.1f}, {after:.1f}.")


def main() -> None:
    table = measure()
    target = paths.run("bench") / "chat.json"
    write(target, table)
    report(table, target.relative_to(paths.ROOT))


if __name__ == "__main__":
    role, *words = sys.argv[1:] or ["main"]
    if role == "main":
        main()
    elif role == "serve":
        serve(*words)
    else:
        client(role, *words)
