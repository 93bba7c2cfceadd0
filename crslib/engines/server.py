"""The client of OpenAI-compatible servers (llama-server, vLLM, Ollama, providers): messages in, one answer out.

Requests may run at the same time, within limits. What may be temporary (no connection, no answer in time, status 408,
425, 429 or 5xx, an answer that breaks off) is tried again, with growing pauses or as `Retry-After` says: six times, and
for as long as the deadline allows where a server that has answered before is gone, as one is that starts again.
Everything else that a server does is a `CrsError` of one sentence. Keys come from the environment, each for one host,
and are sent encrypted, or to this machine.
"""

import asyncio
import difflib
import ipaddress
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import ValidationError

from crslib.dialogue.utterances import one_line
from crslib.dialogue.views import Message
from crslib.engines.base import Sampling
from crslib.engines.wire import Completion, Models, Refused, Temporary, Usage, read, refuse, retry_after
from crslib.errors import CrsError

PREFIX = "openai:"
KEY = "CRS_API_KEY"
"""The environment variable with the key of servers on this machine; of other hosts as `key_variable` says."""

_RETRIED = (408, 425, 429)  # and 5xx
_STARTING = (502, 503, 504)  # of a gateway without its server, and of a server that still loads its model
_RETRIES = 6
_FIRST_PAUSE = 1.0  # seconds; it doubles with each retry, and a random part of up to one half is taken off
_LONGEST_PAUSE = 30.0
_NOT_SUPPORTED = re.compile(
    r"support|unrecogni[sz]ed|unknown|unexpected|permitted|forbidden|not allowed|invalid (?:param|arg)|cannot both",
    re.I,
)
_AGAIN = "check it and run the same command again, which continues after the answers so far"
_OPTIONAL = ("min_p", "seed", "top_p", "temperature")  # parameters that a server may do without
_HEADERS = {"host", "connection", "content-type", "content-length", "accept", "accept-encoding", "user-agent"}
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")  # what all that read addresses take for the same host
_SIGNS = str.maketrans({".": "_", "-": "__", "_": "___", ":": "____"})
_MOST_CHARACTERS = 40  # of an answer for each of its `max_tokens`; words of most languages have 3 to 6


# ── names of servers ────────────────────────────────────────────────────────────────────────────────────────────


def is_server(name: str) -> bool:
    """Whether the value of a parameter names a model on a server."""
    return name.startswith(PREFIX)


def parse(name: str) -> tuple[str, str]:
    """Model and URL of `openai:MODEL@URL`. The URL begins after the last `@` with `http://` or `https://` behind it.

    Raises `CrsError` where there is no model or no URL, and as `check_url`.
    """
    match = re.fullmatch(rf"{PREFIX}(.*)@(https?://.*)", name, re.DOTALL)
    if not match or not match[1].strip():
        # A name that is not understood may hold a password: it is not quoted.
        raise CrsError(
            "a model on a server is named openai:MODEL@URL, with an HTTP address, for example "
            "openai:llama3@http://localhost:11434/v1"
        )
    return match[1].strip(), check_url(match[2])


def check_url(url: str) -> str:
    """`url` itself, without a slash at its end.

    Raises `CrsError` for what is no HTTP address and for one with a password or a query, which would be stored with the
    run, and is not quoted.
    """
    if set(url) & set("@?#"):
        raise CrsError(
            "the address of a server holds a name, a password or a query (one of @ ? #), which would be stored with "
            "the run; give the address alone, and the key in the environment"
        )
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(_HOST.fullmatch(parts.hostname or "")) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not re.fullmatch(r"[!-~]+", url) or "\\" in url:
        raise CrsError(f"the endpoint {url!r} is not an HTTP address; give one like http://localhost:8080/v1")
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def key_variable(url: str) -> str:
    """The environment variable that holds the key for `url`: `CRS_API_KEY` on this machine, `OPENAI_API_KEY` of OpenAI,
    else one of the host alone, for example `CRS_API_KEY_API_TOGETHER_XYZ` (a hyphen becomes `__`). So somebody's file
    of conditions can name any server, and gets no key that was meant for another.
    """
    host = urlsplit(url).hostname or ""
    if host == "api.openai.com":
        return "OPENAI_API_KEY"
    return KEY if is_loopback(host) else f"{KEY}_{host.translate(_SIGNS).upper()}"


def may_have_key(url: str) -> bool:
    """Whether a key may be sent to `url`: nobody on the way can read it."""
    parts = urlsplit(url)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")


def usage(tokens_in: int, tokens_out: int, price_in: float = 0, price_out: float = 0) -> dict[str, float]:
    """Tokens in and out, and, where a price per million of them is given, what they cost: `price`, in its unit."""
    price = {"price": (tokens_in * price_in + tokens_out * price_out) / 1e6} if price_in or price_out else {}
    return {"tokens_in": tokens_in, "tokens_out": tokens_out, **price}


# ── limits ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Limits:
    """What may be asked of servers by all roles together: so many requests at once, so many requests and tokens a
    minute (0: any number), spread evenly. Once `closed`, nothing more."""

    def __init__(self, max_concurrency: int = 16, requests_per_minute: int = 0, tokens_per_minute: int = 0) -> None:
        self.max_concurrency = max_concurrency
        self.closed = False
        self.slots = asyncio.Semaphore(max_concurrency)
        self._per_request = 60 / requests_per_minute if requests_per_minute else 0.0  # seconds
        self._per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._next = 0.0  # moment from which on a request may be sent

    async def wait(self, n_tokens: int) -> None:
        """Until a request of about `n_tokens` may be sent."""
        start = max(time.monotonic(), self._next)
        self._next = start + max(self._per_request, n_tokens * self._per_token)
        await asyncio.sleep(start - time.monotonic())

    def correct(self, n_tokens: int) -> None:
        """Counts so many tokens more than were expected; negative for fewer."""
        self._next += n_tokens * self._per_token


@dataclass(frozen=True)
class Answer:
    """A model's answer. `finish`: "max_tokens" where it was cut. Tokens as the server counted them; 0: it did not."""

    text: str
    finish: Literal["end", "max_tokens"]
    tokens_in: int = 0
    tokens_out: int = 0


class NoAnswer(CrsError):
    """The server works, but what it sent for these messages is of no use."""


# ── the client ──────────────────────────────────────────────────────────────────────────────────────────────────


class Server:
    """One model on one server. All coroutines of a server run in one event loop.

    `identity`: what is known to decide its answers. `changes`: how requests differ from what was asked, in sentences,
    because the server does not support a parameter.
    """

    def __init__(
        self,
        model: str,
        url: str,
        *,
        timeout: float = 120.0,
        deadline: float | None = None,
        retries: int = _RETRIES,
        first_pause: float = _FIRST_PAUSE,
        limits: Limits | None = None,
    ) -> None:
        """`timeout`: seconds for one attempt, all of its answer included. `deadline`: seconds after which no other is
        begun (None: five timeouts). `limits`: may be shared with other servers. Its key is that of `key_variable`, and
        is not sent where `may_have_key` says no.

        Raises `CrsError` for a URL or a key that cannot be sent.
        """
        import openai

        self.model, self.url = model, check_url(url)
        self.identity: Mapping[str, Any] = {"url": self.url, "model": model}
        self.changes: list[str] = []
        self.variable = key_variable(self.url)
        self._key = os.environ.get(self.variable, "").strip() if may_have_key(self.url) else ""
        if not re.fullmatch(r"[!-~]*", self._key):
            raise CrsError(f"the environment variable {self.variable} holds blanks or other signs that no key has")
        self._timeout, self._deadline = timeout, 5 * timeout if deadline is None else deadline
        self._retries, self._first_pause = retries, first_pause
        self.limits = limits or Limits()
        self._has_answered = False
        self._quiet_until = 0.0  # the moment that the server named in `Retry-After`, for all requests to it
        host = urlsplit(self.url).hostname or ""
        self._client = openai.AsyncOpenAI(
            base_url=self.url,
            api_key="none",  # `_sign` sends the key
            timeout=timeout,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False,  # a view goes to the server that was named, and no further
                trust_env=not is_loopback(host),  # no proxy between this machine and itself
                timeout=timeout,
                event_hooks={"request": [self._sign], "response": [refuse]},
            ),
        )

    async def _sign(self, request: Any) -> None:
        """Puts the key on a request, and takes off what the client adds from OPENAI_… variables of the environment."""
        for name in set(request.headers) - _HEADERS:
            if not name.startswith("x-stainless-"):
                del request.headers[name]
        request.headers["Accept-Encoding"] = "identity"
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"

    async def check(self) -> None:
        """Raises `CrsError` when the server cannot be reached, refuses the key, or does not know the model.

        A server that lists no models is asked for one word instead.
        """
        try:
            list_models = self._client.models.with_streaming_response.list
            body = await self._attempts(list_models, 0, retries=min(2, self._retries))
            names = [each.id for each in Models.model_validate_json(body).data]
        except (Refused, ValidationError) as error:
            if isinstance(error, Refused) and error.status in (401, 403):
                raise CrsError(self._sentence(error)) from None
            names = []
        if not names:
            self._completion(await self._post([Message("user", "Hi")], Sampling(temperature=0, max_tokens=1), None, 0))
        elif not {self.model, f"{self.model}:latest", f"models/{self.model}"} & set(names):
            close = difflib.get_close_matches(self.model, names, n=1)
            shown = [self._safe(name)[:100] for name in close or names[:10]]
            hint = f"did you mean {shown[0]!r}?" if close else f"it knows {', '.join(shown)}"
            more = f" and {len(names) - 10} more" if not close and len(names) > 10 else ""
            raise CrsError(f"the endpoint {self.url} does not know the model {self.model!r}: {hint}{more}")

    async def complete(self, messages: Sequence[Message], sampling: Sampling, seed: int | None) -> Answer:
        """The model's answer to `messages`. `seed` None: the server chooses.

        Raises `CrsError` when there is none for good: `NoAnswer` where others may have one.
        """
        expected = sum(len(message.text) for message in messages) // 4 + sampling.max_tokens  # tokens, for the pace
        async with self.limits.slots:
            if self.limits.closed:  # the slot is free because another role's request was just dropped
                raise CrsError("the run has ended; nothing more is asked of servers")
            body = await self._post(messages, sampling, seed, expected)
        answer = self._answer(body, sampling)
        if answer.tokens_in + answer.tokens_out:
            self.limits.correct(answer.tokens_in + answer.tokens_out - expected)
        return answer

    async def _post(self, messages: Sequence[Message], sampling: Sampling, seed: int | None, n_tokens: int) -> bytes:
        """The body of a chat completion, with the parameters that the server supports."""
        create = self._client.chat.completions.with_streaming_response.create
        while True:
            request = self._request(messages, sampling, seed)
            try:
                return await self._attempts(partial(create, **request), n_tokens, retries=self._retries)
            except Refused as error:
                if not self._give_way(error, request):
                    raise CrsError(self._sentence(error)) from None

    def _request(self, messages: Sequence[Message], sampling: Sampling, seed: int | None) -> dict[str, Any]:
        """The arguments of a chat completion. All that draws words is said: servers' defaults are not neutral."""
        request: dict[str, Any] = {"temperature": sampling.temperature, "seed": seed}
        if sampling.temperature:
            request |= {"top_p": sampling.top_p, "min_p": sampling.min_p}
        dropped = {change.split()[0] for change in self.changes}
        request = {name: value for name, value in request.items() if value is not None and name not in dropped}
        extra = {"min_p": request.pop("min_p")} if "min_p" in request else {}
        limit = "max_completion_tokens" if "max_tokens" in dropped else "max_tokens"
        return {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.text} for message in messages],
            **request,
            limit: sampling.max_tokens,
            "extra_body": extra,
        }

    def _give_way(self, error: Refused, request: Mapping[str, Any]) -> bool:
        """Leaves out or renames the parameter that a server says it does not support; whether there is one."""
        if error.status not in (400, 422):
            return False
        if "max_tokens" in request and re.search(r"use\W+max_completion_tokens", error.words, re.IGNORECASE):
            self._change("max_tokens is sent as max_completion_tokens: the server wants it so")
            return True
        sent = {**request, **request["extra_body"]}
        for name in _OPTIONAL:
            if name in sent and re.search(rf"\b{name}\b", error.words) and _NOT_SUPPORTED.search(error.words):
                self._change(f"{name} is left out: the server does not support it")
                return True
        return False

    def _change(self, sentence: str) -> None:
        if sentence not in self.changes:  # requests that run at the same time are refused for the same reason
            self.changes.append(sentence)

    async def _attempts(
        self, make: Callable[[], AbstractAsyncContextManager[Any]], n_tokens: int, *, retries: int
    ) -> bytes:
        """The body of the first answer with status 2xx. Raises `Refused` for a status that is not tried again, and
        `CrsError` when all attempts failed or the deadline does not allow another one."""
        spent, number = 0.0, 0  # seconds, without what the limits of the pace took
        while True:
            await asyncio.sleep(self._quiet_until - time.monotonic())
            await self.limits.wait(n_tokens)
            begun = time.monotonic()
            try:
                body = await self._attempt(make)
            except Temporary as error:
                own = min(_LONGEST_PAUSE, self._first_pause * 2**number) * random.uniform(0.5, 1)
                pause = own if error.pause is None else error.pause + own / 10
                spent += time.monotonic() - begun + pause
                number += 1
                if number <= retries and spent >= self._deadline and error.pause:
                    raise CrsError(f"{error} (it asks to wait {error.pause:.0f} s, which is too long)") from None
                starts_again = error.is_gone and self._has_answered
                if (number > retries and not starts_again) or spent >= self._deadline:
                    raise CrsError(str(error)) from None
                self._quiet_until = max(self._quiet_until, time.monotonic() + (error.pause or 0))
                await asyncio.sleep(pause)
            else:
                self._has_answered = True
                return body

    async def _attempt(self, make: Callable[[], AbstractAsyncContextManager[Any]]) -> bytes:
        import openai

        try:
            async with asyncio.timeout(self._timeout), make() as response:
                return await read(response.http_response, f"the endpoint {self.url}")
        except (TimeoutError, openai.APITimeoutError):
            raise Temporary(
                f"the endpoint {self.url} gave no answer within {self._timeout:g} s, in all attempts; {_AGAIN}"
            ) from None
        except openai.OpenAIError as error:
            cause = self._safe(str(error.__cause__ or error)) or type(error.__cause__).__name__
            raise Temporary(
                f"cannot reach the endpoint {self.url} ({cause}); start it or give another address", is_gone=True
            ) from None
        except Refused as error:
            if error.status not in _RETRIED and error.status < 500:
                raise
            pause, is_gone = retry_after(error.headers), error.status in _STARTING
            raise Temporary(self._sentence(error), pause, is_gone=is_gone) from None

    def _completion(self, body: bytes) -> Completion:
        try:
            return Completion.model_validate_json(body)
        except ValidationError:
            raise CrsError(
                f"the endpoint {self.url} sent no chat completion; give the address of an OpenAI-compatible server, "
                "without /chat/completions"
            ) from None

    def _answer(self, body: bytes, sampling: Sampling) -> Answer:
        """Reads a chat completion. Raises `CrsError` where it is none, `NoAnswer` where it says nothing."""
        completion = self._completion(body)
        choice, count = completion.choices[0], completion.usage or Usage()
        why = self._safe(choice.finish_reason or "no reason")[:100]
        text, about = self._keyless(choice.message.content or ""), f"the model {self.model!r} at {self.url}"
        if choice.finish_reason == "content_filter":
            raise NoAnswer(f"{about} withheld its answer (content_filter); give another model")
        if not text and choice.finish_reason == "length":
            raise NoAnswer(f"{about} spent all {sampling.max_tokens} tokens on thoughts; raise max_tokens")
        if choice.message.content is None:
            raise NoAnswer(f"{about} sent an answer without text ({why}); give another model")
        n_words, asked = len(text.split()), f"where max_tokens = {sampling.max_tokens} was asked for"
        if n_words > 4 * sampling.max_tokens:
            raise NoAnswer(f"{about} sent {n_words:,} words, {asked}")
        if len(text) > _MOST_CHARACTERS * sampling.max_tokens:
            raise NoAnswer(f"{about} sent {len(text):,} characters, {asked}")
        finish: Literal["end", "max_tokens"] = "max_tokens" if choice.finish_reason == "length" else "end"
        return Answer(text, finish, count.prompt_tokens, count.completion_tokens)

    def _keyless(self, text: str) -> str:
        """A server's words without the key, which some repeat. A short word ("none", "ollama", "1234") is no secret: it
        stands in for a key where a server asks for none, and may be said."""
        is_secret = len(self._key) >= 16 or not self._key.isalnum()
        return text.replace(self._key, "…") if self._key and is_secret else text

    def _safe(self, text: str) -> str:
        return one_line(self._keyless(text))

    def _sentence(self, error: Refused) -> str:
        words = f" ({self._safe(error.words)[:300]})" if error.words else ""
        remedy = self._remedy(error.status, error.words)
        return f"the endpoint {self.url} answers {error.status} for the model {self.model!r}{words}; {remedy}"

    def _remedy(self, status: int, words: str) -> str:
        if status in (401, 403) and not may_have_key(self.url):
            return "no key is sent unencrypted: give an https address, or reach it as localhost (`ssh -L`)"
        if status in (401, 403):
            held = "holds one that it does not accept" if self._key else "is empty"
            return f"put its key into the environment variable {self.variable}, which {held}"
        if status in (404, 405) or 300 <= status < 400:
            return "check the address (it often ends in /v1) and the name of the model"
        if status in (400, 413, 422) and "context" in words:
            return "give the server a longer context, or let dialogues end earlier with max_turns"
        if status < 500 and status not in _RETRIED:
            return "it does not accept this request: give another model"
        return _AGAIN

    async def close(self) -> None:
        await self._client.close()
