"""A model's opinion of a continuation, beside the rules: how likely it answers yes when asked whether it is good.

A small model's opinion is worth little; it is an option, never the only judge. Knows views and words, no rules.
"""

from collections.abc import Sequence

import polars as pl

from crslib.dialogue.utterances import USER, clean
from crslib.dialogue.views import Message
from crslib.judging.llm import Judge
from crslib.training.preferences import Context

_ASKED = "You judge conversations about movies. Answer with one word: yes or no."
_QUESTION = (
    "Is this reply natural, does it answer what was said last, and does it agree with all that the speaker knows and "
    "has said before?"
)
_ANSWERS = ("yes", "Yes", "no", "No")


def scores(judge: Judge, contexts: Sequence[Context], made: pl.DataFrame) -> list[float]:
    """P(yes) / (P(yes) + P(no)) of every row of `made` (columns of `preferences.CANDIDATES`), in order; one half where
    the judge has no answer."""
    where = {context.context_id: context for context in contexts}
    found = []
    for context_id, raw in made.select("context_id", "raw").iter_rows():
        answer = judge.ask(question(where[context_id], raw), _ANSWERS)
        found.append(0.5 if answer is None else answer[0] + answer[1])
    return found


def question(context: Context, raw: str) -> list[Message]:
    """What a judge is asked: all that the speaker knows and has heard, in its own view, and the reply."""
    me, other = ("Seeker", "Recommender") if context.role == USER else ("Recommender", "Seeker")
    names = {"system": f"What the {me.lower()} was told", "user": other, "assistant": me}
    lines = [f"{names[message.role]}: {' '.join(message.text.split())}" for message in context.messages]
    text = "\n".join([*lines, "", f"Reply of the {me.lower()}: {clean(raw)}", "", _QUESTION])
    return [Message("system", _ASKED), Message("user", text)]
