"""The rating page for raters without JupyterLab: a small HTTP server with a few files and three requests.

By default it answers on loopback only, to everybody who works on this machine; a foreign site in the same browser
cannot use it, because requests are JSON and the host must be a loopback name. Requests from other machines need a
token, which is part of the address.
"""

import asyncio
import hmac
import ipaddress
import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from crslib.dialogue.utterances import one_line
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


def answer(study: Study, action: str, content: Any, raters: Sequence[str] = ()) -> dict[str, Any]:
    """The reply to a page's request `action` (state, vote or undo) with its `content`: {state}, or {error} with a
    sentence.

    `raters`: the names that may take part; empty: everybody.
    """
    actions: dict[str, Callable[..., dict[str, Any]]] = {"state": study.state, "vote": study.vote, "undo": study.undo}
    try:
        rater = one_line(str(content["rater"]))
        if raters and rater not in raters:
            raise CrsError(f"{rater!r} is not among the raters of this study; ask the person who runs it")
        return {"state": actions[action](**content)}
    except CrsError as error:
        return {"error": str(error)}
    except (KeyError, TypeError):
        return {"error": f"{action!r} with these fields is not a request of this page; load the page again"}


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


class _Api(_Handler):
    def initialize(self, study: Study, token: str, raters: Sequence[str]) -> None:
        self.study, self.token, self.raters = study, token, raters

    def prepare(self) -> None:
        given = self.request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.token and not hmac.compare_digest(given.encode(), self.token.encode()):
            self._refuse(403, "This address lacks the token; use the address that was printed when the study began.")
        elif not self.token and not is_loopback(self.request.host_name):
            self._refuse(403, f"{self.request.host_name!r} is not this machine.")
        elif not self.request.headers.get("Content-Type", "").startswith("application/json"):
            self._refuse(415, "This is not a request of the page.")

    def post(self, action: str) -> None:
        try:
            content = json.loads(self.request.body)
        except ValueError:
            content = None
        reply = answer(self.study, action, content, self.raters)
        self.set_status(400 if "error" in reply else 200)
        self.finish(reply)

    def _refuse(self, status: int, why: str) -> None:
        self.set_status(status)
        self.finish({"error": why})


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def application(study: Study, token: str = "", raters: Sequence[str] = ()) -> Application:
    """The page and its three requests for one study. Without `token` it answers requests to loopback names only."""
    files = "|".join(["", *_FILES]).replace(".", r"\.")
    settings = {"study": study, "token": token, "raters": [one_line(rater) for rater in raters]}
    return Application([(rf"/({files})", _File), (r"/api/(state|vote|undo)", _Api, settings)], log_function=_silent)


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
        server = HTTPServer(application(study, token, raters), max_body_size=_MOST_BYTES)
        server.add_sockets(sockets)
        address = f"http://{f'[{host}]' if ':' in host else host}:{sockets[0].getsockname()[1]}/"
        for rater in raters or [""]:
            query = urlencode({name: value for name, value in (("token", token), ("rater", rater)) if value})
            report(f"{address}?{query}" if query else address)
        await asyncio.Event().wait()

    for rater in raters:  # recorded in the order of the list, which decides their sides
        study.state(rater)
    asyncio.run(run())
