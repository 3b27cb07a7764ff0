"""The Batch API of an OpenAI-compatible server, with batches that fail as real ones do."""

import email
import itertools
import json
import time
from collections.abc import Callable

from tests.faults.server import REFUSALS, Handler, Server


class BatchServer(Server):
    """A `Server` with /v1/files and /v1/batches.

    A line's fault is drawn as a request's; a batch's is its fate.

    Args:
        fates: how each batch ends, one after the other, then `completed`; `expired` and
            `cancelled` ones after half of their lines, `failed` ones after none.
        polls: looks at a batch until it has ended.
        broken: calls ("POST /v1/batches") that the server carries out without replying, with how
            often; `refused`: with a status instead, before anything is done.
        hook: told of each call once it is carried out, before the reply.
    """

    def __init__(
        self,
        faults: dict[str, float] | None = None,
        *,
        fates: list[str] = (),
        polls: int = 1,
        broken: dict[str, int] | None = None,
        refused: dict[str, int] | None = None,
        hook: Callable[[str], None] = lambda call: None,
        **settings,
    ):
        super().__init__(faults, **settings)
        self.fates, self.polls, self.broken, self.refused, self.hook = (
            iter(fates),
            polls,
            broken or {},
            refused or {},
            hook,
        )
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict] = {}
        self.looks: dict[str, int] = {}
        self.lines: list[list[str]] = []  # what was in each batch
        self.calls: list[str] = []
        self.number = itertools.count()

    def handler(self) -> type:
        return BatchHandler

    def upload(self, content: bytes) -> dict:
        name = f"file-{next(self.number)}"
        self.files[name] = content
        return {
            "id": name,
            "object": "file",
            "bytes": len(content),
            "created_at": 1,
            "filename": "x",
            "purpose": "batch",
            "status": "ok",
        }

    def create(self, asked: dict) -> dict:
        """The batch as it will be when it has ended."""
        assert (asked["endpoint"], asked["completion_window"]) == ("/v1/chat/completions", "24h")
        lines = [json.loads(x) for x in self.files[asked["input_file_id"]].splitlines()]
        assert all((x["method"], x["url"]) == ("POST", "/v1/chat/completions") for x in lines)
        assert len({x["custom_id"] for x in lines}) == len(lines)
        self.lines.append([x["body"]["messages"][0]["content"] for x in lines])
        fate, good, bad = next(self.fates, "completed"), [], []
        reached = {"completed": len(lines), "failed": 0}.get(fate, len(lines) // 2)
        for i, x in enumerate(lines):
            if i >= reached:
                if fate != "failed":
                    bad.append(
                        {
                            "custom_id": x["custom_id"],
                            "response": None,
                            "error": {"code": f"batch_{fate}", "message": "too late"},
                        }
                    )
                continue
            fault, _ = self.take(x["body"])
            self.happened[fault] += 1
            if fault in REFUSALS:
                status, code, message = REFUSALS[fault]
                said = {
                    "status_code": status,
                    "request_id": f"r{i}",
                    "body": {"error": {"message": message, "code": code}},
                }
                bad.append({"custom_id": x["custom_id"], "response": said, "error": None})
                continue
            self.billed += 1
            said = {
                "status_code": 200,
                "request_id": f"r{i}",
                "body": self.completion(x["body"], fault),
            }
            good.append({"custom_id": x["custom_id"], "response": said, "error": None})
        made = {
            "id": f"batch_{next(self.number)}",
            "object": "batch",
            "created_at": int(time.time()),
            "status": fate,
            **asked,
        }
        for field, some in {
            "output_file_id": good[::-1],
            "error_file_id": bad[::-1],
        }.items():  # in no order of ours
            made[field] = (
                self.upload("".join(json.dumps(x) + "\n" for x in some).encode())["id"]
                if some
                else None
            )
        if fate == "failed":
            message = "Enqueued token limit reached\nfor this model"
            made["errors"] = {
                "object": "list",
                "data": [{"code": "token_limit_exceeded", "message": message}],
            }
        self.batches[made["id"]], self.looks[made["id"]] = made, 0
        return made

    def seen(self, name: str) -> dict:
        made = self.batches[name]
        if self.looks[name] >= self.polls:
            return made
        return {
            **made,
            "status": "in_progress",
            "output_file_id": None,
            "error_file_id": None,
            "errors": None,
        }


class BatchHandler(Handler):
    def do_POST(self):  # noqa: N802
        if self.path == "/v1/chat/completions":
            return super().do_POST()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/batches":
            return self.call(
                "POST /v1/batches",
                lambda: self.server.seen(self.server.create(json.loads(content))["id"]),
            )
        form = email.message_from_bytes(
            b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + content
        )
        parts = {
            p.get_param("name", header="content-disposition"): p.get_payload(decode=True)
            for p in form.get_payload()
        }
        assert parts["purpose"] == b"batch"
        return self.call("POST /v1/files", lambda: self.server.upload(parts["file"]))

    def do_GET(self):  # noqa: N802
        server, name = self.server, self.path.partition("?")[0].split("/")
        if self.path.startswith("/v1/files/"):
            return self.call("GET content", lambda: server.files[name[3]])
        if len(name) == 4:

            def look():
                server.looks[name[3]] = server.looks.get(name[3], 0) + 1
                return server.seen(name[3])

            return self.call("GET batch", look)
        everything = {"object": "list", "has_more": False}
        return self.call(
            "GET /v1/batches",
            lambda: {**everything, "data": [server.seen(b) for b in reversed(server.batches)]},
        )

    def call(self, name: str, work: Callable[[], dict | bytes]) -> None:
        server = self.server
        with server.lock:
            server.calls.append(name)
            if name in server.refused:
                return self.respond(
                    server,
                    {},
                    {500: "500", 401: "401", 404: "404", 400: "400", 429: "429"}[
                        server.refused[name]
                    ],
                    "0.01",
                )
            try:
                result = work()
            except KeyError:
                return self.respond(server, {}, "404", "")
            server.hook(name)
            if server.broken.get(name, 0) > 0:
                server.broken[name] -= 1
                self.close_connection = True
                return None
        return self.reply(result.decode() if isinstance(result, bytes) else json.dumps(result))
