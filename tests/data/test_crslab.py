"""CRSLab's files: what its reader looks up is there, and it reads them where it is installed."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

from crslib.cli.main import main
from crslib.data import crslab
from crslib.store import Run
from tests.conftest import make_profiles
from tests.support.metrics_frames import table, talk

PEOPLE = [f"p{n:02d}" for n in range(20)]
SAID = [
    "R: Like [[Heat (1995)]] or [[Ghost Film (1900)]]? It's @100002, with Al Pacino",
    "U: ",
    "U: Sci-fi, [[Up (2009)]] or pacino",
    "R: Bye!",
]


@pytest.fixture
def tables(items: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Twenty people with two dialogues each, and a second film with Al Pacino."""
    other = {"item_id": "7", "title": "Scarface", "year": 1983, "genres": ["crime"], "cast": ["Al Pacino", "Al Israel"]}
    dialogues, turns = talk({f"{person}.{n}": [*SAID, f"U: {person}"] for person in PEOPLE for n in range(2)})
    return {"dialogues": dialogues, "turns": turns, "items": pl.concat([items, table("items", [other])])}


def test_words_and_entities_by_hand(tables: dict[str, pl.DataFrame]) -> None:
    texts = crslab.files(**tables)
    assert texts == crslab.files(**{name: frame.reverse() for name, frame in tables.items()}), "in any order"
    first, second, *_ = json.loads(texts["train_data.json"])[0]["dialog"]
    said = ["Like", "@100001", "or", "Ghost", "Film", "(", "1900", ")", "?", "It's", "@", "100002", ","]
    assert first == {
        "utt_id": 0,
        "role": "Recommender",
        "text": [*said, "with", "Al", "Pacino"],
        "movies": ["Heat (1995) [1]"],
        "entity": ["Al Pacino"],
        "word": [],
    }
    assert second["utt_id"] == 2, "a silence is no utterance"
    assert second["role"] == "Seeker"
    assert second["text"] == ["Sci", "-", "fi", ",", "@100006", "or", "pacino"]
    assert (second["movies"], second["entity"]) == (["Up (2009) [6]"], ["sci-fi"])
    ids = json.loads(texts["entity2id.json"])
    assert list(ids)[8:] == [
        "action", "adventure", "animation", "comedy", "crime", "family", "romance", "sci-fi", "Al Pacino"
    ]  # fmt: skip
    graph = json.loads(texts["dbpedia_subkg.json"])
    assert graph["1"] == [[0, 8], [0, 12], [2, 16]]
    assert graph["7"] == [[0, 12], [2, 16]]
    assert graph["16"] == []
    assert list(json.loads(texts["token2id.json"]))[:6] == ["__pad__", "__start__", "__end__", "__unk__", ",", "or"]


def test_whatever_the_reader_looks_up_is_there(tables: dict[str, pl.DataFrame]) -> None:
    texts = crslab.files(**tables)
    read: dict[str, Any] = {name: json.loads(text) for name, text in texts.items() if name.endswith(".json")}
    parts = [read[f"{part}_data.json"] for part in crslab.PARTS]
    assert [len(part) for part in parts] == [32, 4, 4]
    people = [{talk["conv_id"].partition(".")[0] for talk in part} for part in parts]
    assert len(set.union(*people)) == sum(map(len, people)) == 20, "nobody is in two parts"
    tokens, entities, movies = read["token2id.json"], read["entity2id.json"], read["movie_ids.json"]
    for ids in (tokens, entities, read["concept2id.json"]):
        assert list(ids.values()) == list(range(len(ids)))
    assert movies == [entities[name] for name in entities if name.endswith("]")]
    for part in parts:
        for one in (one for each in part for one in each["dialog"]):
            assert one["role"] in ("Seeker", "Recommender")
            assert all(entities[name] in movies for name in one["movies"])
            assert all(name in entities for name in one["entity"])
            assert part is not parts[0] or all(token in tokens for token in one["text"])
    assert [*map(int, read["dbpedia_subkg.json"])] == list(entities.values())[1:], "all but the one that fills gaps"
    for edges in read["dbpedia_subkg.json"].values():
        assert all(relation < len(crslab.RELATIONS) and 0 < tail < len(entities) for relation, tail in edges)


def test_crslab_reads_it(tables: dict[str, pl.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "run")
    for name, frame in {**tables, "profiles": make_profiles(PEOPLE)}.items():
        run.write(name, frame)
    folder = tmp_path / "redial" / "nltk"
    done = CliRunner().invoke(main, ["export", str(run.path), "--as", "crslab", "--to", str(folder)])
    assert done.exit_code == 0, done.output
    texts = crslab.files(**tables)
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == texts
    reader = pytest.importorskip("crslab.data.dataset.redial.redial", reason="crslab is not installed")
    monkeypatch.setattr(reader, "DATASET_PATH", str(tmp_path))
    read = reader.ReDialDataset({}, "nltk")
    assert [len(read.train_data), len(read.valid_data), len(read.test_data)] == [96, 12, 12]
    answer, bye = read.train_data[0], read.train_data[1]
    assert [read.vocab["ind2tok"][token] for token in answer["context_tokens"][0]][:3] == ["Like", "@100001", "or"]
    assert (answer["role"], answer["items"], answer["context_entities"]) == ("Seeker", [6], [16, 1])
    assert bye["context_entities"] == [16, 1, 15, 6]
    assert read.side_data["item_entity_ids"] == [1, 2, 3, 4, 5, 6, 7]
