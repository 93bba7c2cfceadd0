"""Who answers a question that has few possible answers: the model of a GGUF file, or one behind an HTTP endpoint.

Knows nothing of dialogues, criteria or what becomes of the answers.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.views import Message
from crslib.engines import llama
from crslib.errors import CrsError

KEY = "CRS_JUDGE_KEY"
"""The environment variable with the key of an endpoint. One of its own, so that no key goes where it is not meant."""

_N_CTX = 4096
_TIMEOUT = 120.0  # seconds that an endpoint may take for one answer
_RETRIES = 4  # with growing pauses
_MAX_TOKENS = 1024  # room for a model that thinks aloud before it answers
_BEFORE = "(?:the|answer|is|dialogue|mark|option)"


class Judge(Protocol):
    """Somebody to ask. Answers depend on `identity`, messages and options only, as far as the model allows."""

    name: str
    identity: Mapping[str, Any]

    def ask(self, messages: Sequence[Message], options: Sequence[str]) -> list[float] | None:
        """The probability of each option, of all options 1 together; None where there is no usable answer."""
        ...

    def close(self) -> None: ...


class LocalJudge:
    """A GGUF model in its own chat template. The text of a message never becomes a control token.

    It generates nothing: the options are weighed by the probability of their tokens as the whole answer's beginning.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        """`threads`: of the CPU, 0 is all of them. Raises `CrsError` when the file cannot be read."""
        self._model = llama.Model(path)
        cpus = threads or os.cpu_count() or 1
        self._engine = llama.LlamaEngine(self._model, None, n_ctx=_N_CTX, width=1, threads=cpus)
        self._template = ChatTemplate(*self._engine.chat_template)
        self.name = path.stem
        self.identity: Mapping[str, Any] = {
            "judge": "gguf",
            "n_ctx": _N_CTX,
            **llama.source(path, None, llama.AS_THEY_ARE),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, messages: Sequence[Message], options: Sequence[str]) -> list[float] | None:
        """See `Judge`; None for messages that are longer than the context."""
        prompt = self._template.encode(messages, self._engine)
        answers = [self._engine.encode(option) for option in options]
        if len(prompt) + max(map(len, answers)) >= _N_CTX:
            return None
        logprobs = self._engine.score(prompt, answers)
        weights = np.exp(logprobs - logprobs.max())
        return (weights / weights.sum()).tolist()

    def close(self) -> None:
        self._engine.close()
        self._model.close()


class EndpointJudge:
    """A model behind an OpenAI-compatible endpoint (POST /chat/completions). Messages travel as JSON strings.

    The option that it names has probability 1; an answer that is not one of the options is none. What fails in passing
    (no connection, 429, 5xx) is tried again a few times.
    """

    def __init__(self, url: str, model: str, *, timeout: float = _TIMEOUT, retries: int = _RETRIES) -> None:
        """Raises `CrsError` for a URL that is not HTTP."""
        import openai

        if not re.match(r"https?://\w", url):
            raise CrsError(f"the endpoint {url!r} is no HTTP address; give one like http://localhost:8080/v1")
        self._client = openai.OpenAI(
            base_url=url,
            api_key=os.environ.get(KEY) or "none",
            timeout=timeout,
            max_retries=retries,
            default_headers={f"OpenAI-{what}": openai.Omit() for what in ("Organization", "Project")},  # type: ignore
        )
        self._url, self._timeout = url, timeout
        self.name = model
        self.identity: Mapping[str, Any] = {"judge": "endpoint", "url": url, "model": model, "temperature": 0}

    def ask(self, messages: Sequence[Message], options: Sequence[str]) -> list[float] | None:
        """See `Judge`. Raises `CrsError` when the endpoint cannot be reached, refuses, or speaks another language."""
        chosen = chosen_option(self._said(messages), options)
        return None if chosen is None else [float(option == chosen) for option in options]

    def _said(self, messages: Sequence[Message]) -> str:
        import openai

        try:
            reply = self._client.chat.completions.create(
                model=self.name,
                messages=[{"role": message.role, "content": message.text} for message in messages],  # type: ignore[misc]
                temperature=0,
                max_tokens=_MAX_TOKENS,
            )
            return reply.choices[0].message.content or ""
        except openai.APITimeoutError:
            raise CrsError(
                f"the endpoint {self._url} gave no answer within {self._timeout:g} s, again and again; "
                "look after it and run the same again: what it has answered is kept"
            ) from None
        except openai.APIConnectionError as error:
            raise CrsError(
                f"cannot reach the endpoint {self._url} ({error.__cause__ or error}); start it or give another address"
            ) from None
        except openai.APIStatusError as error:
            raise CrsError(
                f"the endpoint {self._url} answers {error.status_code} for the model {self.name!r}; {_remedy(error)}"
            ) from None
        except (openai.APIError, ValueError, AttributeError, TypeError, IndexError):
            raise CrsError(
                f"what the endpoint {self._url} answers is no chat completion; give the address that comes before "
                "/chat/completions of an OpenAI-compatible server"
            ) from None

    def close(self) -> None:
        self._client.close()


def chosen_option(answer: str, options: Sequence[str]) -> str | None:
    """The option that an answer consists of, thoughts, punctuation and words like "Answer:" aside; else None."""
    said = re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL)
    among = "|".join(map(re.escape, options))
    found = re.fullmatch(rf"\W*(?:{_BEFORE}\W+)*({among})\W*", said, re.IGNORECASE)
    return next(option for option in options if option.lower() == found[1].lower()) if found else None


def _remedy(error: Any) -> str:
    if error.status_code in (401, 403):
        return f"put its key into the environment variable {KEY}"
    if error.status_code == 404:
        return "check --endpoint (it often ends in /v1) and --endpoint-model"
    if error.status_code < 500 and error.status_code != 429:
        return "it does not take this request: give another model"
    return "look after it and run the same again: what it has answered is kept"
