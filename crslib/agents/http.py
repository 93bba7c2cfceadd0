"""A recommender or user of one's own over HTTP, in any language: JSON in, JSON out (`data/protocol/README.md`).

What goes wrong in one answer is a failed utterance with a sentence, and the run goes on.
"""

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import httpx

from crslib.agents import plain
from crslib.agents.background import BackgroundAgent
from crslib.agents.base import Ask, Reply, Sent, Transcript
from crslib.data.catalog import Catalog
from crslib.dialogue.utterances import USER
from crslib.dialogue.views import RecommenderView, UserKnowledge, UserView, View
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
        """`max_concurrency`: requests at a time; `timeout`: seconds for an answer.

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
        self._client = httpx.AsyncClient(timeout=None)
        try:
            self._check()
        except CrsError:
            self.close()
            raise

    def _check(self) -> None:
        """Asks for one utterance: of a recommender the opening one, of a user the answer to a greeting."""
        view: View = RecommenderView()
        if self._role == USER:
            view = UserView(UserKnowledge("", ""))
            view.hear("Hello, how can I help you?")
        answer = self.loop.run(self._post(self._body("check", 0, view)))
        reply = plain.reply(answer, self._role, self.name, Sent("", 0), self._catalog, self._linked)
        if reply.finish == "failed":
            raise CrsError(f"{reply.error}; data/protocol/README.md has the protocol")

    async def reply(self, ask: Ask) -> Reply:
        """The utterance in the server's answer."""
        body = self._body(self._names.of(ask.dialogue_id), ask.seed, ask.view)
        sent = self._transcript.add(ask.dialogue_id, plain.messages(body["turns"], body.get("knowledge")))
        try:
            answer = await self._post(body)
        except CrsError as error:
            return plain.failed(str(error), sent)
        return plain.reply(answer, self._role, self.name, sent, self._catalog, self._linked)

    def _body(self, dialogue_id: str, seed: int, view: View) -> dict[str, Any]:
        known = {"knowledge": plain.knowledge(view)} if isinstance(view, UserView) else {}
        names = {"protocol": PROTOCOL, "dialogue_id": dialogue_id, "role": self._role, "seed": seed}
        return {**names, "turns": plain.turns(view), **known}

    async def _post(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The server's answer, a JSON object. A server that is away or fails (5xx) is asked up to three times.

        Raises `CrsError` with a sentence when there is no usable answer.
        """
        async with self._room:
            for wait in (*_WAITS, None):
                try:
                    async with asyncio.timeout(self._timeout):
                        response = await self._client.post(self._url, json=body)
                except TimeoutError:
                    raise CrsError(f"{self.name} gave no answer in {self._timeout:g} seconds") from None
                except httpx.HTTPError as error:
                    problem = f"{self.name} cannot be reached ({type(error).__name__}: {error}); is it running?"
                else:
                    if response.status_code < 500:
                        return self._read(response)
                    problem = f"{self.name} answered {_status(response)}"
                if wait is not None:
                    await asyncio.sleep(wait * random.uniform(0.5, 1.5))
        raise CrsError(problem)

    def _read(self, response: httpx.Response) -> Mapping[str, Any]:
        if response.status_code != 200:
            raise CrsError(f"{self.name} answered {_status(response)}")
        try:
            answer = response.json()
        except ValueError:
            raise CrsError(f"{self.name} answered without JSON: {_beginning(response)}") from None
        if not isinstance(answer, dict):
            raise CrsError(f"{self.name} answered {_beginning(response)}; expected is an object with text and items")
        return answer

    def release(self, dialogue_id: str) -> None:
        """Forgets a dialogue that has ended."""
        self._transcript.release(dialogue_id)
        self._names.release(dialogue_id)

    async def shut(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


def _address(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise CrsError(f"{url!r} is no URL ({error}); write http://HOST:PORT/PATH") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise CrsError(f"{url!r} is no URL of a server; write http://HOST:PORT/PATH")
    if address.userinfo:
        raise CrsError(f"the URL of {address.host} holds a password, which would be stored with the run; leave it out")
    return address


def _status(response: httpx.Response) -> str:
    return f"{response.status_code} {response.reason_phrase}: {_beginning(response)}"


def _beginning(response: httpx.Response) -> str:
    words = " ".join(response.text.split())
    return repr(words[:120] + ("…" if len(words) > 120 else ""))
