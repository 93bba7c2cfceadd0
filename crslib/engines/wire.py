"""What servers send: bodies of any size and, of OpenAI-compatible ones, shapes of answers and words of errors."""

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from crslib.errors import CrsError

_MOST_BYTES = 8 << 20  # of an answer; the longest lists of models have one million


_Count = Annotated[int, BeforeValidator(lambda n: n if type(n) is int and 0 <= n < 1 << 31 else 0)]


class Usage(BaseModel):
    """Tokens as the server counted them; 0: it did not."""

    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class Completion(BaseModel):
    """Of a chat completion, what is read."""

    choices: list[_Choice] = Field(min_length=1)
    usage: Usage | None = None


class _Model(BaseModel):
    id: str


class Models(BaseModel):
    """A list of models."""

    data: list[_Model]


class _Error(BaseModel):
    error: Any = None
    detail: Any = None
    message: Any = None


class Temporary(Exception):
    """What may go better next time, as one sentence. `pause`: seconds that the server asks to wait. `is_gone`: whether
    no server was there, as while it starts."""

    def __init__(self, sentence: str, pause: float | None = None, *, is_gone: bool = False) -> None:
        super().__init__(sentence)
        self.pause, self.is_gone = pause, is_gone


class Refused(Exception):
    """A status other than 2xx, with the server's own words."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(status)
        self.status, self.headers, self.words = status, headers, _words(body)


def _words(body: bytes) -> str:
    """What an error says, without what it repeats of the request."""
    try:
        found = _Error.model_validate_json(body)
    except ValidationError:
        return ""
    return " ".join([*_texts(found.error), *_texts(found.detail), *_texts(found.message)])


def _texts(error: Any) -> list[str]:
    """The texts of an error's usual fields: OpenAI's `message` and `param`, FastAPI's `loc` and `msg`."""
    if isinstance(error, str):
        return [error]
    if isinstance(error, list):
        return [text for each in error[:20] for text in _texts(each)]
    if isinstance(error, dict):
        return [text for name in ("message", "param", "loc", "msg") for text in _texts(error.get(name))]
    return []


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait: `retry-after-ms`, or `Retry-After` as seconds or an HTTP date."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        if re.fullmatch(r"\d{1,9}(?:\.\d+)?", headers.get(name, "").strip()):
            return float(headers[name]) * unit
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


async def read(response: Any, who: str) -> bytes:
    """The whole body of a streamed response of httpx, or of a like library. `who` sent it, for the sentence.

    Raises `CrsError` when it is too long or compressed: a few bytes may stand for gigabytes, and none were asked for.
    Raises `Temporary` when it breaks off.
    """
    if (coding := response.headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
        raise CrsError(f"{who} sent a compressed answer ({coding[:20]!r}), though none was asked for; turn that off")
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > _MOST_BYTES:
                raise CrsError(f"{who} sent more than {_MOST_BYTES >> 20} MiB, which is no answer; check the address")
    except CrsError:
        raise
    except Exception as error:  # of whichever HTTP library the client uses
        raise Temporary(f"{who} broke off its answer ({type(error).__name__}); check it") from None
    return bytes(body)


async def refuse(response: Any) -> None:
    """Raises `Refused` for a status other than 2xx, after a short look at its words."""
    if not 200 <= response.status_code < 300:
        body = b""
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > 1 << 16:
                break
        await response.aclose()
        raise Refused(response.status_code, response.headers, body)
