from pathlib import Path

import pytest

from crslib.data.corpora import inspired
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.errors import CrsError

HEADER = "dialog_id\tutt_id\tspeaker\tturn_id\ttext\ttext_with_placeholder\tmovies\tgenres\tfine_label"


def row(speaker: str, text: str, movies: str = "", dialogue: str = "20191201_20_live.pkl") -> str:
    return f"{dialogue}\t1\t{speaker}\t1\t{text}\t-\t{movies}\t\taccept_rating_good"


def write(folder: Path, *rows: str, name: str = "train.tsv", header: str = HEADER) -> Path:
    (folder / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


def test_messages_become_turns_with_their_movies(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        row("RECOMMENDER", "Hello"),
        row("RECOMMENDER", "Seen the green mile (1999)?", "The Green Mile (1999)"),
        row("SEEKER", "Yes! Braveheart, Saving Private Ryan too", "Braveheart (1995);  Saving Private Ryan (1998)"),
        row("SEEKER", "the QUOTATION_MARKfutureQUOTATION_MARK is dated", "The Future (2011)"),
        row("SEEKER", "Bye", dialogue="b.pkl"),
    )
    first, second = inspired.read(folder, "train")
    assert first.dialogue_id == "20191201_20_live"
    assert [(turn.role, turn.text, turn.n_messages) for turn in first.turns] == [
        (RECOMMENDER, "Hello Seen [[The Green Mile (1999)]]?", 2),
        (USER, 'Yes! Braveheart, [[Saving Private Ryan (1998)]] too the "future" is dated', 2),
    ]
    for turn in first.turns:
        for mention in turn.mentions:
            assert turn.text[mention.start : mention.end] == f"[[{mention.name}]]"
    assert first.items["The Green Mile (1999)"].suggested is True
    assert first.items["Saving Private Ryan (1998)"].suggested is False
    assert {(item.seen, item.liked, item.source) for item in first.items.values()} == {(None, None, "")}
    assert [turn.text for turn in second.turns] == ["Bye"]
    assert len({first.user, first.recommender, second.user, second.recommender}) == 4


@pytest.mark.parametrize(
    ("text", "movies", "found"),
    [
        ("Mine is the Shawshank Redemption.", "The Shawshank Redemption (1994); Mine (2016)", [1]),
        ("Frozen", "Frozen (2013)", [1]),
        ("I saw Frozen, twice", "Frozen (2013)", [1]),
        ("I was frozen", "Frozen (2013)", []),
        ("Good. Frozen was better", "Frozen (2013)", []),
        ("Toy Story 4 and toy story", "Toy Story (1995); Toy Story 4 (2019)", [2]),
        ("I liked what. Women want it", "What Women Want (2000)", []),
        ("the entire time", "Adventure Time (2010)", []),
        ("Spider-man: homecoming!", "Spider-Man: Homecoming (2017)", [1]),
        ("nothing [[here]]", "", []),
    ],
)
def test_a_movie_is_mentioned_where_its_title_is(tmp_path: Path, text: str, movies: str, found: list[int]) -> None:
    (dialogue,) = inspired.read(write(tmp_path, row("SEEKER", text, movies)), "train")
    assert len(dialogue.turns[0].mentions) == sum(found)
    assert ("[[" in dialogue.turns[0].text) == bool(found)


def test_splits_are_kept_apart(tmp_path: Path) -> None:
    write(tmp_path, row("SEEKER", "a"))
    write(tmp_path, row("SEEKER", "b"), name="test.tsv")
    assert inspired.read(tmp_path, "test")[0].turns[0].text == "b"
    assert inspired.read(tmp_path / "test.tsv", "test")[0].turns[0].text == "b"
    with pytest.raises(CrsError, match=r"test\.tsv is not INSPIRED's train\.tsv"):
        inspired.read(tmp_path / "test.tsv", "train")


def test_what_is_not_inspired_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match=r"cannot read .*train\.tsv"):
        inspired.read(tmp_path, "train")
    with pytest.raises(CrsError, match="has no column movies"):
        inspired.read(write(tmp_path, header="dialog_id\tspeaker\ttext"), "train")
    with pytest.raises(CrsError, match="line 2 is not a message"):
        inspired.read(write(tmp_path, row("HOST", "a")), "train")
    with pytest.raises(CrsError, match="line 3 is not a message"):
        inspired.read(write(tmp_path, row("SEEKER", "a"), "a\tb"), "train")
