"""What the HTTP servers of the pages share: the files of `page/`, security headers, and requests in JSON.

A request needs the token that is part of the page's address; without a token, a host name of this machine. A foreign
site in the same browser cannot send one: it is JSON, which no site may send to another without its leave.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from pydantic_core import from_json
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from crslib.engines.server import is_loopback
from crslib.errors import CrsError
from crslib.web.assets import PAGE

Reply = Callable[[str, Any], Awaitable[dict[str, Any]]]
"""The reply to a request of a page: its action and content → an object; one with `error` is refused with status 400."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_MOST_BYTES = 10_000  # of a request; an answer of a rater has some two hundred
_PATIENCE = 60  # seconds for a request, and for the next one on the same connection
_ADDRESS = "use the address that was printed at the start"


class Handler(RequestHandler):
    """Sets the headers of all replies."""

    policy = POLICY

    def set_default_headers(self) -> None:
        self.set_header("Content-Security-Policy", self.policy)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cache-Control", "no-store")

    def refusal(self, token: str, given: str) -> str:
        """Why a request with token `given` is refused; empty: it is not."""
        if token and not hmac.compare_digest(given.encode(), token.encode()):
            return f"This address lacks the token; {_ADDRESS}."
        if not token and not is_loopback(self.request.host_name):
            return f"{self.request.host_name!r} is not this machine."
        return ""

    def refuse(self, status: int, why: str) -> None:
        """Ends the request with a sentence."""
        self.set_status(status)
        self.finish({"error": why})


class _File(Handler):
    def initialize(self, first: str) -> None:
        self.first = first

    def get(self, name: str) -> None:
        path = PAGE / (name or self.first)
        self.set_header("Content-Type", f"{_TYPES[path.suffix]}; charset=utf-8")
        self.finish(path.read_bytes())


class _Other(Handler):
    def prepare(self) -> None:
        self.refuse(404, f"There is no such page; {_ADDRESS}.")


class _Api(Handler):
    def initialize(self, reply: Reply, token: str) -> None:
        self.reply, self.token = reply, token

    def prepare(self) -> None:
        given = self.request.headers.get("Authorization", "").removeprefix("Bearer ")
        if why := self.refusal(self.token, given):
            self.refuse(403, why)
        elif not self.request.headers.get("Content-Type", "").startswith("application/json"):
            self.refuse(415, "This is not a request of the page.")

    async def post(self, action: str) -> None:
        try:
            content = from_json(self.request.body)
        except ValueError:
            content = None
        reply = await self.reply(action, content)
        self.set_status(400 if "error" in reply else 200)
        self.finish(reply)


def application(
    files: Sequence[str], actions: Sequence[str], reply: Reply, token: str = "", more: Sequence[Any] = ()
) -> Application:
    """A page of `files` (of `page/`; the first one is the page itself), whose requests `actions` get `reply`. `more`:
    further routes. Without `token` it answers requests to names of this machine only."""
    named = "|".join(["", *files]).replace(".", r"\.")
    pages: list[Any] = [
        (rf"/({named})", _File, {"first": files[0]}),
        (rf"/api/({'|'.join(actions)})", _Api, {"reply": reply, "token": token}),
        *more,
    ]
    return Application(pages, default_handler_class=_Other, log_function=_silent)


def _silent(_: RequestHandler) -> None:
    """Writes no log line per request: the votes are the record."""


def listen(served: Application, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serves until it is interrupted (Ctrl-C). `port` 0: any that is free. `ready` gets the address once.

    Raises `CrsError` for an address in use.
    """

    async def run() -> None:
        try:
            sockets = bind_sockets(port, host)
        except OSError as error:
            raise CrsError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None
        limits: Mapping[str, int] = {"idle_connection_timeout": _PATIENCE, "body_timeout": _PATIENCE}
        server = HTTPServer(served, max_body_size=_MOST_BYTES, **limits)
        server.add_sockets(sockets)
        ready(f"http://{f'[{host}]' if ':' in host else host}:{sockets[0].getsockname()[1]}/")
        await asyncio.Event().wait()

    asyncio.run(run())
