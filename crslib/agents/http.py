"""A recommender or user of one's own over HTTP, in any language: JSON in, JSON out (`data/protocol/README.md`).

What goes wrong in one answer is a failed utterance with a sentence, and the run goes on.
"""

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import httpx
from pydantic_core import from_json

from crslib.agents import plain
from crslib.agents.background import BackgroundAgent
from crslib.agents.base import Ask, Reply, Sent, Transcript
from crslib.data.catalog import Catalog
from crslib.dialogue.utterances import USER, one_line
from crslib.dialogue.views import RecommenderView, UserKnowledge, UserView, View
from crslib.engines.server import is_loopback
from crslib.engines.wire import Temporary, read
from crslib.errors import CrsError

PROTOCOL = 1
"""Version of the requests and answers."""
_WAITS = (0.5, 2.0)  # seconds before the second and the third try, half to one and a half times


class HttpAgent(BackgroundAgent):
    """An agent behind a URL that takes POST requests."""

    def __init__(
        self,
        url: str,
        role: str,
        catalog: Catalog,
        linked: plain.Linked,
        *,
        max_concurrency: int = 16,
        timeout: float = 60.0,
    ) -> None:
        """`max_concurrency`: requests at a time; `timeout`: seconds for an answer, all of it.

        A first request, of dialogue `check`, shows whether the server answers as it should. Raises `CrsError` when it
        cannot be reached or its answer cannot be used.
        """
        address = _address(url)
        super().__init__()
        self.name, self.width = f"the {role} at {url}", max_concurrency
        self.identity = {"agent": "http", "url": url, "protocol": PROTOCOL}
        self._url, self._role, self._catalog, self._linked = address, role, catalog, linked
        self._timeout, self._room = timeout, asyncio.Semaphore(max_concurrency)
        self._transcript, self._names = Transcript(), plain.Names()
        self._client = httpx.AsyncClient(
            timeout=None,  # the one of `_post` holds for the whole answer
            headers={"Accept-Encoding": "identity"},
            trust_env=not is_loopback(address.host),  # no proxy between this machine and itself
        )
        try:
            self._check()
        except CrsError:
            self.close()
            raise

    def _check(self) -> None:
        """Asks for one utterance: of a recommender the opening one, of a user the answer to a greeting."""
        view: View = RecommenderView(self._catalog.domain)
        if self._role == USER:
            view = UserView(UserKnowledge(self._catalog.domain, "", ""))
            view.hear("Hello, how can I help you?")
        answer = self.loop.run(self._post(self._body("check", 0, view)))
        reply = plain.reply(answer, self._role, self.name, Sent("", 0), self._catalog, self._linked)
        if reply.finish == "failed":
            raise CrsError(f"{reply.error}; data/protocol/README.md has the protocol")

    async def reply(self, ask: Ask) -> Reply:
        """The utterance in the server's answer."""
        body = self._body(self._names.of(ask.dialogue_id), self._seed(ask), ask.view)
        sent = self._transcript.add(ask.dialogue_id, plain.messages(body["turns"], body.get("knowledge")))
        try:
            answer = await self._post(body)
        except CrsError as error:
            return plain.failed(str(error), sent)
        return plain.reply(answer, self._role, self.name, sent, self._catalog, self._linked)

    def _seed(self, ask: Ask) -> int:
        return self._names.seed(ask.dialogue_id, len(ask.view.turns))

    def _body(self, dialogue_id: str, seed: int, view: View) -> dict[str, Any]:
        known = {"knowledge": plain.knowledge(view)} if isinstance(view, UserView) else {}
        names = {"protocol": PROTOCOL, "dialogue_id": dialogue_id, "role": self._role, "seed": seed}
        return {**names, "turns": plain.turns(view), **known}

    async def _post(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The server's answer, a JSON object. A server that is away or fails (5xx) is asked up to three times.

        Raises `CrsError` with a sentence when there is no usable answer, which may be one that is too long.
        """
        async with self._room:
            for wait in (*_WAITS, None):
                try:
                    async with (
                        asyncio.timeout(self._timeout),
                        self._client.stream("POST", self._url, json=body) as response,
                    ):
                        content = await read(response, self.name)
                except TimeoutError:
                    raise CrsError(f"{self.name} gave no answer in {self._timeout:g} seconds") from None
                except httpx.HTTPError as error:
                    problem = f"{self.name} cannot be reached ({type(error).__name__}: {error}); is it running?"
                except Temporary as error:
                    problem = str(error)
                else:
                    if response.status_code < 500:
                        return self._read(response, content)
                    problem = f"{self.name} answered {_status(response, content)}"
                if wait is not None:
                    await asyncio.sleep(wait * random.uniform(0.5, 1.5))
        raise CrsError(problem)

    def _read(self, response: httpx.Response, content: bytes) -> Mapping[str, Any]:
        if response.status_code != 200:
            raise CrsError(f"{self.name} answered {_status(response, content)}")
        try:
            answer = from_json(content)
        except ValueError:
            raise CrsError(f"{self.name} answered without JSON: {_beginning(content)}") from None
        if not isinstance(answer, dict):
            raise CrsError(f"{self.name} answered {_beginning(content)}; expected is an object with text and items")
        return answer

    def release(self, dialogue_id: str) -> None:
        """Forgets a dialogue that has ended."""
        self._transcript.release(dialogue_id)
        self._names.release(dialogue_id)

    async def shut(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


def _address(url: str) -> httpx.URL:
    shown = "this address" if set(url) & set("@?#") else repr(url)  # it may hold a password or a key
    try:
        address = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError):
        raise CrsError(f"{shown} is no URL; write http://HOST:PORT/PATH") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise CrsError(f"{shown} is no URL of a server; write http://HOST:PORT/PATH")
    if address.userinfo or "@" in url:
        raise CrsError(f"the URL of {address.host} holds a password, which would be stored with the run; leave it out")
    if set(url) & set("?#"):
        raise CrsError(f"the URL of {address.host} holds a query, which would be stored with the run; leave it out")
    return address


def _status(response: httpx.Response, content: bytes) -> str:
    return f"{response.status_code} {one_line(response.reason_phrase)[:100]}: {_beginning(content)}"


def _beginning(content: bytes) -> str:
    words = " ".join(content[:1000].decode(errors="replace").split())
    return repr(words[:120] + ("…" if len(words) > 120 else ""))
