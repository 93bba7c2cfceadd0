"""Human dialogues, and the pairs of `crs prefer` and `crs imitate`, as files for TRL.

The views are those of training (`examples.view`), so the barrier is the same: no target's title in what a user is told,
nothing of the seeker's answers with the recommender. They are as a simulation with default parameters shows them,
without facts and styles. Of people in a split none is in another one.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from crslib.config import ExportParameters
from crslib.data import trl
from crslib.data.corpora import Dialogue
from crslib.dialogue.domain import Domain
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.dialogue.views import Message
from crslib.errors import CrsError
from crslib.training import examples
from crslib.training.knowledge import Knowledge

PAIRS = "pairs.jsonl"
_LEFT_OUT = ("facts", "style")


def write_dialogues(
    dialogues: Sequence[Dialogue],
    items: pl.DataFrame,
    role: str,
    folder: Path,
    parameters: ExportParameters,
    origin: Sequence[str],
    domain: Domain,
) -> trl.Written:
    """Writes human dialogues into `folder` for SFT of `role` (user or recommender).

    `items`: table `items` of their corpus; `origin`: where they are from and their licence, for the card; `domain`:
    what they are about. Raises `CrsError` when none can be trained on, or a file cannot be written.
    """
    without = [part for part in _LEFT_OUT if part in examples.WITHOUT[role]]
    known = Knowledge(items, dialogues, domain)
    rows = []
    for dialogue in dialogues:
        own = examples.view(dialogue, role, known, without=without).messages
        left = own[-1].role == "assistant" and not own[-1].text
        if left and role == RECOMMENDER:  # for which these files have no mark
            own, left = own[:-1], False
        rows.append((dialogue.dialogue_id, trl.conversation(own, left=left, fold=parameters.system == "fold")))
    frame = pl.DataFrame(rows, schema={"dialogue_id": pl.String, "messages": trl.MESSAGES}, orient="row")
    return trl.write(_split(frame, dialogues, role, parameters), role, folder, parameters, origin)


def write_pairs(
    made: Path,
    role: str,
    folder: Path,
    parameters: ExportParameters,
    origin: Sequence[str],
    domain: Domain,
    dialogues: Sequence[Dialogue] = (),
) -> trl.Written:
    """Writes the pairs in folder `made`, which `crs prefer` or `crs imitate` filled, into `folder` for DPO of `role`.

    `origin`: as for `write_dialogues`, of the dialogues whose moments were continued; `dialogues`: these, for their
    persons; without them nobody is held out. Raises `CrsError` for a folder without pairs or with those of the other
    role, and where persons are needed and not known.
    """
    frame = read_pairs(made / PAIRS, role, domain, fold=parameters.system == "fold")
    moment = pl.col("context_id").str.split(":").list.first()
    if dialogues:
        frame = _split(frame.with_columns(dialogue_id=moment), dialogues, role, parameters).drop("dialogue_id")
    elif parameters.validation or parameters.test:
        raise CrsError(f"{made / PAIRS} does not say whose dialogues it is from; give --redial PATH or --corpus FOLDER")
    else:
        frame = frame.with_columns(person=pl.lit(None, pl.String), split=pl.lit("train"))
    how = (
        "Made by `crs prefer` or `crs imitate`: replies of a model, of the latter also people's, in the dialogues named"
    )
    return trl.write(frame, role, folder, parameters, [how, *origin])


def read_pairs(path: Path, role: str, domain: Domain, *, fold: bool = False) -> pl.DataFrame:
    """The pairs of a file that `preferences.messages` made: `context_id`, `prompt`, `chosen`, `rejected`.

    Raises `CrsError` when it cannot be read, is not of this form, or has pairs of the other role.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        remedy = "make pairs with `crs prefer ROLE` or `crs imitate ROLE` and give the folder that they fill"
        raise CrsError(f"{path} is not there or not readable, and a run holds no pairs; {remedy}") from None
    roles, rows = {domain.system.user: USER, domain.system.recommender: RECOMMENDER}, []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            prompt, chosen, rejected = ([*_messages(row[name])] for name in ("prompt", "chosen", "rejected"))
            own = roles.get(prompt[0].text.split("\n")[0], "")
            sides = [[{"role": one.role, "content": one.text} for one in side] for side in (chosen, rejected)]
            rows.append((str(row["context_id"]), trl.conversation(prompt, fold=fold), *sides))
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            raise CrsError(f"{path} line {number} is not a pair; make the file again with `crs prefer`") from None
        if not own:
            raise CrsError(f"{path} line {number} is not of a talk about {domain.plural}; give --corpus FOLDER")
        if own != role:
            raise CrsError(f"{path} line {number} is a pair of the {own}; give --role {own}")
    return pl.DataFrame(rows, schema=trl.PAIRS, orient="row")


def _messages(rows: Iterable[Mapping[str, Any]]) -> Iterable[Message]:
    for row in rows:
        if not isinstance(row["content"], str):
            raise TypeError
        yield Message(row["role"], row["content"])


def _split(frame: pl.DataFrame, dialogues: Sequence[Dialogue], role: str, parameters: ExportParameters) -> pl.DataFrame:
    """`frame`, which has `dialogue_id`, with `person`, who speaks for `role`, and `split`: null where the two people
    are in different ones. Raises `CrsError` for a dialogue that is not among `dialogues`."""
    people = {one.dialogue_id: (one.user, one.recommender) for one in dialogues}
    ids = frame["dialogue_id"].to_list()
    if unknown := sorted({*ids} - people.keys()):
        raise CrsError(f"dialogue {unknown[0]!r} is not in the corpus given; give the one that it is from")
    rows = [(one, *people[one]) for one in ids]
    parties = pl.DataFrame(rows, schema=dict.fromkeys(("dialogue_id", "worker", "partner"), pl.String), orient="row")
    rest, test = examples.split(parties, parameters.test, parameters.seed)
    train, validation = examples.split(rest, parameters.validation / (1 - parameters.test), parameters.seed)
    parts = {"train": train, "validation": validation, "test": test}
    split = {dialogue_id: name for name, part in parts.items() for dialogue_id in part["dialogue_id"]}
    person = parties["worker" if role == USER else "partner"].alias("person")
    return frame.with_columns(person, pl.Series("split", [split.get(one) for one in ids], dtype=pl.String))
