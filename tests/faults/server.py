"""An OpenAI-compatible server on loopback that fails as real ones do, by a seed.

It counts what it received and billed.
"""

import hashlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REFUSALS = {  # fault: HTTP status, code, message; nothing is billed
    "500": (500, "server_error", "The server had an error"),
    "503": (503, "overloaded", "The engine is currently overloaded"),
    "529": (529, "overloaded_error", "Overloaded"),
    "429": (429, "rate_limit_exceeded", "Rate limit reached for requests"),
    "quota": (429, "insufficient_quota", "You exceeded your current quota"),
    "400": (400, "unsupported_value", "Unsupported value: 'temperature'\nsee the documentation"),
    "401": (401, "invalid_api_key", "Incorrect API key provided"),
    "402": (402, None, "Insufficient credits"),
    "403": (403, "forbidden", "This key may not use the model"),
    "404": (404, "model_not_found", "The model does not exist"),
}
UNBILLED = (
    "drop_before",
    "garbage",
)  # the connection ends without a reply, or with bytes that are no HTTP
PAID_AND_LOST = (
    "drop_after",
    "truncated",
    "broken",
    "list",
    "empty",
)  # billed, but no usable reply arrives
HARMLESS = ("slow", "length")
FAULTS = (*REFUSALS, *UNBILLED, *PAID_AND_LOST, *HARMLESS)


def said(body: dict, i: int) -> str:
    """A text that differs by request and choice."""
    return hashlib.sha256(json.dumps([body, i], sort_keys=True).encode()).hexdigest()


class Server(ThreadingHTTPServer):
    """`with Server({"500": 0.1}, seed=1) as server:` answers at `server.url`, in this process.

    Args:
        faults: probability of each of FAULTS; what happens is a function of seed, request and
            how often it came.
        latency, slow: seconds a reply takes, and one with the fault `slow`.
        rate, burst: a token bucket, requests a second and tokens it holds; beyond it 429 with
            Retry-After.
        retry_after: what refusals say, in seconds; nothing where it is empty.
        say: the text of choice i of the reply to a body.
        most: choices at most, whatever `n` asks for.
        raw: the bytes of a reply with HTTP 200, in place of a chat completion.
        headers: further ones of such a reply.
    """

    daemon_threads, request_queue_size = True, 256
    prompt_tokens = 7  # of every reply's usage; the completion's are one a choice

    def __init__(
        self,
        faults: dict[str, float] | None = None,
        *,
        seed: int = 0,
        latency: float = 0.0,
        slow: float = 0.5,
        rate: float | None = None,
        burst: int = 1,
        retry_after: str = "0.1",
        say: Callable[[dict, int], str] = said,
        most: int = 128,
        raw: Callable[[dict], bytes] | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(("127.0.0.1", 0), self.handler())
        assert set(faults or {}) <= set(FAULTS), f"unknown faults in {faults}"
        self.faults, self.seed, self.latency, self.slow = faults or {}, seed, latency, slow
        self.rate, self.burst, self.retry_after, self.say, self.most = (
            rate,
            burst,
            retry_after,
            say,
            most,
        )
        self.raw, self.headers = raw, headers
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.lock, self.tokens, self.filled = threading.Lock(), float(burst), time.monotonic()
        self.received = self.billed = self.busy = 0
        self.bodies: list[dict] = []  # of every request, as they came
        self.happened, self.came = Counter(), Counter()

    def handler(self) -> type:
        return Handler

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def settle(self) -> None:
        """Wait until no request is being answered, so that the counts stand still."""
        while self.busy:
            time.sleep(0.01)

    def paid_and_lost(self) -> int:
        return sum(self.happened[f] for f in PAID_AND_LOST)

    def take(self, body: dict) -> tuple[str | None, str]:
        """Note a request; returns what goes wrong with it, if anything, and a 429's Retry-After."""
        asked = json.dumps(body, sort_keys=True)
        self.received += 1
        self.bodies.append(body)
        self.came[asked] += 1
        if self.rate:
            now = time.monotonic()
            self.tokens, self.filled = (
                min(self.burst, self.tokens + (now - self.filled) * self.rate),
                now,
            )
            if self.tokens < 1:
                return "429", f"{(1 - self.tokens) / self.rate:.3f}"
            self.tokens -= 1
        draw = random.Random(f"{self.seed}/{self.came[asked]}/{asked}").random()
        for fault, probability in self.faults.items():
            draw -= probability
            if draw < 0:
                return fault, self.retry_after
        return None, ""

    def completion(self, body: dict, fault: str | None) -> dict:
        texts = [
            "" if fault == "empty" else self.say(body, i)
            for i in range(min(self.most, body.get("n", 1)))
        ]
        finish = "length" if fault == "length" else "stop"
        choices = [
            {"index": i, "finish_reason": finish, "message": {"role": "assistant", "content": t}}
            for i, t in enumerate(texts)
        ]
        usage = {"prompt_tokens": self.prompt_tokens, "completion_tokens": len(texts)}
        usage["total_tokens"] = sum(usage.values())
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": choices,
            "usage": usage,
        }

    def handle_error(self, *_):
        """A client that has gone away is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            fault, retry_after = server.take(body)
            server.happened[fault] += 1
            server.busy += 1
        try:
            self.respond(server, body, fault, retry_after)
        finally:
            with server.lock:
                server.busy -= 1

    def respond(self, server: Server, body: dict, fault: str | None, retry_after: str) -> None:
        if fault in REFUSALS:
            status, code, message = REFUSALS[fault]
            message += (
                f" (key {self.headers['Authorization'].removeprefix('Bearer ')})"  # some do say it
            )
            return self.reply(
                json.dumps({"error": {"message": message, "code": code}}),
                status,
                {"Retry-After": retry_after} if retry_after else {},
            )
        if fault in UNBILLED:
            self.close_connection = True
            self.wfile.write(b"no HTTP\r\n\r\n" if fault == "garbage" else b"")
            return None
        time.sleep(server.slow if fault == "slow" else server.latency)
        with server.lock:
            server.billed += 1
        whole = json.dumps(server.completion(body, fault))
        if fault == "drop_after":
            self.close_connection = True
            return None
        text = {"list": "[1]", "broken": whole[:-20]}.get(fault, whole)
        if server.raw:
            text = server.raw(body)
        return self.reply(text, headers=server.headers, cut=fault == "truncated")

    def reply(
        self,
        text: str | bytes,
        status: int = 200,
        headers: dict | None = None,
        *,
        cut: bool = False,
    ) -> None:
        content = text.encode() if isinstance(text, str) else text
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut

    def log_message(self, *_):
        pass
