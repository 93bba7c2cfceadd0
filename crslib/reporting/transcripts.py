"""Dialogues of a run for a page, with private notes, the user's profile and the hidden targets."""

from collections.abc import Iterable
from typing import Any

import polars as pl

from crslib.data.catalog import item_names
from crslib.dialogue import utterances, views
from crslib.dialogue.domain import Domain, of_run
from crslib.dialogue.stop_reasons import STOP_REASONS
from crslib.errors import CrsError
from crslib.identity import derive_seed
from crslib.store import Run

MOST = 400  # dialogues on one page: a megabyte or two
_WORDS = 5  # fewer are a greeting


def drawn(dialogues: pl.DataFrame, seed: int) -> str | None:
    """The id of one dialogue with at least two turns, drawn by `seed`; None where there is no dialogue."""
    spoken = dialogues.filter(pl.col("n_turns") >= 2)
    ids = (dialogues if spoken.is_empty() else spoken)["dialogue_id"].sort()
    return ids[derive_seed(seed, "shown") % len(ids)] if len(ids) else None


def spread(dialogues: pl.DataFrame, most: int = MOST) -> pl.DataFrame:
    """All dialogues; `most` of them, evenly spaced, where there are more."""
    n = dialogues.height
    return dialogues if n <= most else dialogues[[i * n // most for i in range(most)]]


def pages(run: Run, shown: pl.DataFrame) -> list[dict[str, Any]]:
    """The dialogues `shown` (rows of table `dialogues`) for a page, in their order: the user's profile, hidden
    `targets`, whether one was named (`hit`), `turns` with notes and `pieces` (the text cut at its items, without
    brackets), the `first` words of the user, and the `ending`. Raises `CrsError` for a dialogue whose profile the run
    lacks."""
    profiles = {row["profile_id"]: row for row in run.read("profiles").iter_rows(named=True)}
    names, domain = item_names(run.read("items")), of_run(run)
    liked = run.read("holdouts").filter("liked").join(shown, on="profile_id", how="semi").sort("profile_id", "item_id")
    turns = run.read("turns").join(shown, on="dialogue_id", how="semi").partition_by("dialogue_id", as_dict=True)
    pages = []
    for dialogue in shown.iter_rows(named=True):
        if (profile := profiles.get(dialogue["profile_id"])) is None:
            raise CrsError(
                f"{run.path / 'profiles.parquet'} lacks the profile {dialogue['profile_id']!r} of dialogue "
                f"{dialogue['dialogue_id']!r}; make the run again"
            )
        targets = liked.filter(profile_id=dialogue["profile_id"])["item_id"].to_list()
        spoken = turns.get((dialogue["dialogue_id"],), pl.DataFrame())
        named = {item["item_id"] for turn in spoken.iter_rows(named=True) for item in turn["items"]}
        pages.append(
            {
                "id": dialogue["dialogue_id"],
                "opener": dialogue["opener"],
                "summary": profile["summary"],
                "attributes": profile["attributes"],
                "k": profile["k_anonymity"],
                "labels": domain.labels,
                "targets": [
                    {"text": names[item], "css": "item target" if item in named else ""}
                    for item in sorted(targets, key=lambda item: (item not in named, names[item]))
                ],
                "turns": [_turn(turn, set(targets), domain) for turn in spoken.iter_rows(named=True)],
                "first": _first(spoken),
                "hit": any(item in named for item in targets),
                "ending": STOP_REASONS.get(dialogue["stop_reason"], dialogue["stop_reason"]),
            }
        )
    return pages


def _first(turns: pl.DataFrame) -> str:
    """What the user says first that is more than a greeting, on one line; else all that it says first."""
    said = [utterances.plain(row["text"]) for row in turns.iter_rows(named=True) if row["role"] == utterances.USER]
    return next((text for text in said if len(text.split()) >= _WORDS), said[0] if said else "")


def _turn(turn: dict[str, Any], targets: set[str], domain: Domain) -> dict[str, Any]:
    notes = [views.Note.of(note) for note in turn["notes"]]
    return {
        "turn": turn["turn"],
        "role": turn["role"],
        "notes": views.note_line(notes, domain),
        "pieces": list(_pieces(turn, targets)),
    }


def _pieces(turn: dict[str, Any], targets: set[str]) -> Iterable[dict[str, str]]:
    """An utterance cut at its items, without brackets."""
    parts = utterances.between(turn["text"], [(item["start"], item["end"]) for item in turn["items"]])
    for item, after in zip([None, *turn["items"]], parts, strict=True):
        if item is not None:
            css = "item target" if item["item_id"] in targets else "item" if item["item_id"] else "item unknown"
            yield {"text": item["title"], "css": css}
        if after:
            yield {"text": after, "css": ""}
