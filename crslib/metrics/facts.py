"""Counts of what happens in dialogues, as numbers without texts: the same for simulated and for human ones.

Most metrics of realism, recommendation, diversity and consistency read only these frames, so that runs can be compared
with human dialogues of which no text is stored. Knows nothing of profiles and targets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from crslib.dialogue.domain import Domain
from crslib.dialogue.reactions import replies
from crslib.dialogue.utterances import USER
from crslib.dialogue.words import n_words, words
from crslib.schemas import Schema

FRAMES: Mapping[str, Schema] = {
    # One row per utterance that is not empty. `utterance` numbers its words: equal words, equal number.
    "turns": {
        "dialogue_id": pl.String,
        "turn": pl.Int32,
        "role": pl.String,
        "n_words": pl.Int32,
        "n_items": pl.Int32,
        "asks": pl.Boolean,
        "utterance": pl.Int32,
    },
    # One row per item mention, in order. `item` is the item id, or the words of a title that is not in the catalogue.
    "mentions": {
        "dialogue_id": pl.String,
        "turn": pl.Int32,
        "role": pl.String,
        "item": pl.String,
        "linked": pl.Boolean,
    },
    # One row per item that the recommender named in the turn before a user's turn: what the user's note says of it
    # and what the user's words say.
    "reactions": {
        "dialogue_id": pl.String,
        "turn": pl.Int32,
        "item": pl.String,
        "note_seen": pl.Boolean,
        "note_liked": pl.Boolean,
        "says_seen": pl.Boolean,
        "says_liked": pl.Boolean,
    },
}


@dataclass(frozen=True)
class Facts:
    """The frames of `FRAMES`, sorted; `dialogue_ids` also holds dialogues without utterances, sorted."""

    dialogue_ids: pl.Series
    turns: pl.DataFrame
    mentions: pl.DataFrame
    reactions: pl.DataFrame


def facts(dialogues: pl.DataFrame, turns: pl.DataFrame, domain: Domain) -> Facts:
    """Counts of the tables `dialogues` and `turns` of a domain. Turns without text do not count."""
    turns = turns.filter(pl.col("text").str.strip_chars() != "").sort("dialogue_id", "turn")
    spoken = pl.Series("utterance", [" ".join(words(text)) for text in turns["text"]], dtype=pl.String)
    counted = turns.select(
        "dialogue_id",
        "turn",
        "role",
        n_words().alias("n_words"),
        pl.col("items").list.len().cast(pl.Int32).alias("n_items"),
        pl.col("text").str.contains("?", literal=True).alias("asks"),
        (spoken.rank("dense") - 1).cast(pl.Int32).alias("utterance"),
    )
    return Facts(
        dialogues["dialogue_id"].unique().sort().alias("dialogue_id"),
        counted.cast(pl.Schema(FRAMES["turns"])),
        _mentions(turns),
        _reactions(turns, domain),
    )


def _mentions(turns: pl.DataFrame) -> pl.DataFrame:
    rows = turns.select("dialogue_id", "turn", "role", "items").explode("items").drop_nulls("items").unnest("items")
    unlinked = pl.concat_str(pl.lit("title: "), pl.col("title").str.to_lowercase())
    return rows.select(
        "dialogue_id",
        "turn",
        "role",
        pl.coalesce("item_id", unlinked).alias("item"),
        pl.col("item_id").is_not_null().alias("linked"),
    ).cast(pl.Schema(FRAMES["mentions"]))


def _reactions(turns: pl.DataFrame, domain: Domain) -> pl.DataFrame:
    rows = []
    columns = ("dialogue_id", "turn", "role", "text", "items", "notes")
    before: Mapping[str, Any] | None = None
    for turn in turns.select(columns).iter_rows(named=True):
        if before and before["dialogue_id"] == turn["dialogue_id"] and turn["role"] == USER:
            for reply in replies(before, turn, domain):
                answers = (reply.note.seen, reply.note.liked, reply.says.seen, reply.says.liked)
                rows.append((turn["dialogue_id"], turn["turn"], reply.item, *answers))
        before = turn
    return pl.DataFrame(rows, schema=dict(FRAMES["reactions"]), orient="row")
