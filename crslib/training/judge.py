"""A local model's opinion of a continuation, beside the rules: how likely it answers yes when asked whether it is good.

A small model's opinion is worth little; it is an option, never the only judge. Knows views and words, no rules.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import polars as pl

from crslib.chat import USER, ChatTemplate, Message, clean
from crslib.engines import llama
from crslib.training.preferences import Context

_ASKED = "You judge conversations about movies. Answer with one word: yes or no."
_QUESTION = (
    "Is this reply natural, does it answer what was said last, and does it agree with all that the speaker knows and "
    "has said before?"
)
_N_CTX = 2048


class Judge:
    """Asks the model of a GGUF file, in its own chat template, about one continuation at a time."""

    def __init__(self, path: Path, threads: int) -> None:
        """Raises `CrsError` when the file cannot be read."""
        self._model = llama.Model(path)
        self._engine = llama.LlamaEngine(self._model, None, n_ctx=_N_CTX, width=1, threads=threads)
        self._template = ChatTemplate(*self._engine.chat_template)
        self._answers = [self._engine.encode(word) for word in ("yes", "Yes", "no", "No")]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()
        self._model.close()

    def scores(self, contexts: Sequence[Context], made: pl.DataFrame) -> list[float]:
        """P(yes) / (P(yes) + P(no)) of every row of `made` (columns of `preferences.CANDIDATES`), in order.

        Raises `CrsError` for a dialogue that does not fit the model's context.
        """
        where = {context.context_id: context for context in contexts}
        found = []
        for context_id, raw in made.select("context_id", "raw").iter_rows():
            prompt = self._template.encode(question(where[context_id], raw), self._engine)
            yes, also_yes, no, also_no = (math.exp(x) for x in self._engine.score(prompt, self._answers))
            found.append((yes + also_yes) / (yes + also_yes + no + also_no))
        return found


def question(context: Context, raw: str) -> list[Message]:
    """What a judge is asked: all that the speaker knows and has heard, in its own view, and the reply."""
    me, other = ("Seeker", "Recommender") if context.role == USER else ("Recommender", "Seeker")
    names = {"system": f"What the {me.lower()} was told", "user": other, "assistant": me}
    lines = [f"{names[message.role]}: {' '.join(message.text.split())}" for message in context.messages]
    text = "\n".join([*lines, "", f"Reply of the {me.lower()}: {clean(raw)}", "", _QUESTION])
    return [Message("system", _ASKED), Message("user", text)]
