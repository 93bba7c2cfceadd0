"""CCPE-M (Radlinski et al., SIGDIAL 2019; CC BY 4.0) as `Dialogue`s: 502 interviews about a person's taste in movies.

Reads the official `data.json`. The assistant, here the recommender, asks and does not recommend; titles are as people
said them, mostly without a year, and serve as item ids in lower case. What was liked or seen is annotated as a stretch
of text, not as yes or no, so labels are not known; nor are persons. There is no official split.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crslib.data.corpora.base import Dialogue, Item, first_speakers, merged
from crslib.dialogue import utterances as dialogue_utterances
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.errors import CrsError

_ROLES = {"USER": USER, "ASSISTANT": RECOMMENDER}


def read(path: Path) -> list[Dialogue]:
    """All dialogues, in file order. `path`: `data.json` or the folder that holds it.

    Raises `CrsError` when the file is missing or not CCPE-M's.
    """
    file = path / "data.json" if path.is_dir() else path
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
        return [_dialogue(record) for record in records]
    except OSError as error:
        raise CrsError(f"cannot read {file}: {error.strerror}; give CCPE-M's data.json") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CrsError(f"{file} is not CCPE-M's data.json; fetch CCPE-M again") from None


def _dialogue(record: Mapping[str, Any]) -> Dialogue:
    dialogue_id = record["conversationId"]
    utterances = sorted(record["utterances"], key=lambda utterance: utterance["index"])
    turns = merged((_ROLES[utterance["speaker"]], *_utterance(utterance)) for utterance in utterances)
    first = first_speakers(turns)
    names = {mention.item_id: mention.name for turn in reversed(turns) for mention in reversed(turn.mentions)}
    items = {item_id: Item(names[item_id], role == RECOMMENDER, None, None, "") for item_id, role in first.items()}
    return Dialogue(dialogue_id, f"{dialogue_id}:user", f"{dialogue_id}:assistant", turns, items)


def _utterance(utterance: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The text in format v1 and the ids of the movies named in it, in its order."""
    text, pieces, ids, done = utterance["text"], [], [], 0
    for start, end in _titles(text, utterance.get("segments") or ()):
        name = dialogue_utterances.one_line(text[start:end].replace("[", "(").replace("]", ")"))
        if start >= done and name:
            pieces += [_plain(text[done:start]), dialogue_utterances.mention(name)]
            ids.append(name.casefold())
            done = end
    return dialogue_utterances.one_line("".join([*pieces, _plain(text[done:])])), ids


def _titles(text: str, segments: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Where names of movies and series stand, the longer ones of those that begin together first."""
    spans = {
        (segment["startIndex"], segment["endIndex"])
        for segment in segments
        for annotation in segment["annotations"]
        if (annotation["annotationType"], annotation["entityType"]) == ("ENTITY_NAME", "MOVIE_OR_SERIES")
        and text[segment["startIndex"] : segment["endIndex"]] == segment["text"]
    }
    return sorted(spans, key=lambda span: (span[0], -span[1]))


def _plain(text: str) -> str:
    return text.replace("[[", "").replace("]]", "")
