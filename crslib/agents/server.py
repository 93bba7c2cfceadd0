"""A model on an OpenAI-compatible server as an agent."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from crslib.agents.background import BackgroundAgent
from crslib.agents.base import Ask, Finish, Reply, Transcript
from crslib.agents.format import NOTHING_SAID, Format, says_something
from crslib.config import SimulationParameters
from crslib.dialogue.views import Message
from crslib.engines.base import Sampling
from crslib.engines.server import Answer, Limits, Server, parse
from crslib.errors import CrsError
from crslib.files import unwritable
from crslib.identity import derive_seed, digest


def open_server(
    name: str,
    parameters: SimulationParameters,
    limits: Limits,
    *,
    form: Format,
    answers: Path | None = None,
) -> "ServerAgent":
    """The agent `openai:MODEL@URL`. `limits` hold for all agents that share them; the rest is as in `ServerAgent`.

    Raises `CrsError` for a name that is wrong, and for a server that cannot be reached, refuses the key or does not
    know the model.
    """
    server = Server(*parse(name), timeout=parameters.timeout, limits=limits)
    sampling = Sampling(parameters.temperature, parameters.top_p, parameters.min_p, parameters.max_tokens, guard="off")
    agent = ServerAgent(
        server,
        sampling,
        form,
        resample=parameters.resample,
        answers=answers,
    )
    try:
        agent.loop.run(server.check())
    except BaseException:
        agent.close()
        raise
    return agent


class ServerAgent(BackgroundAgent):
    """Speaks for a role by what a model on a server answers."""

    def __init__(
        self,
        server: Server,
        sampling: Sampling,
        form: Format,
        *,
        resample: int = 1,
        answers: Path | None = None,
    ) -> None:
        """`form`: how the model is spoken to. `resample`: most draws of an utterance.
        `answers`: a file in which all answers are kept; what stands in it is not asked for again. None: none.

        Raises `CrsError` when the file cannot be read or written.
        """
        super().__init__()
        self.server, self.width = server, server.limits.max_concurrency
        self._sampling, self._form = sampling, form
        self._draws = resample if sampling.temperature else 1  # at temperature 0 all draws are the same
        drawn = {name: value for name, value in asdict(sampling).items() if name != "guard"}
        self._answered = {"server": dict(server.identity), "sampling": drawn}
        self.identity: Mapping[str, Any] = {
            "agent": "server",
            **server.identity,
            "sampling": drawn,
            "resample": resample,
            "format": form.identity,
        }
        self._transcript = Transcript()
        self._answers = Answers(answers)

    @property
    def changes(self) -> Sequence[str]:
        """How requests differ from what was asked, in sentences, because the server does not support a parameter."""
        return tuple(self.server.changes)

    async def reply(self, ask: Ask) -> Reply:
        """The first draw without a fault, or the last one of those with the least."""
        messages = [Message(message.role, message.text) for message in self._form.messages(ask.view)]
        sent = self._transcript.add(ask.dialogue_id, [(message.role, message.text) for message in messages])
        tokens_in = tokens_out = 0
        least = math.inf
        said: tuple[str, bool, Finish] = "", False, "end"
        for draw in range(self._draws):
            try:
                answer = await self._answer(messages, derive_seed(ask.seed, "again", draw) if draw else ask.seed)
            except CrsError as error:
                return Reply("", sent, 0, "failed", error=str(error), tokens_in=tokens_in, tokens_out=tokens_out)
            tokens_in, tokens_out = tokens_in + answer.tokens_in, tokens_out + answer.tokens_out
            text, left = self._form.read(answer.text)
            faults = ask.faults(text) if says_something(self._form, text, left) else math.inf
            if faults <= least:
                least, said = faults, (text, left, answer.finish)
            if not faults:
                break
        text, left, finish = said
        # In words, as what is sent: the server's count has thoughts and what the format removes.
        n_tokens = len(text.split())
        if not says_something(self._form, text, left):
            return Reply("", sent, n_tokens, "failed", (), (), NOTHING_SAID, tokens_in, tokens_out)
        return Reply(text, sent, n_tokens, "left" if left else finish, tokens_in=tokens_in, tokens_out=tokens_out)

    async def _answer(self, messages: Sequence[Message], seed: int) -> Answer:
        texts = [[message.role, message.text] for message in messages]
        key = digest({**self._answered, "messages": texts, "seed": seed}, "answer")
        answer = self._answers.get(key)
        if answer is None:
            answer = await self.server.complete(messages, self._sampling, seed)
            self._answers.add(key, answer)
        return answer

    def release(self, dialogue_id: str) -> None:
        self._transcript.release(dialogue_id)

    async def shut(self) -> None:
        self._answers.close()
        await self.server.close()


_LINE = TypeAdapter(tuple[str, Answer])


class Answers:
    """What a server answered, by the digest of what it was asked: JSON lines `[digest, answer]`, for a run that goes
    on after it was killed. A damaged line is as if it were not there: it is asked for again."""

    def __init__(self, path: Path | None) -> None:
        """Reads the file, which need not be there. Raises `CrsError` when it cannot be read or written."""
        self._path = path
        self._answers: dict[str, Answer] = {}
        self._file = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
            self._file.seek(0)
            whole = self._file.read()
            if whole and not whole.endswith(b"\n"):  # it was killed while it wrote
                self._file.write(b"\n")
        except OSError as error:
            raise unwritable(path, error) from None
        for line in whole.split(b"\n"):
            try:
                key, answer = _LINE.validate_json(line)
            except ValidationError:
                continue
            self._answers[key] = answer

    def get(self, key: str) -> Answer | None:
        return self._answers.get(key)

    def add(self, key: str, answer: Answer) -> None:
        """Keeps an answer, in the file before it is used. Raises `CrsError` when it cannot be written."""
        self._answers[key] = answer
        if self._file is None or self._path is None:
            return
        try:
            self._file.write(json.dumps([key, asdict(answer)], ensure_ascii=False).encode() + b"\n")
        except OSError as error:
            raise unwritable(self._path, error) from None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
