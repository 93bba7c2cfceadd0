"""Conversation format v1 (DESIGN §4): how a dialogue looks to each party. The information barrier is in the types.

A `UserView` is built from what a user simulator may know; a `RecommenderView` is built from nothing, so there is no
parameter through which a profile could reach it. Neither knows of held-out items. Text never becomes a control
token: only the template's own text is tokenized with control tokens, and no message text passes through the template.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jinja2 import TemplateError
from jinja2.exceptions import TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from crslib.errors import CrsError

USER, RECOMMENDER = "user", "recommender"
RECOMMENDER_SYSTEM = "You are a movie recommender."
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_MENTION = re.compile(r"\[\[([^\[\]]+)\]\]")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ue000-\uf8ff]+")


# ── utterances ──────────────────────────────────────────────────────────────────────────────────────────────────


def one_line(text: str) -> str:
    """`text` on one line: line breaks, invisible, direction and private-use characters become single blanks."""
    return " ".join(_UNSEEN.sub(" ", text).split())


def item_name(title: str, year: int | None) -> str:
    """`Title (Year)`, or the bare title without a year; double brackets in a title become single ones."""
    name = re.sub(r"\[+", "[", re.sub(r"\]+", "]", one_line(title)))
    return name if year is None else f"{name} ({year})"


def mention(name: str) -> str:
    """An item name as it stands in an utterance: `[[Title (Year)]]`. Single brackets inside become round ones."""
    return f"[[{name.replace('[', '(').replace(']', ')')}]]"


def clean(text: str) -> str:
    """A model's raw utterance as the other party gets it: one line, no bracket that does not belong to a mention."""
    parts = _MENTION.split(one_line(text))
    outside = [part.replace("[[", "").replace("]]", "") for part in parts[::2]]
    inside = [f"[[{part.strip()}]]" if part.strip() else "" for part in parts[1::2]] + [""]
    return " ".join("".join(a + b for a, b in zip(outside, inside, strict=True)).split())


def mentions(text: str) -> list[tuple[str, int, int]]:
    """The item names in an utterance with their character spans, brackets included."""
    return [(match[1], match.start(), match.end()) for match in _MENTION.finditer(text)]


def plain(text: str) -> str:
    """An utterance as people read it: mentions without their brackets."""
    return _MENTION.sub(r"\1", text)


# ── what the user privately knows ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Note:
    """What the user remembers or thinks of an item that was mentioned. None: nothing known in that respect."""

    name: str
    seen: bool | None
    liked: bool | None

    def __str__(self) -> str:
        seen = {True: "seen", False: "not seen", None: ""}[self.seen]
        words = ("interested", "not interested") if self.seen is False else ("liked", "disliked")
        liked = {True: words[0], False: words[1], None: ""}[self.liked]
        return f"{self.name}: {', '.join(part for part in (seen, liked) if part)}"


def note_line(notes: Sequence[Note]) -> str:
    """`(Title (Year): seen, liked; …)`; empty without anything to say."""
    said = [str(note) for note in notes if note.seen is not None or note.liked is not None]
    return f"({'; '.join(said)})" if said else ""


@dataclass(frozen=True)
class UserKnowledge:
    """All that a user simulator holds before the talk: texts, never items it has not met."""

    summary: str
    attributes: str

    def system(self) -> str:
        lines = ["You are chatting with a movie recommender."]
        if self.summary:
            lines.append(f"About you: {one_line(self.summary)}")
        if self.attributes:
            lines.append(f"Looking for: {one_line(self.attributes)}")
        return "\n".join(lines)


# ── views ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Message:
    """One message of a view. `role` is system, user (the other party) or assistant (oneself).

    `ids` are the token ids a model produced itself; they are kept, because text need not tokenize back to them.
    """

    role: str
    text: str
    ids: tuple[int, ...] | None = None


class View:
    """A dialogue as one party sees it: `assistant` is itself, `user` the other party."""

    def __init__(self, system: str) -> None:
        self.messages = [Message("system", system)]

    def say(self, text: str, ids: Sequence[int] | None = None) -> None:
        """The party's own utterance, with the token ids that made it, if a model did."""
        self.messages.append(Message("assistant", text, None if ids is None else tuple(ids)))


class RecommenderView(View):
    """Knows the dialogue and nothing else."""

    def __init__(self) -> None:
        super().__init__(RECOMMENDER_SYSTEM)

    def hear(self, text: str) -> None:
        """An utterance of the user."""
        self.messages.append(Message("user", text))


class UserView(View):
    """Knows the dialogue, its own summary, target attributes and private notes."""

    def __init__(self, knowledge: UserKnowledge) -> None:
        super().__init__(knowledge.system())

    def hear(self, text: str, notes: Sequence[Note] = ()) -> None:
        """An utterance of the recommender, with what the user privately knows of the items in it."""
        line = note_line(notes)
        self.messages.append(Message("user", f"{text}\n{line}" if line else text))


# ── tokens ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Tokenizer(Protocol):
    """The part of an engine that turns text into token ids."""

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Token ids of `text`; control tokens are recognised only with `control`."""
        ...


class ChatTemplate:
    """A model's own chat template (Jinja), rendered around messages whose text it never sees."""

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        self.source = source or CHATML
        self._specials = {"bos_token": bos, "eos_token": eos}
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda _format: ""  # a date in the prompt would not be reproducible
        try:
            self._template = environment.from_string(self.source)
        except TemplateSyntaxError as error:
            raise CrsError(
                f"the model's chat template is not valid Jinja ({error.message}); use another GGUF"
            ) from None

    def _render(self, messages: Sequence[Message]) -> str:
        # Private-use characters stand for the texts: `one_line` keeps them out of anything people or data bring.
        stand_ins = [{"role": m.role, "content": f"\ue000{i}\ue001"} for i, m in enumerate(messages)]
        return self._template.render(messages=stand_ins, add_generation_prompt=True, **self._specials)

    def encode(self, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
        """Token ids of the view, up to where the party's next own words begin.

        Templates that know no system role, or no assistant that opens, get the system text inside a first user
        message. Raises `CrsError` when the template refuses that too.
        """
        messages = list(messages)
        try:
            rendered = self._render(messages)
        except TemplateError:
            messages = _without_system(messages)
            try:
                rendered = self._render(messages)
            except TemplateError as error:
                raise CrsError(f"the model's chat template refuses this dialogue ({error}); use another GGUF") from None
        ids: list[int] = []
        for piece in re.split(r"(\ue000\d+\ue001)", rendered):
            if piece.startswith("\ue000"):
                message = messages[int(piece[1:-1])]
                ids += tokenizer.encode(message.text) if message.ids is None else message.ids
            elif piece:
                ids += tokenizer.encode(piece, control=True)
        return ids


def _raise(message: str) -> None:
    raise TemplateError(message)


def _without_system(messages: Sequence[Message]) -> list[Message]:
    first, *rest = messages
    if rest and rest[0].role == "user":
        return [Message("user", f"{first.text}\n\n{rest[0].text}"), *rest[1:]]
    return [Message("user", first.text), *rest]
