"""A judging model, from a GGUF file or behind an HTTP endpoint, that chooses among a few options.

Knows neither dialogues nor criteria: `rubrics` asks the questions.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from crslib.config import n_threads
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.views import Message
from crslib.engines import llama
from crslib.engines.background import event_loop
from crslib.engines.base import Sampling
from crslib.engines.server import NoAnswer, Server
from crslib.errors import CrsError

KEY = "CRS_JUDGE_KEY"
"""The environment variable with the key of an endpoint. A variable of its own: no other key is ever sent there."""

_N_CTX = 4096
_TIMEOUT = 120.0  # seconds that an endpoint may take for one answer
_RETRIES = 4  # with growing pauses
_SAMPLING = Sampling(temperature=0, max_tokens=1024)  # room for a model that thinks aloud before it answers
_FILLER = "(?:the|answer|is|dialogue|mark|option)"


class Judge(Protocol):
    """A model that chooses among options.

    `identity`, messages and options determine the answer, as far as the model is deterministic. `changes`: how it was
    asked otherwise than `identity` says, in sentences.
    """

    name: str
    identity: Mapping[str, Any]
    changes: Sequence[str]

    def ask(self, messages: Sequence[Message], options: Sequence[str]) -> list[float] | None:
        """The probability of each option, with sum 1; None where there is no usable answer."""
        ...

    def close(self) -> None: ...


class LocalJudge:
    """A GGUF model in its own chat template. The text of a message never becomes a control token.

    It generates nothing: an option's probability is that of its tokens as the beginning of the answer, normalised over
    the options.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        """`threads`: CPU threads, 0 is all of them. Raises `CrsError` when the file cannot be read."""
        self._model = llama.Model(path)
        self._engine = llama.LlamaEngine(self._model, None, n_ctx=_N_CTX, width=1, threads=n_threads(threads))
        self._template = ChatTemplate(*self._engine.chat_template)
        self.name = path.stem
        self.changes: Sequence[str] = ()
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
        """As `Judge.ask`; None for messages that do not fit into the context."""
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
    """A model behind an OpenAI-compatible endpoint (`engines.server`).

    The option that it names has probability 1; a text that names no option is no answer.
    """

    def __init__(self, url: str, model: str, *, timeout: float = _TIMEOUT, retries: int = _RETRIES) -> None:
        """Raises `CrsError` for a URL that is not HTTP."""
        self._server = Server(model, url, timeout=timeout, retries=retries, variable=KEY)
        self.name = model
        self.changes: Sequence[str] = self._server.changes
        self.identity: Mapping[str, Any] = {"judge": "endpoint", "url": url, "model": model, "temperature": 0}

    def ask(self, messages: Sequence[Message], options: Sequence[str]) -> list[float] | None:
        """As `Judge.ask`. Raises `CrsError` when the endpoint cannot be reached, refuses, or sends something else than
        a chat completion."""
        try:
            answer = event_loop().run(self._server.complete(messages, _SAMPLING, None))
        except NoAnswer:
            return None
        chosen = chosen_option(answer.text, options)
        return None if chosen is None else [float(option == chosen) for option in options]

    def close(self) -> None:
        event_loop().run(self._server.close())


def chosen_option(answer: str, options: Sequence[str]) -> str | None:
    """The option that an answer consists of, apart from thoughts, punctuation and words like "Answer:"; else None."""
    text = answer.rpartition("</think>")[2]  # thoughts come first, and some templates begin them unseen
    any_option = "|".join(map(re.escape, options))
    match = re.fullmatch(rf"\W*(?:{_FILLER}\W+)*({any_option})\W*", text, re.IGNORECASE)
    return next((option for option in options if match and option.lower() == match[1].lower()), None)


def open_judge(model: str = "smollm2", endpoint: str = "", endpoint_model: str = "", threads: int = 0) -> Judge:
    """The model `endpoint_model` behind `endpoint` where these are given, else the GGUF `model` (a path, or `smollm2`).

    Raises `CrsError` when only one of the two is given, and as `LocalJudge` or `EndpointJudge`.
    """
    if bool(endpoint) != bool(endpoint_model):
        raise CrsError("an endpoint needs both --endpoint URL and --endpoint-model NAME")
    return EndpointJudge(endpoint, endpoint_model) if endpoint else LocalJudge(llama.model_path(model), threads)
