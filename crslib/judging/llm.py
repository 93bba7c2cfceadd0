"""A judging model, from a GGUF file or on a server, that chooses among a few options.

Knows neither dialogues nor criteria: `rubrics` asks the questions.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from crslib.config import BUILT_IN, kind_of, n_threads
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.views import Message
from crslib.engines import llama
from crslib.engines.background import event_loop
from crslib.engines.base import Sampling
from crslib.engines.server import NoAnswer, Server, parse
from crslib.errors import CrsError

_N_CTX = 4096
_TIMEOUT = 120.0  # seconds that a server may take for one answer
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


class ServerJudge:
    """A model on an OpenAI-compatible server (`engines.server`), whose key is in the environment variable of its host.

    The option that it names has probability 1; a text that names no option is no answer.
    """

    def __init__(self, model: str, url: str, *, timeout: float = _TIMEOUT, retries: int = _RETRIES) -> None:
        """Raises `CrsError` for a URL that is not HTTP."""
        self._server = Server(model, url, timeout=timeout, retries=retries)
        self.name = model
        self.changes: Sequence[str] = self._server.changes
        self.identity: Mapping[str, Any] = {"judge": "server", **self._server.identity, "temperature": 0}

    def check(self) -> None:
        """Raises `CrsError` when the server cannot be reached, refuses the key, or does not know the model."""
        event_loop().run(self._server.check())

    def ask(self, messages: Sequence[Message], options: Sequence[str]) -> list[float] | None:
        """As `Judge.ask`. Raises `CrsError` when the server cannot be reached, refuses, or sends something else than
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


def open_judge(model: str = BUILT_IN, threads: int = 0) -> Judge:
    """The judge that `model` names: `openai:MODEL@URL`, the path of a GGUF file, or the built-in model.

    Raises `CrsError` for another kind of agent, for a server that does not answer as it should, and as `LocalJudge`.
    """
    if (kind := kind_of(model)) == "gguf":
        return LocalJudge(llama.model_path(model), threads)
    if kind != "openai":
        raise CrsError(f"{model!r} is no judge; give {BUILT_IN}, a GGUF file or openai:MODEL@URL")
    judge = ServerJudge(*parse(model))
    try:
        judge.check()
    except BaseException:
        judge.close()
        raise
    return judge
