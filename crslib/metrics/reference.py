"""Statistics of human dialogues that runs are compared with. They hold no text and name no person.

Built once by `crs data reference`, from ReDial's test set or an imported corpus; the evaluation needs only the result.
Metrics that need the words themselves (distinct-n, self-BLEU) are stored as values; all others are counted from the
stored facts, so that a floor can be computed for any number of dialogues.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from crslib import files, json_files, schemas, stats, store
from crslib.config import resolve
from crslib.data.corpora import Dialogue, frames, redial
from crslib.data.titles import split_year
from crslib.dialogue import acts as dialogue_acts
from crslib.dialogue.credits import Credits
from crslib.dialogue.domain import Domain
from crslib.dialogue.domain import read as read_domain
from crslib.dialogue.views import Wishes
from crslib.errors import CrsError
from crslib.metrics import consistency, diversity, leakage, truth
from crslib.metrics.facts import FRAMES, Facts, facts
from crslib.schemas import STRICT, Measured

N_BOOTSTRAP, SEED = 1000, 0
_LIMITS = {"distinct_words": diversity.BUDGET, "self_bleu_utterances": diversity.SAMPLE}


@with_config(STRICT)
class _Stored(TypedDict):
    """`reference.json`."""

    domain: str
    limits: dict[str, int | str]
    metrics: dict[str, Measured]


_STORED = TypeAdapter(_Stored)


@dataclass(frozen=True)
class Human:
    """`facts` of the human dialogues; `acts` of their turns (`dialogue.acts.SCHEMA`), labelled by `tagger`;
    `reference`: metric → value, low, high, n of the metrics that need their texts; `domain`: what they talk about."""

    facts: Facts
    acts: pl.DataFrame
    tagger: dialogue_acts.Tagger
    reference: Mapping[str, Any]
    domain: Domain


def measure(
    dialogues: Sequence[Dialogue],
    domain: Domain,
    wanted: Sequence[Wishes] = (),
    items: pl.DataFrame | None = None,
) -> Human:
    """The statistics of human dialogues. Dialogues are numbered in their order; items keep the corpus's ids.

    `domain`: what they are about; `wanted`: what the seeker of each looks for, () where nobody knows; `items`: table
    `items`, the facts by which statements are true; None: those of ReDial's items.
    """
    numbered = anonymous(dialogues)
    rows, turns = frames(numbered)
    estimates = diversity.texts(turns, times=N_BOOTSTRAP, seed=SEED)
    # The closest match to a held-out item: what was to be found, else what the recommender suggested and the seeker
    # liked, by the form.
    targets = [
        (dialogue.dialogue_id, item_id)
        for dialogue in numbered
        for item_id, item in dialogue.items.items()
        if (item.suggested and item.liked if dialogue.targets is None else item_id in dialogue.targets)
    ]
    items = _facts() if items is None else items
    profiles = _profiles(numbered, wanted)
    counted = [
        truth.parts(turns, Credits.of(items, domain)),
        diversity.repetition(turns),
        consistency.later_parts(turns, domain),
        consistency.own_items_parts(turns, rows.with_columns(profile_id="dialogue_id"), profiles, items, domain),
    ]
    named = leakage.named_by_user_first(
        turns,
        pl.DataFrame(targets, schema={"dialogue_id": pl.String, "item_id": pl.String}, orient="row"),
        _items(numbered),
    )
    estimates |= stats.ratios(pl.concat([named, *counted]), rows["dialogue_id"], times=N_BOOTSTRAP, seed=SEED)
    counts = [[turn.n_messages for turn in dialogue.turns] for dialogue in numbered]
    if not any(None in of_turns for of_turns in counts):
        messages = np.array([sum(n or 0 for n in of_turns) for of_turns in counts], dtype=float)
        if (mean := stats.ratio(messages, np.ones(len(messages)), times=N_BOOTSTRAP, seed=SEED)) is not None:
            estimates["messages"] = mean
    tagger = dialogue_acts.read()
    stored = {name: estimate.record for name, estimate in sorted(estimates.items())}
    return Human(facts(rows, turns, domain), tagger.tag(turns), tagger, stored, domain)


def anonymous(dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    """The same dialogues without persons, with their number as id."""
    return [
        Dialogue(f"{number:04d}", "", "", one.turns, one.items, targets=one.targets)
        for number, one in enumerate(dialogues)
    ]


def write(human: Human, folder: Path) -> None:
    """Stores the statistics as Parquet and JSON. Raises `CrsError` when the folder cannot be written."""
    for name in FRAMES:
        files.write_parquet(getattr(human.facts, name), folder / f"{name}.parquet")
    files.write_parquet(human.acts, folder / "acts.parquet")
    limits = {**_LIMITS, "tagger": human.tagger.identity}
    content = {"domain": human.domain.name, "limits": limits, "metrics": human.reference}
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
    with files.writing(folder / "reference.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read(folder: Path) -> Human:
    """Stored statistics. Raises `CrsError` when a file is missing or damaged, or was made with other limits or another
    tagger than the one in `data/acts`."""
    tables = {}
    for name, schema in {**FRAMES, "acts": dialogue_acts.SCHEMA}.items():
        path = folder / f"{name}.parquet"
        try:
            tables[name] = pl.read_parquet(path, glob=False)
        except files.DAMAGED:
            raise CrsError(f"{path} is missing or damaged; make it with `crs data reference --redial PATH`") from None
        if dict(tables[name].schema) != dict(schema):
            raise CrsError(f"{path} has other columns than expected; make it with `crs data reference --redial PATH`")
    path = folder / "reference.json"
    try:
        content = json_files.read_as(path, _STORED, "")
    except CrsError:
        raise CrsError(f"{path} is missing or damaged; make it with `crs data reference --redial PATH`") from None
    tagger, tagged = dialogue_acts.read(), tables.pop("acts")
    if content["limits"] != {**_LIMITS, "tagger": tagger.identity}:
        raise CrsError(
            f"{path} was made with other limits ({content['limits']}); make it again with `crs data reference`"
        )
    facts_ = Facts(tables["turns"]["dialogue_id"].unique().sort(), **tables)
    return Human(facts_, tagged, tagger, content["metrics"], read_domain(content["domain"]))


def _facts() -> pl.DataFrame:
    """The facts of ReDial's items; credits of those that the built-in catalogue has too are those of both, because
    ReDial's name three people at most."""
    ours = store.read_parquet(resolve("data/items.parquet"), "items").drop_nulls("external_id")
    ours = ours.unique("external_id", keep="first", maintain_order=True).select("external_id", "people", "makers")
    both = redial.items().join(ours, on="external_id", how="left", maintain_order="left")
    return both.with_columns(
        pl.concat_list(name, pl.col(f"{name}_right").fill_null([])).list.unique(maintain_order=True)
        for name in ("people", "makers")
    )


def _profiles(dialogues: Sequence[Dialogue], wanted: Sequence[Wishes]) -> pl.DataFrame:
    """Table `profiles` of seekers of whom only the wish is known, by the dialogue's id."""
    rows = [
        {
            "profile_id": dialogue.dialogue_id,
            **{f"target_{part}": value for part, value in asdict(wishes).items() if part != "attributes"},
            "target_attributes": [{"name": name, "value": value} for name, value in wishes.attributes],
        }
        for dialogue, wishes in zip(dialogues, wanted, strict=bool(wanted))
    ]
    return pl.DataFrame(rows, schema=dict(schemas.TABLES["profiles"]))


def _items(dialogues: Sequence[Dialogue]) -> pl.DataFrame:
    names = {item_id: item.name for dialogue in dialogues for item_id, item in dialogue.items.items()}
    rows = [(item_id, *split_year(name)) for item_id, name in sorted(names.items())]
    return pl.DataFrame(rows, schema={"item_id": pl.String, "title": pl.String, "year": pl.Int32}, orient="row")
