"""A server on this machine that answers as a script says, well or badly."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, str | bytes] | tuple[int, str | bytes, dict[str, str]] | Callable[["Handler"], None]


def completion(text: str | None, finish: str = "stop", tokens_in: int = 7, tokens_out: int = 3) -> bytes:
    """A chat completion as JSON."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    count = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
    whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": count}
    return json.dumps(whole).encode()


def models(*names: str) -> bytes:
    """A list of models as JSON."""
    return json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in names]}).encode()


class Server(ThreadingHTTPServer):
    """Gives the answers of `script` in order and then the last one again.

    An answer is a status, a text (of a chat completion) or raw bytes, and headers; or a function that writes it.
    `models`: the answer to GET. `requests`: path, headers and body of each POST. `most`: most of them at one time.
    """

    daemon_threads = False  # `server_close` waits for late answers, so that their errors do not reach a later test

    def __init__(
        self,
        script: list[Answer],
        models: Answer = (200, b'{"data": [{"id": "m"}]}'),
        pause: float = 0,
        port: int = 0,
    ) -> None:
        self.script, self.models, self.pause = script, models, pause
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.now = self.most = 0
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_: object) -> None:
        pass  # a client that had enough


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.reply(self.server.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.lock:
            self.server.requests.append((self.path, headers, body))
            script = self.server.script
            answer = script.pop(0) if len(script) > 1 else script[0]
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
        time.sleep(self.server.pause)
        with self.server.lock:
            self.server.now -= 1
        self.reply(answer)

    def reply(self, answer: Answer) -> None:
        if callable(answer):
            return answer(self)
        status, content, *headers = answer
        content = completion(content) if isinstance(content, str) else content
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": len(content),
            **(headers or [{}])[0],
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(*script: Answer, **settings: Any) -> Iterator[Server]:
    """A server with this script, until the block ends."""
    server = Server(list(script), **settings)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
