"""What came out, in words, and which dialogues a page has, by hand."""

import polars as pl
import pytest

from crslib import schemas
from crslib.data.source import Source
from crslib.metrics import METRICS
from crslib.reporting import summary, transcripts
from tests.reporting.test_html import metric
from tests.support.domains import MOVIES

LEAKS = [metric("leaked_titles", 0.0, n=1000), metric("leaked_profiles", 0.0, n=234)]
HITS = [metric("hits", 0.25, low=0.2, high=0.3, n=40, family="recommendation")]
HUMAN = [
    metric("turns", 12.0, low=11.0, high=13.0, human=11.7, n=40, family="realism"),
    metric("user_words", 5.0, low=4.0, high=6.0, human=11.4, n=40, family="realism"),
    metric("user_words_ks", 0.1, low=0.0, high=0.2, human=0.1, floor=0.2, n=20, family="realism"),
]
FILE = {"source": {"name": "a.jsonl", "form": "trl"}}


def table(rows: list[dict[str, object]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict(schemas.TABLES["metrics"]))


@pytest.mark.parametrize(
    ("info", "n", "rows", "claim"),
    [
        ({}, 40, [], "Two models that know no target held 40 dialogues."),
        ({}, 1, LEAKS, "Two models that know no target held 1 dialogue: none of 1,234 prompts leaked."),
        (
            {"parameters": {"baseline": "scripted"}},
            40,
            LEAKS + HITS,
            "One model that knows the targets wrote 40 dialogues: none of 1,234 prompts leaked and 25% [20%, 30%] of "
            "the dialogues recommended a film that the user liked later.",
        ),
        (
            {"parameters": {"baseline": "user-target"}},
            40,
            HUMAN[:2],
            "Two models, of which the user knows its targets, held 40 dialogues: 1 of 2 metrics are like people’s, "
            "1 unlike.",
        ),
        (
            {"agents": {"user": {"agent": "server"}, "recommender": {"model_sha256": "a"}}},
            2,
            [],
            "Two models that know no target held 2 dialogues.",
        ),
        *(
            (
                {"agents": {"user": {"agent": agent}, "recommender": {"model_sha256": "a"}}},
                2,
                [],
                "Two parties that know no target held 2 dialogues.",
            )
            for agent in ("agenda", "http", "python", "dialoguekit", "person")
        ),
        (FILE, 40, HUMAN, "40 dialogues: 1 of 3 metrics are like people’s, 1 unlike, 1 undecided."),
    ],
)
def test_the_claim_says_what_was_measured_and_no_more(info: dict, n: int, rows: list, claim: str) -> None:
    assert summary.claim(info, n, table(rows), MOVIES) == claim


def test_who_knows_speaks_of_models_only_where_both_are() -> None:
    model, rules = {"model_sha256": "ab"}, {"agent": "agenda"}
    both = summary.who_knows({"agents": {"user": model, "recommender": model}})
    assert both.startswith("Two independent models talk;")
    assert summary.who_knows({"agents": {"user": rules, "recommender": model}}) == both.replace("models", "parties")


def test_leaks_are_counted() -> None:
    leaked = [metric("leaked_titles", 3.0, n=10), metric("leaked_profiles", 1.0, n=12)]
    assert ": 4 of 22 prompts leaked." in summary.claim({}, 2, table(leaked), MOVIES)


def test_who_spoke_is_named_without_folders() -> None:
    local = {"model_sha256": "ab", "adapter_sha256": "cd", "weights": "merged in float64, Q8_0"}
    parameters = {"user_model": "/home/ann/models/tiny.gguf", "user_adapter": "/home/ann/mine.gguf"}
    server = {"agent": "server", "model": "m", "url": "http://localhost:1/v1"}
    info = {"agents": {"user": local, "recommender": server}, "parameters": parameters, "started": "2026-11-28T10:00"}
    assert summary.parties(info, Source(name="Films"), Source(name="ReDial")) == [
        ("User", "tiny.gguf, adapter mine.gguf, Q8_0"),
        ("Recommender", "server, m, http://localhost:1/v1"),
        ("Data", "Films"),
        ("People", "ReDial"),
        ("Date", "2026-11-28"),
    ]
    bare = {"agents": {"user": {**local, "adapter_sha256": None}}, "parameters": {"user_model": "smollm2"}}
    assert summary.parties(bare, Source(), Source())[0] == ("User", "smollm2, no adapter, Q8_0")


def test_tiles_and_families_say_what_is_like_people() -> None:
    tiles = summary.tiles(table(LEAKS + HITS + HUMAN), MOVIES, METRICS)
    assert [(tile["value"], tile["mood"], tile["verdict"]) for tile in tiles] == [
        ("0", "good", ""),
        ("25%", "", ""),
        ("12.0", "", "like people"),
    ]
    families = summary.families(table(HITS + HUMAN), METRICS)
    assert [(family["name"], family["like"]) for family in families] == [
        ("recommendation", ""),
        ("realism", "1 of 3 metrics are like people’s, 1 unlike, 1 undecided"),
    ]
    assert [row["verdict"] for row in families[1]["rows"]] == ["below people", "like people", "undecided"]


def test_one_dialogue_is_drawn_by_the_seed_alone() -> None:
    ids = [f"u{number}.0" for number in range(50)]
    dialogues = pl.DataFrame({"dialogue_id": ids, "n_turns": [1, *[2] * 49]})
    drawn = {seed: transcripts.drawn(dialogues, seed) for seed in range(40)}
    assert drawn == {seed: transcripts.drawn(dialogues.reverse(), seed) for seed in range(40)}
    assert len(set(drawn.values())) > 15  # of 40 draws
    assert "u0.0" not in drawn.values()  # it has one turn
    assert transcripts.drawn(dialogues.head(1), 0) == "u0.0"
    assert transcripts.drawn(dialogues.clear(), 0) is None


def test_of_many_dialogues_a_page_has_some_evenly_spaced() -> None:
    dialogues = pl.DataFrame({"dialogue_id": [f"u{number}.0" for number in range(10)]})
    assert transcripts.spread(dialogues, 10).equals(dialogues)
    assert transcripts.spread(dialogues, 4)["dialogue_id"].to_list() == ["u0.0", "u2.0", "u5.0", "u7.0"]
