"""IARD (Cai and Chen, Predicting User Intents and Satisfaction with Dialogue-based Conversational Recommendations, UMAP
2020; research only, non-commercial): the dialogue acts of each turn of 336 ReDial dialogues.

Reads `umap2020_IARD_Cai.json`. An utterance there is a turn here: all that one party says before the other answers. It
has one or more acts (15 user intents, 9 recommender actions, `OTH` for both roles); which of its messages holds which
act is not recorded.

Corrected while reading: messages are joined by three dots, and a person may have typed such dots too: both become
blanks; films are written `@id <Title (Year)>`, sometimes with the title twice; HTML entities. Some codes differ
from those in the paper: CLQ is its CLA, R-ANS its ANS, RESP its RES.
"""

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from crslib import json_files
from crslib.data.corpora.redial import clean_title
from crslib.dialogue import utterances
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.errors import CrsError

FILE = "umap2020_IARD_Cai.json"
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "dialogue_id": pl.String,
    "turn": pl.Int32,
    "role": pl.String,
    "text": pl.String,
    "acts": pl.List(pl.String),
    "split": pl.String,
}
_ROLES = {"seeker": USER, "recommender": RECOMMENDER}
_FILM = re.compile(r"@\d+ <([^<>]*)>(?:\s*<\1>)?")
_FIRST_TEST = 20_000  # the number of ReDial's first test conversation; training conversations have lower ones


def read(path: Path) -> pl.DataFrame:
    """A row per turn with the columns of `SCHEMA`, sorted by dialogue and turn: text in format v1, sorted codes of its
    acts, and the `split` of ReDial that the dialogue belongs to (`train` or `test`).

    `path`: the JSON file or the folder that holds it. Raises `CrsError` when it is missing or not IARD's.
    """
    file = path / FILE if path.is_dir() else path
    try:
        content = json_files.parse(file.read_bytes())
        rows = [
            (dialogue_id, turn, *_turn(utterance), "test" if int(dialogue_id) >= _FIRST_TEST else "train")
            for dialogue_id, dialogue in content.items()
            for turn, utterance in enumerate(
                sorted(dialogue["dialogue_info"].values(), key=lambda entry: int(entry["utterance_pos"]))
            )
        ]
    except OSError as error:
        raise CrsError(f"cannot read {file}: {error.strerror}; give IARD's {FILE}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CrsError(f"{file} is not IARD's {FILE}; download IARD again") from None
    if not rows:
        raise CrsError(f"{file} holds no dialogues; download IARD again")
    return pl.DataFrame(rows, schema=SCHEMA, orient="row").sort("dialogue_id", "turn")


def _turn(utterance: Mapping[str, Any]) -> tuple[str, str, list[str]]:
    role, acts = _ROLES[utterance["role"]], sorted(set(utterance["sub-intent/action"]))
    if not acts:
        raise ValueError("an utterance without acts")
    text = _FILM.sub(lambda film: utterances.mention(clean_title(film[1]) or "that movie"), utterance["utterance_text"])
    return role, utterances.one_line(html.unescape(text.replace("...", " "))), acts
