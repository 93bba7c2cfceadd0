"""Every metric takes whatever an import accepts: names without letters, control tokens, brackets, other scripts."""

from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crslib.config import ROOT
from crslib.data.catalog import Catalog
from crslib.dialogue import stances
from crslib.dialogue.utterances import RECOMMENDER, USER, clean, item_name, mention
from crslib.metrics import METRICS, evaluate, reference
from tests.support.domains import MOVIES
from tests.support.fuzz import tries
from tests.support.metrics_frames import table
from tests.support.texts import TEXT

HUMAN = reference.read(ROOT / "data" / "human")
NAME = st.one_of(
    TEXT, st.sampled_from(["---", "'", ".", "…", "!?", "李小龙", "🎬", "R&B", "the", "1984", "s", "%"])
).filter(lambda text: bool(text.strip()))
NAMES = st.lists(NAME, max_size=2, unique=True)
ITEM = st.fixed_dictionaries(
    {
        "title": NAME, "year": st.one_of(st.none(), st.integers(1890, 2030)), "kinds": NAMES, "makers": NAMES,
        "people": NAMES,
    }
)  # fmt: skip
UTTERANCE = st.tuples(TEXT, st.one_of(st.none(), st.integers(0, 3)), st.booleans(), st.booleans())
DIALOGUE = st.lists(UTTERANCE, min_size=1, max_size=4)


@given(st.lists(ITEM, min_size=4, max_size=4), st.lists(DIALOGUE, min_size=2, max_size=3))
@settings(max_examples=tries(10))
def test_every_metric_takes_any_catalogue_and_dialogue(
    films: list[dict[str, Any]], dialogues: list[list[tuple[str, int | None, bool, bool]]]
) -> None:
    items = table("items", [{**film, "item_id": str(n), "n_ratings": 3} for n, film in enumerate(films)])
    first = films[0]
    profile = {
        "k_anonymity": 20, "n_visible": 15, "summary": f"You loved {first['title']}.", "attributes": "",
        "liked_kinds": films[1]["kinds"], "disliked_kinds": films[2]["kinds"], "loved_items": ["1"],
        "disliked_items": ["2"], "liked_makers": first["makers"], "target_kinds": first["kinds"],
        "target_decade": 1990, "target_person": next(iter(first["people"]), None),
        "target_maker": next(iter(first["makers"]), None),
    }  # fmt: skip
    ids = [f"p{n}" for n in range(len(dialogues))]
    turns = [row for name, said in zip(ids, dialogues, strict=True) for row in rows(name, said, items)]
    prompts = [{**{key: turn[key] for key in ("dialogue_id", "turn", "role", "text")}, "n_tokens": 1} for turn in turns]
    heads = [
        {"dialogue_id": name, "run_id": "r", "profile_id": name, "condition": "c", "opener": USER, "seed": 0,
         "stop_reason": "max_turns", "n_turns": len(said)}
        for name, said in zip(ids, dialogues, strict=True)
    ]  # fmt: skip
    evaluation = evaluate(
        "r",
        table("profiles", [{**profile, "profile_id": name, "user_id": name} for name in ids]),
        table("holdouts", [{"profile_id": name, "item_id": "3", "rating": 5.0, "liked": True} for name in ids]),
        items,
        table("ratings", [{"user_id": name, "item_id": "1", "rating": 4.0} for name in ids]),
        table("dialogues", heads),
        table("turns", turns),
        table("prompts", prompts),
        HUMAN,
        MOVIES,
        n_bootstrap=100,
        seed=0,
    )
    values = evaluation.metrics.filter(pl.col("unit") == "share").select("metric", "value")
    assert len(values)
    assert all(0 <= value <= 1 for _, value in values.iter_rows()), values
    assert set(evaluation.metrics["metric"]) <= set(METRICS)


def rows(name: str, said: Sequence[tuple[str, int | None, bool, bool]], items: pl.DataFrame) -> list[dict[str, Any]]:
    """Turns of (text, item that is named, seen, liked), with notes on what the turn before named."""
    catalog, turns = Catalog(items, MOVIES), list[dict[str, Any]]()
    for number, (text, item, seen, liked) in enumerate(said):
        named = "" if item is None else mention(item_name(items["title"][item], items["year"][item]))
        words = clean(f"{text} {named}")
        items_of = sorted([*catalog.link(words), *catalog.spot(words)], key=lambda row: row["start"])
        role = RECOMMENDER if number % 2 else USER
        before = turns[-1]["items"] if turns and role == USER else []
        notes = [{"item_id": row["item_id"], "title": row["title"], "seen": seen, "liked": liked} for row in before]
        turns.append(
            {"dialogue_id": name, "turn": number, "role": role, "text": words, "items": items_of,
             "notes": notes, "n_tokens": 1, "finish": "end"}
        )  # fmt: skip
    return turns


@pytest.mark.parametrize("name", ["---", "'", "🎬", "…"])
def test_a_name_without_letters_is_said_by_its_own_characters(name: str) -> None:
    wishes = dict(stances.wishes({"target_kinds": [name], "target_decade": None, "target_maker": name}, MOVIES))
    assert list(wishes) == [name]
    assert wishes[name](f"something by {name} please")
    assert not wishes[name]("something by somebody")
