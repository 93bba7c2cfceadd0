"""Conversation format v1 (DESIGN §4): how a dialogue looks to each party. The information barrier is in the types.

A `UserView` is built from what a user simulator may know; a `RecommenderView` is built from nothing, so there is no
parameter through which a profile could reach it. Neither knows of held-out items. Text never becomes a control
token: only the template's own text is tokenized with control tokens, and no message text passes through the template.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crslib.dialogue.utterances import one_line

RECOMMENDER_SYSTEM = "You are a movie recommender."


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


NOTE_KINDS: Mapping[tuple[bool, bool], str] = {
    (True, True): "seen_liked",
    (True, False): "seen_disliked",
    (False, True): "unseen_interested",
    (False, False): "unseen_uninterested",
}
