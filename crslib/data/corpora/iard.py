"""IARD (Cai and Chen, Predicting User Intents and Satisfaction with Dialogue-based Conversational Recommendations, UMAP
2020; research only, non-commercial): what people do with their words in 336 ReDial dialogues.

Reads `umap2020_IARD_Cai.json`. An utterance there is all that one party says before the other answers, which is a turn
here, and holds several acts (15 user intents, 9 recommender actions, `OTH` for either); which of its messages holds
which is not told.

What is put right on the way: messages are joined by three dots, which a person's own dots cannot be told from, so that
both become blanks; films stand as `@id <Title (Year)>`, now and then with the title twice; HTML entities. The data name
some acts otherwise than their paper: CLQ is its CLA, R-ANS its ANS, RESP its RES.
"""

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from crslib.data.corpora.redial import clean_title
from crslib.dialogue import utterances
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.errors import CrsError

FILE = "umap2020_IARD_Cai.json"
SCHEMA = {
    "dialogue_id": pl.String,
    "turn": pl.Int32,
    "role": pl.String,
    "text": pl.String,
    "acts": pl.List(pl.String),
    "split": pl.String,
}
_ROLES = {"seeker": USER, "recommender": RECOMMENDER}
_FILM = re.compile(r"@\d+ <([^<>]*)>(?:\s*<\1>)?")
_FIRST_TEST = 20_000  # ReDial numbers its training conversations below, its test conversations from here on


def read(path: Path) -> pl.DataFrame:
    """Columns of `SCHEMA`, sorted: a row per turn, its text in format v1, its acts as coded, sorted; `split`: whether
    ReDial's training or test set holds the dialogue.

    `path`: the JSON file or the folder that holds it. Raises `CrsError` when it is missing or not IARD's.
    """
    file = path / FILE if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        rows = [
            (dialogue_id, turn, *_turn(utterance), "test" if int(dialogue_id) >= _FIRST_TEST else "train")
            for dialogue_id, dialogue in content.items()
            for turn, utterance in enumerate(
                sorted(dialogue["dialogue_info"].values(), key=lambda one: int(one["utterance_pos"]))
            )
        ]
    except OSError as error:
        raise CrsError(f"cannot read {file}: {error.strerror}; give IARD's {FILE}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CrsError(f"{file} is not IARD's {FILE}; fetch IARD again") from None
    return pl.DataFrame(rows, schema=SCHEMA, orient="row").sort("dialogue_id", "turn")


def _turn(utterance: Mapping[str, Any]) -> tuple[str, str, list[str]]:
    role, acts = _ROLES[utterance["role"]], sorted(set(utterance["sub-intent/action"]))
    if not acts:
        raise ValueError("an utterance without acts")
    text = _FILM.sub(lambda film: utterances.mention(clean_title(film[1]) or "that movie"), utterance["utterance_text"])
    return role, utterances.one_line(html.unescape(text.replace("...", " "))), acts
