"""The rating page for raters without JupyterLab: a small HTTP server (`serving`) with three requests.

By default it answers on loopback only, to everybody who works on this machine; a foreign site in the same browser
cannot use it, because requests are JSON and the host must be a loopback name. Requests from other machines need a
token, which is part of the address.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, ValidationError
from tornado.web import Application

from crslib.dialogue.utterances import one_line
from crslib.engines.server import is_loopback
from crslib.errors import CrsError
from crslib.judging.study import Study
from crslib.web import serving

_FILES = ("page.html", "element.js", "people.js", "page.css", "people.css")


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


def application(study: Study, token: str = "", raters: Sequence[str] = ()) -> Application:
    """The page and its three requests for one study. Without `token` it answers requests to loopback names only."""
    desk = _Desk(study, [one_line(rater) for rater in raters])
    return serving.application(_FILES, list(_CONTENTS), desk.ask, token)


def serve(study: Study, host: str, port: int, token: str, raters: Sequence[str], report: Callable[[str], None]) -> None:
    """Serves the study until it is interrupted (Ctrl-C). `report` gets the addresses, one for each of `raters`, or one.

    Raises `CrsError` for a host that others can reach without a token, and for an address in use.
    """
    if not token and not is_loopback(host):
        raise CrsError(f"host {host!r} can be reached by others; give a token, else everybody could vote")

    def ready(address: str) -> None:
        for rater in raters or [""]:
            query = urlencode({name: value for name, value in (("token", token), ("rater", rater)) if value})
            report(f"{address}?{query}" if query else address)

    for rater in raters:  # recorded in the order of the list, which decides their sides
        study.state(rater)
    serving.listen(application(study, token, raters), host, port, ready)
