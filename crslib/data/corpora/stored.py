"""Dialogues that others stored, in any form, as the tables of a run. Knows nothing of file formats (`forms` reads
them), of metrics and of models."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from crslib import schemas
from crslib.data.catalog import Catalog
from crslib.dialogue import utterances
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.dialogue.views import Note

SATISFACTION = "satisfaction"  # the label that people gave
LACKING = ("profiles", "holdouts", "prompts", "models")  # what no stored dialogue has, whatever its form


@dataclass(frozen=True)
class Said:
    """One utterance. `text` has in `[[…]]` the titles that its file marks; a user's `notes` are on the items that it
    answers to. `satisfaction`: a person's label of this utterance."""

    role: str
    text: str
    notes: tuple[Note, ...] = ()
    satisfaction: float | None = None


@dataclass(frozen=True)
class Stored:
    """One dialogue. `user`: who the user is, empty where unknown; `stop_reason`: of `STOP_REASONS`, or empty;
    `satisfaction`: a person's label of the whole; `summary` and `attributes`: what the user was told, for readers."""

    dialogue_id: str
    said: tuple[Said, ...]
    user: str = ""
    stop_reason: str = ""
    satisfaction: float | None = None
    summary: str = ""
    attributes: str = ""

    def turns(self) -> Iterator[tuple[str, list[Said]]]:
        """(role, utterances) of each turn: all that one party says before the other answers. A turn has text."""
        turn: list[Said] = []
        for said in self.said:
            if not utterances.clean(said.text):
                continue
            if turn and turn[-1].role != said.role:
                yield turn[-1].role, turn
                turn = []
            turn.append(said)
        if turn:
            yield turn[-1].role, turn


@dataclass(frozen=True)
class Tables:
    """Tables `profiles` (ids, and what the user was told), `dialogues`, `turns` and `labels` of a run, and what was
    done to the dialogues: how many utterances were `empty` and left out, how many were `joined` to one of the same
    party before them, and whether titles outside brackets were looked for (`spotted`)."""

    profiles: pl.DataFrame
    dialogues: pl.DataFrame
    turns: pl.DataFrame
    labels: pl.DataFrame
    empty: int
    joined: int
    spotted: bool

    @property
    def lines(self) -> list[str]:
        """What is in the tables, in sentences."""
        items = [item["item_id"] for items in self.turns["items"] for item in items]
        n_known = sum(item is not None for item in items)
        source = "looked for in the texts" if self.spotted else "marked in the file"
        lines = [
            f"{self.dialogues.height} dialogues, {self.turns.height} turns",
            f"{len(items)} mentions of items, {source}; {n_known} of them are items of the catalogue",
        ]
        if self.empty:
            lines.append(f"{self.empty} empty utterances were left out")
        if self.joined:
            lines.append(f"{self.joined} utterances were joined with the one before, of the same party, into one turn")
        return lines


def tables(stored: Sequence[Stored], catalog: Catalog, run_id: str, condition: str, titles: str = "auto") -> Tables:
    """The dialogues as tables of a run, sorted by id.

    `titles`: which items are linked: `marked` (in `[[…]]`), `all` (also those that `Catalog.spot` finds outside), or
    `auto`: the marked ones where the file marks any, else all. A profile is a name without content: of the user, or of
    the dialogue where no user is known.
    """
    marked = any(utterances.mentions(said.text) for one in stored for said in one.said)
    spot = titles == "all" or (titles == "auto" and not marked)
    dialogues, turns = [], []
    labels: list[tuple[str, int | None, str, float]] = []
    profiles: dict[str, dict[str, Any]] = {}
    n_empty = n_joined = 0
    for one in sorted(stored, key=lambda one: one.dialogue_id):
        profile_id = one.user or one.dialogue_id
        profiles.setdefault(profile_id, _profile(profile_id, one))
        rows = []
        for turn, (role, parts) in enumerate(one.turns()):
            rows.append(_turn(one.dialogue_id, turn, role, parts, catalog, spot))
            labels += [
                (one.dialogue_id, turn, SATISFACTION, said.satisfaction)
                for said in parts
                if said.satisfaction is not None
            ]
            n_joined += len(parts) - 1
            n_empty -= len(parts)
        n_empty += len(one.said)
        if one.satisfaction is not None:
            labels.append((one.dialogue_id, None, SATISFACTION, one.satisfaction))
        dialogues.append(
            {
                "dialogue_id": one.dialogue_id,
                "run_id": run_id,
                "profile_id": profile_id,
                "condition": condition,
                "opener": rows[0]["role"] if rows else RECOMMENDER,
                "seed": 0,
                "stop_reason": one.stop_reason or "not_recorded",
                "n_turns": len(rows),
                "user_style": None,
                "recommender_style": None,
            }
        )
        turns += rows
    return Tables(
        pl.DataFrame(list(profiles.values()), schema=dict(schemas.TABLES["profiles"])).sort("profile_id"),
        pl.DataFrame(dialogues, schema=dict(schemas.TABLES["dialogues"])),
        pl.DataFrame(turns, schema=dict(schemas.TABLES["turns"])),
        pl.DataFrame(labels, schema=dict(schemas.TABLES["labels"]), orient="row"),
        n_empty,
        n_joined,
        spot,
    )


def _turn(
    dialogue_id: str, turn: int, role: str, parts: Sequence[Said], catalog: Catalog, spot: bool
) -> dict[str, Any]:
    text = " ".join(utterances.clean(said.text) for said in parts)
    if spot:
        text = catalog.bracketed(text)
    notes = [note for said in parts for note in said.notes] if role == USER else []
    return {
        "dialogue_id": dialogue_id,
        "turn": turn,
        "role": role,
        "text": text,
        "items": catalog.link(text),
        "notes": [
            {"item_id": catalog.find(note.name), "title": note.name, "seen": note.seen, "liked": note.liked}
            for note in notes
        ],
        "n_tokens": None,
        "mean_logprob": None,
        "finish": "end",
    }


def _profile(profile_id: str, one: Stored) -> dict[str, Any]:
    kinds = schemas.TABLES["profiles"].items()
    nothing: dict[str, Any] = {name: [] if isinstance(kind, pl.List) else None for name, kind in kinds}
    told = {"summary": one.summary, "attributes": one.attributes}
    return {**nothing, **told, "profile_id": profile_id, "user_id": profile_id}
