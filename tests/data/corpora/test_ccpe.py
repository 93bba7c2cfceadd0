import json
from pathlib import Path
from typing import Any

import pytest

from crslib.data.corpora import ccpe
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.errors import CrsError


def segment(text: str, part: str, kind: str = "ENTITY_NAME", entity: str = "MOVIE_OR_SERIES") -> dict[str, Any]:
    start = text.index(part)
    annotations = [{"annotationType": kind, "entityType": entity}]
    return {"startIndex": start, "endIndex": start + len(part), "text": part, "annotations": annotations}


def write(path: Path, *utterances: tuple[str, str, list[dict[str, Any]]]) -> Path:
    said = [
        {"index": number, "speaker": speaker, "text": text, "segments": segments}
        for number, (speaker, text, segments) in enumerate(utterances)
    ]
    path.write_text(json.dumps([{"conversationId": "CCPE-1", "utterances": said[::-1]}]), encoding="utf-8")
    return path


def test_utterances_become_turns_with_the_movies_as_they_were_named(tmp_path: Path) -> None:
    asked, said = "Do you like\nUp or action?", "I loved the Dark Knight and up. Dark Knight"
    write(
        tmp_path / "data.json",
        ("ASSISTANT", "Hi.", []),
        ("ASSISTANT", asked, [segment(asked, "Up"), segment(asked, "action", entity="MOVIE_GENRE_OR_CATEGORY")]),
        (
            "USER",
            said,
            [
                segment(said, "up"),
                segment(said, "the Dark Knight"),
                segment(said, "the Dark"),
                segment(said, "loved the Dark Knight", kind="ENTITY_PREFERENCE"),
            ],
        ),
    )
    (dialogue,) = ccpe.read(tmp_path)
    assert dialogue == ccpe.read(tmp_path / "data.json")[0]
    assert dialogue.dialogue_id == "CCPE-1"
    assert [(turn.role, turn.text, turn.n_messages) for turn in dialogue.turns] == [
        (RECOMMENDER, "Hi. Do you like [[Up]] or action?", 2),
        (USER, "I loved [[the Dark Knight]] and [[up]]. Dark Knight", 1),
    ]
    assert [mention.item_id for turn in dialogue.turns for mention in turn.mentions] == ["up", "the dark knight", "up"]
    assert {item_id: (item.name, item.suggested, item.liked) for item_id, item in dialogue.items.items()} == {
        "up": ("Up", True, None),
        "the dark knight": ("the Dark Knight", False, None),
    }


def test_a_segment_that_is_not_where_it_says_is_no_mention(tmp_path: Path) -> None:
    shifted = segment("see Up", "Up") | {"startIndex": 3, "endIndex": 5}
    (dialogue,) = ccpe.read(write(tmp_path / "data.json", ("USER", "see Up", [shifted])))
    assert dialogue.turns[0].text == "see Up"


def test_what_is_not_ccpe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    with pytest.raises(CrsError, match=r"cannot read .*data\.json: No such file"):
        ccpe.read(tmp_path)
    for content in ("{", '{"a": 1}', '[{"conversationId": "1"}]', '[{"conversationId": "1", "utterances": [1]}]'):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(CrsError, match=r"is not CCPE-M's data\.json"):
            ccpe.read(path)
    write(path, ("OTHER", "x", []))
    with pytest.raises(CrsError, match=r"is not CCPE-M's data\.json"):
        ccpe.read(path)
