"""Small dialogues written by hand, as the tables the metrics read."""

from collections.abc import Mapping, Sequence

import polars as pl

from crslib import schemas
from crslib.dialogue.utterances import mentions

NAMES = {
    "Heat (1995)": "1",
    "The Matrix (1999)": "2",
    "Notting Hill (1999)": "3",
    "King Kong (1933)": "4",
    "King Kong (2005)": "5",
    "Up (2009)": "6",
}


def table(name: str, rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Rows as table `name`; columns that are not given are null, lists empty."""
    schema = dict(schemas.TABLES[name])
    blank = {column: [] if isinstance(dtype, pl.List) else None for column, dtype in schema.items()}
    return pl.DataFrame([{**blank, **row} for row in rows], schema=schema)


def talk(
    dialogues: Mapping[str, Sequence[str]],
    notes: Mapping[tuple[str, int], Sequence[tuple[str, bool | None, bool | None]]] | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables `dialogues` and `turns` from utterances `U: …` and `R: …`; profile p of dialogue p.0 (or p).

    `notes`: (dialogue, turn) → (name, seen, liked) of the items that the user's turn answers.
    """
    heads, rows = [], []
    for dialogue_id, utterances in dialogues.items():
        heads.append(
            {
                "dialogue_id": dialogue_id,
                "run_id": "run",
                "profile_id": dialogue_id.partition(".")[0],
                "condition": "test",
                "opener": "user" if utterances and utterances[0][0] == "U" else "recommender",
                "seed": 0,
                "stop_reason": "user_left",
                "n_turns": len(utterances),
                "user_style": None,
                "recommender_style": None,
            }
        )
        for number, utterance in enumerate(utterances):
            text = utterance[3:]
            of_turn = (notes or {}).get((dialogue_id, number), ())
            rows.append(
                {
                    "dialogue_id": dialogue_id,
                    "turn": number,
                    "role": "user" if utterance[0] == "U" else "recommender",
                    "text": text,
                    "items": [
                        {"item_id": NAMES.get(name), "title": name, "start": start, "end": end}
                        for name, start, end in mentions(text)
                    ],
                    "notes": [
                        {"item_id": NAMES.get(name), "title": name, "seen": seen, "liked": liked}
                        for name, seen, liked in of_turn
                    ],
                    "finish": "end",
                }
            )
    return table("dialogues", heads), table("turns", rows)


def share(parts: pl.DataFrame, metric: str) -> float | None:
    """Σ part / Σ whole of a metric; None without such a row."""
    rows = parts.filter(pl.col("metric") == metric)
    return rows["part"].sum() / rows["whole"].sum() if len(rows) else None
