"""The two formats that the project argues against, in which a model knows the target titles.

`scripted`: one model writes both sides of a dialogue and knows targets, summary and attributes. `user-target`: the user
of format v1 that also knows the targets; the recommender's view is the same as in a simulation. This module is separate
from `views`, so that the views of a simulation cannot reach the targets.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from crslib.dialogue.utterances import RECOMMENDER, USER, clean, one_line
from crslib.dialogue.views import UserKnowledge, UserView, View

SCRIPTED, USER_TARGET = "scripted", "user-target"

_SPEAKERS = {USER: "User", RECOMMENDER: "Recommender"}
# Models that were not trained on the format number their lines, set names in bold and use other names for the parties.
SPEAKER = re.compile(
    r"^[\s\d.)>#*_-]*(?:(?P<user>user|seeker|customer|human)|(?P<recommender>recommender|assistant|system|bot))"
    r"[\s*_]*:(?:\*\*|__)?\s*",
    re.IGNORECASE,
)
"""How a line begins that names its speaker: group `user` or `recommender`."""
LINE_END = re.compile(r"\r\n?|\n")
"""What ends a line; `str.splitlines` would cut at characters that stand inside texts."""


@dataclass(frozen=True)
class TargetKnowledge(UserKnowledge):
    """A user's knowledge with the names of the target items (`Title (Year)`)."""

    titles: tuple[str, ...] = ()

    def system(self) -> str:
        """The system message of a `UserView`, with a line of the targets' names, if there are any."""
        return "\n".join([super().system(), *_line("You hope to hear of: ", self.titles)])


class TargetUserView(UserView):
    """A `UserView` that also knows the targets."""

    def __init__(self, knowledge: TargetKnowledge) -> None:
        super().__init__(knowledge)


class ScriptView(View):
    """The view of a model that writes the whole dialogue as its one message, in the lines of `script`."""

    role = SCRIPTED

    def __init__(self, knowledge: TargetKnowledge) -> None:
        lines = [knowledge.domain.system.script]
        if knowledge.summary:
            lines.append(f"About the user: {one_line(knowledge.summary)}")
        if knowledge.attributes:
            lines.append(f"Looking for: {one_line(knowledge.attributes)}")
        super().__init__("\n".join([*lines, *_line("The recommender suggests: ", knowledge.titles)]), knowledge.domain)
        self.knowledge = knowledge


def script(turns: Sequence[tuple[str, str]]) -> str:
    """A dialogue of (role, text) as one text: a line per turn, which begins with the speaker."""
    return "\n".join(f"{_SPEAKERS[role]}: {one_line(text)}" for role, text in turns)


def parse_script(text: str) -> list[tuple[str, str]]:
    """The turns (role, text) of a generated script; parties alternate, texts are as `utterances.clean` returns them.

    A line without a speaker continues the line before. Successive lines of one speaker are one turn. Text before the
    first speaker and empty turns are left out.
    """
    return _merged((role, clean(words)) for role, words in _spoken(text))


def last_turn(text: str) -> tuple[str, str]:
    """Role and raw text of the turn that a script so far stops in; both empty before the first speaker."""
    spoken = _spoken(text)
    role = spoken[-1][0] if spoken else ""
    return role, next((words for last, words in _merged(spoken)[-1:] if last == role), "")


def _spoken(text: str) -> list[tuple[str, str]]:
    """Role and words of each speaker's lines."""
    spoken: list[tuple[str, list[str]]] = []
    for line in LINE_END.split(text):
        if match := SPEAKER.match(line):
            role = USER if match["user"] else RECOMMENDER
            if not spoken or spoken[-1][0] != role:
                spoken.append((role, []))
            line = line[match.end() :]
        if spoken:
            spoken[-1][1].append(line)
    return [(role, " ".join(lines)) for role, lines in spoken]


def _merged(turns: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """`turns` without empty ones; turns of one speaker that then follow each other are joined."""
    merged: list[tuple[str, str]] = []
    for role, words in turns:
        if words.strip() and merged and merged[-1][0] == role:
            merged[-1] = (role, f"{merged[-1][1]} {words}")
        elif words.strip():
            merged.append((role, words))
    return merged


def _line(opening: str, titles: Sequence[str]) -> list[str]:
    return [opening + "; ".join(map(one_line, titles))] if titles else []
