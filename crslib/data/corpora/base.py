"""The shape every corpus of human dialogues is read into, and the same as tables of a run.

Knows nothing of file formats; the loaders beside it do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from crslib import schemas
from crslib.dialogue import utterances
from crslib.dialogue.utterances import RECOMMENDER, USER


@dataclass(frozen=True)
class Mention:
    """An item named in an utterance: `text[start:end]` is `[[name]]`, brackets included."""

    item_id: str
    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Turn:
    """All that one party says before the other answers, in format v1. `n_messages`: None where it was not recorded."""

    role: str
    text: str
    mentions: tuple[Mention, ...]
    n_messages: int | None


@dataclass(frozen=True)
class Item:
    """What is known of the seeker and an item of the dialogue; None means not said.

    `suggested`: the recommender brought it up. `liked` of an item not seen means: would like to see it.
    `source`: whose form the answers come from, `user`, `recommender` (who answered for the seeker) or empty.
    """

    name: str
    suggested: bool | None
    seen: bool | None
    liked: bool | None
    source: str


@dataclass(frozen=True)
class Dialogue:
    """One conversation; turns alternate between the parties. `items` holds every item of it, keyed by item id."""

    dialogue_id: str
    user: str
    recommender: str
    turns: tuple[Turn, ...]
    items: Mapping[str, Item]


def merged(messages: Iterable[tuple[str, str, Sequence[str]]], *, counted: bool = True) -> tuple[Turn, ...]:
    """Messages (role, text in format v1, ids of the items it mentions) as turns; empty messages go.

    `counted`: whether the messages are as people sent them, so that their number in a turn means something.
    """
    spoken: list[tuple[str, list[str], list[str]]] = []
    for role, text, ids in messages:
        if not text:
            continue
        if not spoken or spoken[-1][0] != role:
            spoken.append((role, [], []))
        spoken[-1][1].append(text)
        spoken[-1][2].extend(ids)
    turns = []
    for role, texts, ids in spoken:
        text = " ".join(texts)
        found = zip(ids, utterances.mentions(text), strict=True)
        mentions = tuple(Mention(item_id, *span) for item_id, span in found)
        turns.append(Turn(role, text, mentions, len(texts) if counted else None))
    return tuple(turns)


def first_speakers(turns: Sequence[Turn]) -> dict[str, str]:
    """Who mentioned each item first (item id to role), in the order of the mentions."""
    first: dict[str, str] = {}
    for turn in turns:
        for mention in turn.mentions:
            first.setdefault(mention.item_id, turn.role)
    return first


def frames(dialogues: Sequence[Dialogue]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Human dialogues as the tables `dialogues` and `turns` of a run, condition `human`, without persons.

    A user turn's notes are the person's own answers on the items of the recommender's turn before it.
    """
    heads, rows = [], []
    for dialogue in dialogues:
        heads.append(
            {
                "dialogue_id": dialogue.dialogue_id,
                "run_id": "",
                "profile_id": "",
                "condition": "human",
                "opener": dialogue.turns[0].role if dialogue.turns else RECOMMENDER,
                "seed": 0,
                "stop_reason": "user_left",
                "n_turns": len(dialogue.turns),
            }
        )
        heard: tuple[Mention, ...] = ()
        for number, turn in enumerate(dialogue.turns):
            rows.append(
                {
                    "dialogue_id": dialogue.dialogue_id,
                    "turn": number,
                    "role": turn.role,
                    "text": turn.text,
                    "items": [
                        {"item_id": m.item_id, "title": m.name, "start": m.start, "end": m.end} for m in turn.mentions
                    ],
                    "notes": _notes(dialogue, heard) if turn.role == USER else [],
                    "n_tokens": None,
                    "mean_logprob": None,
                    "finish": "end",
                }
            )
            heard = turn.mentions if turn.role == RECOMMENDER else ()
    return (
        pl.DataFrame(heads, schema=dict(schemas.TABLES["dialogues"])),
        pl.DataFrame(rows, schema=dict(schemas.TABLES["turns"])),
    )


def _notes(dialogue: Dialogue, heard: Sequence[Mention]) -> list[dict[str, object]]:
    notes = []
    for item_id in dict.fromkeys(mention.item_id for mention in heard):
        item = dialogue.items[item_id]
        if item.seen is not None or item.liked is not None:
            notes.append({"item_id": item_id, "title": item.name, "seen": item.seen, "liked": item.liked})
    return notes
