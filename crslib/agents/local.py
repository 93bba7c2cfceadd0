"""A model through an engine that takes token ids (llama.cpp): the view becomes a prompt in the model's chat template.

Titles can be constrained, and what does not fit is drawn again. Knows nothing of files and parameters.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crslib.agents.base import Ask, Reply, Sent
from crslib.agents.format import NOTHING_SAID, Format, says_something
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.views import View
from crslib.engines.base import Completion, Constraint, Engine, Request
from crslib.engines.resampling import Resampling


class LocalAgent:
    """Speaks for a role by `engine`.

    `form`: how a view becomes messages and a model's words an utterance. `empty`: a view of the role without anything
    of a dialogue; what all prompts share with it is computed once. `resample`: most draws of an utterance.
    `log_weight`: how much more likely than the model people are to say an utterance, for the choice among draws.
    `constraint`: of an utterance, from the view before it.
    """

    reproducible = True
    background = False
    changes: Sequence[str] = ()
    untried = ""  # what is to be said of a model in a domain that it was not trained on

    def __init__(
        self,
        engine: Engine,
        form: Format,
        empty: View,
        resample: int = 1,
        log_weight: Callable[[str], float] | None = None,
        constraint: Callable[[View], Constraint] | None = None,
    ) -> None:
        self.engine, self.width = Resampling(engine, resample), engine.width
        self._form, self._log_weight, self._constraint = form, log_weight, constraint
        self._template = ChatTemplate(*engine.chat_template)
        self._beginning = self._template.encode(form.messages(empty), engine)
        self._asks: dict[str, tuple[Ask, Request]] = {}
        self.identity: Mapping[str, Any] = {
            **self.engine.identity,
            "chat_template_sha256": self._template.sha256,
            "format": form.identity,
        }

    @property
    def pending(self) -> int:
        return self.engine.pending

    def ask(self, ask: Ask) -> None:
        """Requests an utterance, from the view alone."""
        prompt = tuple(self._template.encode(self._form.messages(ask.view), self.engine))
        differing = (i for i, (a, b) in enumerate(zip(prompt, self._beginning, strict=False)) if a != b)
        constraint = None if self._constraint is None else self._constraint(ask.view)
        request = Request(ask.dialogue_id, prompt, ask.seed, constraint, next(differing, len(prompt) - 1))
        self._asks[ask.dialogue_id] = ask, request
        log_weight = self._log_weight
        self.engine.submit(
            request,
            lambda completion: self._faults(ask, completion),
            None if log_weight is None else lambda completion: log_weight(self._read(completion)[0]),
        )

    def step(self, *, wait: bool) -> Sequence[tuple[str, Reply]]:
        """One step of the engine."""
        return [(dialogue_id, self._reply(dialogue_id, completion)) for dialogue_id, completion in self.engine.step()]

    def release(self, dialogue_id: str) -> None:
        self.engine.release(dialogue_id)

    def close(self) -> None:
        self.engine.close()

    def _reply(self, dialogue_id: str, completion: Completion) -> Reply:
        _, request = self._asks.pop(dialogue_id)
        fed = request.prompt[completion.n_cached :]
        sent = Sent(self.engine.decode(fed), len(fed))
        text, left = self._read(completion)
        if is_full := completion.finish == "context_full" and not text:
            left = False  # it had no room to say anything
        if not is_full and not says_something(self._form, text, left):
            return Reply("", sent, len(completion.ids), "failed", error=NOTHING_SAID)
        return Reply(
            text,
            sent,
            len(completion.ids),
            "left" if left else completion.finish,
            # Words that were changed are no longer the tokens that the model drew.
            completion.ids if self._form.verbatim else None,
            completion.logprobs,
        )

    def _faults(self, ask: Ask, completion: Completion) -> float:
        text, left = self._read(completion)
        return ask.faults(text) if says_something(self._form, text, left) else math.inf

    def _read(self, completion: Completion) -> tuple[str, bool]:
        return self._form.read(self.engine.decode(completion.ids))
