"""The rating page for raters without JupyterLab: a small HTTP server with a few files and three requests.

By default it answers on loopback only, to everybody who works on this machine; a foreign site in the same browser
cannot use it, because requests are JSON and the host must be a loopback name. Requests from other machines need a
token, which is part of the address.
"""

import asyncio
import hmac
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from crslib.dialogue.utterances import one_line
from crslib.engines.server import is_loopback
from crslib.errors import CrsError
from crslib.judging.study import Study
from crslib.web.assets import PAGE

_FILES = {
    "page.html": "text/html",
    **dict.fromkeys(("element.js", "people.js"), "text/javascript"),
    **dict.fromkeys(("page.css", "people.css"), "text/css"),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_MOST_BYTES = 10_000  # of a request; an answer has some two hundred
_PATIENCE = 60  # seconds for a request, and for the next one on the same connection


class _Request(BaseModel):
    """The content of `state`, and what all requests have. No lone surrogate passes as text."""

    model_config = ConfigDict(strict=True, extra="forbid")
    rater: str


class _Undo(_Request):
    key: str


class _Vote(_Undo):
    order: int
    criterion: str
    choice: str
    seconds: float


_CONTENTS: dict[str, type[_Request]] = {"state": _Request, "vote": _Vote, "undo": _Undo}


def answer(study: Study, action: str, content: Any, raters: Sequence[str] = ()) -> dict[str, Any]:
    """The reply to a page's request `action` (state, vote or undo) with its `content`: {state}, or {error} with a
    sentence.

    `raters`: the names that may take part; empty: everybody.
    """
    actions: dict[str, Callable[..., dict[str, Any]]] = {"state": study.state, "vote": study.vote, "undo": study.undo}
    try:
        fields = _CONTENTS[action].model_validate(content)
        rater = one_line(fields.rater)
        if raters and rater not in raters:
            raise CrsError(f"{rater!r} is not among the raters of this study; ask the person who runs it")
        return {"state": actions[action](**fields.model_dump())}
    except CrsError as error:
        return {"error": str(error)}
    except (KeyError, ValidationError):
        return {"error": f"{action!r} with these fields is not a request of this page; load the page again"}


def _answers(study: Study, requests: Sequence[tuple[str, Any]], raters: Sequence[str]) -> list[dict[str, Any]]:
    """The replies to requests that came at the same time. All are on disk before the first reply is sent."""
    try:
        with study.together():
            return [answer(study, action, content, raters) for action, content in requests]
    except CrsError as error:
        return [{"error": str(error)} for _ in requests]


class _Desk:
    """Answers requests in the order in which they come. While some wait for the disk, in a thread, the next gather: so
    many raters wait no longer than one."""

    def __init__(self, study: Study, raters: Sequence[str]) -> None:
        self._study, self._raters = study, raters
        self._waiting: list[tuple[str, Any, asyncio.Future[dict[str, Any]]]] = []
        self._work: asyncio.Task[None] | None = None

    async def ask(self, action: str, content: Any) -> dict[str, Any]:
        """The reply to a request, as `answer`."""
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((action, content, reply))
        if self._work is None:
            self._work = asyncio.create_task(self._answer_all())
        return await reply

    async def _answer_all(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting, []
            requests = [(action, content) for action, content, _ in taken]
            try:
                replies = await asyncio.to_thread(_answers, self._study, requests, self._raters)
            except Exception as error:  # a mistake of the program, which each of the requests shows
                for *_, reply in taken:
                    if not reply.done():
                        reply.set_exception(error)
            else:
                for (*_, reply), content in zip(taken, replies, strict=True):
                    if not reply.done():
                        reply.set_result(content)
        self._work = None


class _Handler(RequestHandler):
    def set_default_headers(self) -> None:
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cache-Control", "no-store")


class _File(_Handler):
    def get(self, name: str) -> None:
        file = name or "page.html"
        self.set_header("Content-Type", f"{_FILES[file]}; charset=utf-8")
        self.finish((PAGE / file).read_bytes())


class _Other(_Handler):
    def prepare(self) -> None:
        self.set_status(404)
        self.finish({"error": "There is no such page; use the address that was printed when the study began."})


class _Api(_Handler):
    def initialize(self, desk: _Desk, token: str) -> None:
        self.desk, self.token = desk, token

    def prepare(self) -> None:
        given = self.request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.token and not hmac.compare_digest(given.encode(), self.token.encode()):
            self._refuse(403, "This address lacks the token; use the address that was printed when the study began.")
        elif not self.token and not is_loopback(self.request.host_name):
            self._refuse(403, f"{self.request.host_name!r} is not this machine.")
        elif not self.request.headers.get("Content-Type", "").startswith("application/json"):
            self._refuse(415, "This is not a request of the page.")

    async def post(self, action: str) -> None:
        try:
            content = from_json(self.request.body)
        except ValueError:
            content = None
        reply = await self.desk.ask(action, content)
        self.set_status(400 if "error" in reply else 200)
        self.finish(reply)

    def _refuse(self, status: int, why: str) -> None:
        self.set_status(status)
        self.finish({"error": why})


def application(study: Study, token: str = "", raters: Sequence[str] = ()) -> Application:
    """The page and its three requests for one study. Without `token` it answers requests to loopback names only."""
    files = "|".join(["", *_FILES]).replace(".", r"\.")
    settings = {"desk": _Desk(study, [one_line(rater) for rater in raters]), "token": token}
    pages: list[Any] = [(rf"/({files})", _File), (r"/api/(state|vote|undo)", _Api, settings)]
    return Application(pages, default_handler_class=_Other, log_function=_silent)


def _silent(_: RequestHandler) -> None:
    """Writes no log line per request: the votes are the record."""


def serve(study: Study, host: str, port: int, token: str, raters: Sequence[str], report: Callable[[str], None]) -> None:
    """Serves the study until it is interrupted (Ctrl-C). `report` gets the addresses, one for each of `raters`, or one.

    Raises `CrsError` for a host that others can reach without a token, and for an address in use.
    """
    if not token and not is_loopback(host):
        raise CrsError(f"host {host!r} can be reached by others; give a token, else everybody could vote")

    async def run() -> None:
        try:
            sockets = bind_sockets(port, host)
        except OSError as error:
            raise CrsError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None
        server = HTTPServer(
            application(study, token, raters),
            max_body_size=_MOST_BYTES,
            idle_connection_timeout=_PATIENCE,
            body_timeout=_PATIENCE,
        )
        server.add_sockets(sockets)
        address = f"http://{f'[{host}]' if ':' in host else host}:{sockets[0].getsockname()[1]}/"
        for rater in raters or [""]:
            query = urlencode({name: value for name, value in (("token", token), ("rater", rater)) if value})
            report(f"{address}?{query}" if query else address)
        await asyncio.Event().wait()

    for rater in raters:  # recorded in the order of the list, which decides their sides
        study.state(rater)
    asyncio.run(run())
