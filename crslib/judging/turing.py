"""People's dialogues as one side of a pair: read from ReDial, and brought into the form that simulated ones have.

What tells the two apart shall be what is said, not how it was stored or typed: see `alike` for what is levelled, on
both sides. What remains is theirs: misspelt words, titles typed without a link, films newer than the
catalogue, no mark where one message of a turn ends and the next begins, facts, wit. Knows nothing of pairs and votes.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crslib.data.catalog import Catalog
from crslib.data.corpora import redial
from crslib.data.titles import split_year
from crslib.dialogue.utterances import RECOMMENDER, USER, mention

HUMAN = "human"
"""The condition of dialogues between people."""
NOBODY = {"profile_id": "", "summary": "", "attributes": ""}

_LINK = re.compile(r"\s*\[\[([^\[\]]+)\]\]\s*")
_FILM = "\ue000"  # stands for a title, which no rule for words may touch; no text holds it (`chat.one_line`)
_BEFORE_MARK = re.compile(r"\s+(?=[.,!?;:](?:\s|$))")
_AFTER_MARK = re.compile(r"(?<=[,!?;])(?=[^\W\d])")
_LAST_STOP = re.compile(r"(?<!\.)\.$")
_I = re.compile(r"\bi\b(?!\.e)")
_BEGINNING = re.compile(r"(?:^|(?<=[.!?]\s))\s*[a-z]")


def talks(path: Path, catalog: Catalog) -> dict[str, dict[str, Any]]:
    """Dialogue id → condition, run, profile (empty) and turns, alike in form, of ReDial's test dialogues.

    `path`: ReDial's zip or folder; the test part, as in every evaluation, because models have learnt from the other.
    Messages in a row are one turn, as in the metrics. Left out is a dialogue in which one side says nothing, or a film
    has no year. Raises `CrsError` as `redial.read`.
    """
    found = {}
    for said in redial.read(path, "test"):
        turns = alike([{"role": turn.role, "text": turn.text} for turn in said.turns], catalog)
        if turns is not None and {turn["role"] for turn in turns} == {USER, RECOMMENDER}:
            names = {"dialogue_id": said.dialogue_id, "run_id": "", "condition": HUMAN, "called": HUMAN}
            found[said.dialogue_id] = {**names, **NOBODY, "turns": turns}
    return found


def alike(turns: Sequence[Mapping[str, str]], catalog: Catalog) -> list[dict[str, str]] | None:
    """The same turns in one form: films as the catalogue writes them, blanks around them and after a mark but none
    before it, straight quotes, capitals where a sentence begins and in `I`, no full stop where a turn ends, for
    people leave it off half of the time. None when a film that is named has no year.
    """
    levelled = []
    for turn in turns:
        names = [_name(said, catalog) for said in _LINK.findall(turn["text"])]
        if any(split_year(name)[1] is None for name in names):
            return None
        text = _LINK.sub(f" {_FILM} ", turn["text"]).replace("’", "'")
        text = _BEFORE_MARK.sub("", _AFTER_MARK.sub(" ", " ".join(text.split())))
        text = _LAST_STOP.sub("", _BEGINNING.sub(lambda found: found[0].upper(), _I.sub("I", text)))
        left = iter(names)
        text = "".join(mention(next(left)) if letter == _FILM else letter for letter in text)
        levelled.append({"role": turn["role"], "text": text})
    return levelled


def _name(said: str, catalog: Catalog) -> str:
    item_id = catalog.find(said)
    return said if item_id is None else catalog.name(item_id)


def kind(talk: Mapping[str, Any]) -> tuple[str, int]:
    """Who opens, and the number of turns: where two dialogues agree in both, neither decides which is real."""
    return talk["turns"][0]["role"], len(talk["turns"])
