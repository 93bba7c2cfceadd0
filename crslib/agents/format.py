"""The two formats of a model: the one that our adapters were trained on, and the one that any other model is told.

A format turns a view into messages, and a model's raw words into an utterance.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from crslib.dialogue.prompts import Prompt, cleaned
from crslib.dialogue.utterances import clean
from crslib.dialogue.views import Message, View


class Format(Protocol):
    """`verbatim`: whether an utterance is what the model drew, token by token. `identity`: of the format, as JSON."""

    verbatim: bool
    identity: Mapping[str, Any]

    def messages(self, view: View) -> Sequence[Message]:
        """What the model reads."""
        ...

    def read(self, raw: str) -> tuple[str, bool]:
        """The utterance in a model's words, and whether its speaker leaves with it."""
        ...


NOTHING_SAID = (
    "the model wrote no words for the other party, only thoughts or markup; raise max_tokens or change its prompt"
)


def says_something(form: Format, text: str, left: bool) -> bool:
    """Whether an utterance is one. A model that was trained may say nothing: so it leaves. One that was told has a mark
    for that."""
    return form.verbatim or bool(text) or left


class Trained:
    """Conversation format v1 (DESIGN §4): the view's own messages. A model leaves with an empty utterance."""

    verbatim = True
    identity: Mapping[str, Any] = {"name": "v1"}

    def messages(self, view: View) -> Sequence[Message]:
        return view.messages

    def read(self, raw: str) -> tuple[str, bool]:
        return clean(raw), False


class Told:
    """The prompted format (DESIGN §4): instructions from a file, and replies that are cleaned.

    `role`: who speaks. `link`: puts titles into brackets. `candidates`: names of items to choose from, by the view;
    None: the model names what it likes.
    """

    verbatim = False

    def __init__(
        self,
        prompt: Prompt,
        role: str,
        link: Callable[[str], str],
        candidates: Callable[[View], Sequence[str]] | None = None,
    ) -> None:
        self.identity: Mapping[str, Any] = {
            "name": "prompted",
            "prompt_sha256": prompt.identity,
            "candidates": candidates is not None,
        }
        self._prompt, self._role, self._link, self._candidates = prompt, role, link, candidates

    def messages(self, view: View) -> Sequence[Message]:
        return self._prompt.messages(view, self._candidates(view) if self._candidates else ())

    def read(self, raw: str) -> tuple[str, bool]:
        text, left = cleaned(raw, self._role, self._link)
        return text, left or (self._prompt.silence_ends and not raw.strip())
