"""Human dialogues as dataclasses, and as tables of a run. Knows nothing of file formats."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
    """All that one party says before the other answers, in format v1. `n_messages`: None where it is not recorded."""

    role: str
    text: str
    mentions: tuple[Mention, ...]
    n_messages: int | None


@dataclass(frozen=True)
class Item:
    """An item of the dialogue and what the seeker thinks of it; None: not known.

    `suggested`: the recommender named it first. `liked` of an item not seen: the seeker would like to see it.
    `source`: who filled in the form with these answers, `user` or `recommender`; empty without a form.
    """

    name: str
    suggested: bool | None
    seen: bool | None
    liked: bool | None
    source: str


@dataclass(frozen=True)
class Dialogue:
    """One conversation; turns alternate between the parties. `user` and `recommender` are ids of persons, `items` maps
    the id of every item to what is known of it.

    `summary` and `attributes`: what the seeker was told, where the corpus says so. `targets`: ids of the items that the
    recommender was to find; the parties' views never hold them. None: the corpus does not say.
    """

    dialogue_id: str
    user: str
    recommender: str
    turns: tuple[Turn, ...]
    items: Mapping[str, Item]
    summary: str | None = None
    attributes: str | None = None
    targets: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Contents:
    """What a file of human dialogues holds, items under the names that it gives them.

    `marked`: it marks all titles in its texts; else others may stand there too. `facts`: table `items` of what it says
    of items. `left_out`: what is left out or not as it was, in words, and how often.
    """

    dialogues: tuple[Dialogue, ...]
    marked: bool
    facts: pl.DataFrame = field(default_factory=lambda: schemas.empty("items"))
    left_out: Mapping[str, int] = field(default_factory=dict)


def merge_messages(messages: Iterable[tuple[str, str, Sequence[str]]], *, counted: bool = True) -> tuple[Turn, ...]:
    """Turns from messages (role, text in format v1, ids of the items it mentions). Empty messages are left out.

    `counted`: the messages are as they were sent, so that `n_messages` is known.
    """
    merged: list[tuple[str, list[str], list[str]]] = []
    for role, text, ids in messages:
        if not text:
            continue
        if not merged or merged[-1][0] != role:
            merged.append((role, [], []))
        merged[-1][1].append(text)
        merged[-1][2].extend(ids)
    turns: list[Turn] = []
    for role, texts, ids in merged:
        text = " ".join(texts)
        spans = zip(ids, utterances.mentions(text), strict=True)
        mentions = tuple(Mention(item_id, *span) for item_id, span in spans)
        turns.append(Turn(role, text, mentions, len(texts) if counted else None))
    return tuple(turns)


def untitled(name: str) -> str:
    """The id of an item that is in no catalogue."""
    return utterances.item_key({"item_id": None, "title": name})


def in_catalogue(item_id: str) -> str | None:
    """An item's id; None for one of `untitled`."""
    return None if item_id.startswith(untitled("")) else item_id


def conversation(
    dialogue_id: str,
    messages: Iterable[tuple[str, str]],
    *,
    user: str = "",
    items: Mapping[str, Item] | None = None,
    counted: bool = True,
    **told: Any,
) -> Dialogue:
    """A dialogue from messages (role, text in format v1), items under the ids of `untitled`.

    `user`: who seeks; where that is unknown somebody else in every dialogue, as who recommends. `items`: what is known
    of some items, by name. `told`: `summary`, `attributes` and `targets`, names, of the dialogue.
    """
    spoken = [(role, text, [untitled(name) for name, _, _ in utterances.mentions(text)]) for role, text in messages]
    turns = merge_messages(spoken, counted=counted)
    known = {mention.item_id: Item(mention.name, None, None, None, "") for turn in turns for mention in turn.mentions}
    known |= {untitled(name): item for name, item in (items or {}).items()}
    first = first_speakers(turns)
    for item_id, item in known.items():
        if item.suggested is None and item_id in first:
            known[item_id] = replace(item, suggested=first[item_id] == RECOMMENDER)
    if told.get("targets") is not None:
        told["targets"] = tuple(map(untitled, told["targets"]))
    persons = (user or f"user of {dialogue_id}", f"recommender of {dialogue_id}")
    return Dialogue(dialogue_id, *persons, turns, known, **told)


def first_speakers(turns: Sequence[Turn]) -> dict[str, str]:
    """The role that mentions each item first, by item id, in the order of the mentions."""
    first: dict[str, str] = {}
    for turn in turns:
        for mention in turn.mentions:
            first.setdefault(mention.item_id, turn.role)
    return first


def frames(dialogues: Sequence[Dialogue]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Human dialogues as the tables `dialogues` and `turns` of a run, condition `human`, without ids of persons.

    The notes of a user's turn are that person's answers on the items of the recommender's turn before it.
    """
    dialogue_rows, turn_rows = [], []
    for dialogue in dialogues:
        dialogue_rows.append(
            {
                "dialogue_id": dialogue.dialogue_id,
                "run_id": "",
                "profile_id": "",
                "condition": "human",
                "opener": dialogue.turns[0].role if dialogue.turns else RECOMMENDER,
                "seed": 0,
                "stop_reason": "user_left",
                "n_turns": len(dialogue.turns),
                "user_style": None,
                "recommender_style": None,
            }
        )
        before: tuple[Mention, ...] = ()
        for number, turn in enumerate(dialogue.turns):
            turn_rows.append(
                {
                    "dialogue_id": dialogue.dialogue_id,
                    "turn": number,
                    "role": turn.role,
                    "text": turn.text,
                    "items": [
                        {"item_id": in_catalogue(m.item_id), "title": m.name, "start": m.start, "end": m.end}
                        for m in turn.mentions
                    ],
                    "notes": noted(dialogue, before) if turn.role == USER else [],
                    "n_tokens": None,
                    "mean_logprob": None,
                    "finish": "end",
                }
            )
            before = turn.mentions if turn.role == RECOMMENDER else ()
    return (
        pl.DataFrame(dialogue_rows, schema=dict(schemas.TABLES["dialogues"])),
        pl.DataFrame(turn_rows, schema=dict(schemas.TABLES["turns"])),
    )


def noted(dialogue: Dialogue, mentions: Sequence[Mention]) -> list[dict[str, Any]]:
    """The seeker's answers on the items of `mentions`, each once, as rows of `schemas.NOTE`; without answers none."""
    notes: list[dict[str, Any]] = []
    for item_id in dict.fromkeys(mention.item_id for mention in mentions):
        item = dialogue.items[item_id]
        if item.seen is not None or item.liked is not None:
            notes.append({"item_id": in_catalogue(item_id), "title": item.name, "seen": item.seen, "liked": item.liked})
    return notes
