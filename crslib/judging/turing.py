"""Human dialogues for the question "real or simulated?": read from ReDial and brought into the form of simulated ones.

Raters should distinguish the two by their content, not by how they were stored or typed. `normalise` therefore brings
both into one form. It does not change misspelt words, titles typed without a link and items newer than the catalogue,
and it does not mark where one message of a turn ends and the next begins. Knows neither pairs nor votes.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crslib.data.catalog import Catalog
from crslib.data.corpora import redial
from crslib.data.titles import split_year
from crslib.dialogue.utterances import RECOMMENDER, USER, mention, mentions, replace_mentions

HUMAN = "human"
"""The condition of human dialogues."""
NO_PROFILE = {"profile_id": "", "summary": "", "attributes": ""}

_TITLE = "\ue000"  # placeholder that protects a title from the rules below; `utterances.one_line` removes it from texts
_BEFORE_MARK = re.compile(r"\s+(?=[.,!?;:](?:\s|$))")
_AFTER_MARK = re.compile(r"(?<=[,!?;])(?=[^\W\d])")
_LAST_STOP = re.compile(r"(?<!\.)\.$")
_I = re.compile(r"\bi\b(?!\.e)")
_BEGINNING = re.compile(r"(?:^|(?<=[.!?]\s))\s*[a-z]")


def human_dialogues(path: Path, catalog: Catalog) -> dict[str, dict[str, Any]]:
    """ReDial's test dialogues in normalised form, by id: dialogue_id, run_id (empty), condition, own_condition, profile
    (empty) and turns.

    `path`: ReDial's zip or folder. Only the test part is used, as in every evaluation, because adapters are trained on
    the other part. Consecutive messages of one party are one turn. Dialogues in which one party says nothing, or an
    item has no year, are left out. Raises `CrsError` as `redial.read`.
    """
    dialogues = {}
    for dialogue in redial.read(path, "test"):
        turns = normalise([{"role": turn.role, "text": turn.text} for turn in dialogue.turns], catalog)
        if turns is not None and {turn["role"] for turn in turns} == {USER, RECOMMENDER}:
            names = {"dialogue_id": dialogue.dialogue_id, "run_id": "", "condition": HUMAN, "own_condition": HUMAN}
            dialogues[dialogue.dialogue_id] = {**names, **NO_PROFILE, "turns": turns}
    return dialogues


def normalise(turns: Sequence[Mapping[str, str]], catalog: Catalog) -> list[dict[str, str]] | None:
    """The same turns in one form; None when an item in them has no year.

    Items are written as in the catalogue. Around a title and after a punctuation mark there is one blank, before a mark
    none. Quotes are straight. `I` and the first letter of a sentence are capitals. A turn has no final full stop,
    because half of the human turns have none.
    """
    normalised = []
    for turn in turns:
        names = [_catalogue_name(name, catalog) for name, _, _ in mentions(turn["text"])]
        if any(split_year(name)[1] is None for name in names):
            return None
        text = replace_mentions(turn["text"], f" {_TITLE} ").replace("’", "'")
        text = _BEFORE_MARK.sub("", _AFTER_MARK.sub(" ", " ".join(text.split())))
        text = _LAST_STOP.sub("", _BEGINNING.sub(lambda match: match[0].upper(), _I.sub("I", text)))
        remaining = iter(names)
        text = "".join(mention(next(remaining)) if letter == _TITLE else letter for letter in text)
        normalised.append({"role": turn["role"], "text": text})
    return normalised


def _catalogue_name(name: str, catalog: Catalog) -> str:
    item_id = catalog.find(name)
    return name if item_id is None else catalog.name(item_id)


def shape(dialogue: Mapping[str, Any]) -> tuple[str, int]:
    """The opener and the number of turns. Dialogues of one shape differ in neither."""
    return dialogue["turns"][0]["role"], len(dialogue["turns"])
