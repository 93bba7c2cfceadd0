"""Curation: gates, near-duplicates, a balanced choice, splits by person, and the folder that exports take."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from crslib import schemas
from crslib.cli.main import main
from crslib.config import ExportParameters, resolve
from crslib.data import exports
from crslib.data.source import Source
from crslib.errors import CrsError
from crslib.experiments import curation
from crslib.experiments.curation import Gate, Pool
from crslib.metrics import reference
from crslib.store import Run
from tests.conftest import make_profiles
from tests.support.domains import BOOKS, MOVIES

GATES = [
    Gate("leaks", "no leak", ("leaked_titles", "leaked_profiles"), high=0),
    Gate("turns", "length", ("turns",), low=2, high=4),
]
TEXTS = {
    "a": ["Hi, any action movie tonight?", "Try [[Heat (1995)]], it is a classic of the genre."],
    "b": ["hello, something new for the kids please", "How about [[Up (2009)]] then? They will enjoy it."],
    "c": ["Hi, any action movie tonight?", "Try [[Heat (1995)]], it is a classic of the genre!"],
}
ITEM = {"Heat (1995)": "1", "Up (2009)": "6"}


def turns_of(dialogue_id: str, texts: list[str]) -> list[dict[str, Any]]:
    rows = []
    for turn, text in enumerate(texts):
        named = [(name, item) for name, item in ITEM.items() if f"[[{name}]]" in text]
        rows.append(
            {
                "dialogue_id": dialogue_id,
                "turn": turn,
                "role": "recommender" if turn % 2 else "user",
                "text": text,
                "items": [{"item_id": item, "title": name, "start": 0, "end": 1} for name, item in named],
                "notes": [],
                "n_tokens": None,
                "mean_logprob": None,
                "finish": "end",
            }
        )
    return rows


def pool(items: pl.DataFrame, talks: dict[str, list[str]], scores: dict[tuple[str, str], float], **stop: str) -> Pool:
    """Dialogues with these texts, each of a profile and person of its own."""
    profiles = make_profiles([f"p{name}" for name in talks])
    dialogues = pl.DataFrame(
        [
            {"dialogue_id": name, "run_id": "r", "profile_id": f"p{name}", "condition": "x", "opener": "user",
             "seed": 0, "stop_reason": stop.get(name, "user_left"), "n_turns": len(texts), "user_style": None,
             "recommender_style": None}
            for name, texts in talks.items()
        ],
        schema=dict(schemas.TABLES["dialogues"]),
    )  # fmt: skip
    turns = pl.DataFrame(
        [row for name, texts in talks.items() for row in turns_of(name, texts)], schema=dict(schemas.TABLES["turns"])
    )
    table = pl.DataFrame(
        [("r", name, metric, value) for (name, metric), value in scores.items()],
        schema=dict(schemas.TABLES["scores"]),
        orient="row",
    )
    people = {f"p{name}": f"person {name}" for name in talks}
    return Pool(dialogues, turns, profiles, items, table, people, MOVIES, Source())


def curated(given_: Pool, n: int = 0, held_out: float = 0.0) -> dict[str, tuple[bool, str, str]]:
    manifest = curation.curate(given_, GATES, n=n, similarity=0.8, held_out=held_out, seed=0)
    return {row["dialogue_id"]: (row["kept"], row["step"], row["why"]) for row in manifest.iter_rows(named=True)}


def test_every_dialogue_has_the_first_step_that_it_fails(items: pl.DataFrame) -> None:
    talks = {
        "fine": TEXTS["a"],
        "other": TEXTS["b"],
        "twin": TEXTS["c"],
        "leaks": TEXTS["a"],
        "long": TEXTS["a"],
        "alone": TEXTS["a"][:1],
        "cut": TEXTS["a"],
    }
    scores = {("leaks", "leaked_titles"): 1.0, ("leaks", "turns"): 9.0, ("long", "turns"): 5.0, ("fine", "turns"): 4.0}
    assert curated(pool(items, talks, scores, cut="max_turns")) == {
        "alone": (False, "spoken", "not both parties say something"),
        "cut": (False, "ending", "no party ended it: max_turns"),
        "fine": (True, "", ""),
        "leaks": (False, "leaks", "leaked_titles is 1, more than 0"),
        "long": (False, "turns", "turns is 5, more than 4"),
        "other": (True, "", ""),
        "twin": (False, "near-duplicate", "1.00 of its words in a row are those of fine"),
    }


def test_the_funnel_counts_what_is_left(items: pl.DataFrame) -> None:
    given_ = pool(items, TEXTS, {("b", "turns"): 1.0})
    manifest = curation.curate(given_, GATES, n=0, similarity=0.8, held_out=0, seed=0)
    assert curation.funnel(manifest, GATES).rows() == [
        ("all", 3, 0),
        ("spoken", 3, 0),
        ("ending", 3, 0),
        ("leaks", 3, 0),
        ("turns", 2, 1),
        ("near-duplicate", 1, 1),
        ("choice", 1, 0),
    ]


def test_similarity_is_the_share_of_words_in_a_row(items: pl.DataFrame) -> None:
    """Eight words are six runs of three; one word changed at the end leaves five of seven."""
    one, other = ["a b c d e f g h"], ["a b c d e f g i"]
    turns = pool(items, {"1": one, "2": other, "3": ["x y"], "4": ["x y"]}, {}).turns
    assert curation.near_duplicates(turns, 0.7) == {"2": ("1", 5 / 7), "4": ("3", 1.0)}
    assert curation.near_duplicates(turns, 0.72) == {"4": ("3", 1.0)}


def candidates(rows: list[tuple[str, str, str, list[str]]]) -> pl.DataFrame:
    schema = {"dialogue_id": pl.String, "opener": pl.String, "wish": pl.String, "recommended": pl.List(pl.String)}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(stop_reason=pl.lit("user_left"))


def test_strata_take_turns_and_rare_items_come_first() -> None:
    many = [(f"d{number}", "user", "drama", ["1"]) for number in range(8)]
    few = [("w0", "user", "war", ["1"]), ("w1", "recommender", "war", ["2"])]
    assert {"w0", "w1"} < set(curation.choose(candidates(many + few), 4, seed=0))
    assert len(curation.choose(candidates(many + few), 99, seed=0)) == 10
    same = [(f"s{number}", "user", "drama", ["1"]) for number in range(20)]
    for seed in range(5):
        assert "rare" in curation.choose(candidates([*same, ("rare", "user", "drama", ["2"])]), 2, seed)


@given(
    st.lists(
        st.tuples(st.sampled_from("ur"), st.sampled_from("abc"), st.lists(st.sampled_from("1234"), max_size=3)),
        max_size=25,
    ),
    st.integers(0, 30),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_the_choice_depends_on_no_order_and_each_stratum_gives_its_part(
    rows: list[tuple[str, str, list[str]]], n: int, seed: int, shuffle: Any
) -> None:
    named = [(f"d{number:02d}", *row) for number, row in enumerate(rows)]
    chosen = curation.choose(candidates(named), n, seed)
    assert len(chosen) == min(n, len(rows)) == len(set(chosen))
    shuffle.shuffle(named)
    assert curation.choose(candidates(named), n, seed) == chosen
    given_, total = {}, {}
    for dialogue_id, opener, wish, _ in named:
        total[opener, wish] = total.get((opener, wish), 0) + 1
        given_[opener, wish] = given_.get((opener, wish), 0) + (dialogue_id in chosen)
    # A stratum that still has some has given at most one fewer than any other.
    most = max(given_.values(), default=0)
    assert all(given_[key] == total[key] or given_[key] >= most - 1 for key in total)


def test_a_person_is_in_one_split_and_the_share_is_held_out(items: pl.DataFrame) -> None:
    """Two dialogues each of sixty people."""
    talks = {
        f"{number}.{copy}": [f"hello {number} {copy} friend", TEXTS["b"][1]] for number in range(60) for copy in "ab"
    }
    given_ = pool(items, talks, {})
    given_ = given_._replace(people={profile: profile.removeprefix("p").split(".")[0] for profile in given_.people})
    manifest = curation.curate(given_, [], n=0, similarity=1.0, held_out=0.3, seed=1)
    splits = manifest.with_columns(person=pl.col("dialogue_id").str.split(".").list.first()).group_by("person")
    assert splits.agg(pl.col("split").n_unique())["split"].to_list() == [1] * 60
    assert 20 <= manifest["split"].to_list().count("test") <= 54  # 36 of 120 are expected
    assert set(curation.curate(given_, [], n=0, similarity=1.0, held_out=0, seed=1)["split"]) == {"train"}


def test_what_was_never_audited_does_not_pass_for_clean(items: pl.DataFrame) -> None:
    gates = curation.gates(reference.read(resolve("data/human")).facts)[:1]
    for scores, why in (
        ({}, "leaked_titles was not measured"),
        ({("a", "leaked_titles"): 0.0}, "leaked_profiles was not measured"),
        ({("a", "leaked_titles"): 0.0, ("a", "leaked_profiles"): 0.0}, None),
    ):
        failed = curation.failures(pool(items, {"a": TEXTS["a"]}, scores), gates)["why"].to_list()
        assert failed == ([] if why is None else [why])


def test_lengths_of_people_are_the_range() -> None:
    gates = {gate.name: gate for gate in curation.gates(reference.read(resolve("data/human")).facts)}
    low, high = gates["turns"].low, gates["turns"].high
    assert low is not None and high is not None
    assert 2 <= low < 11.7 < high <= 60  # DESIGN §7: people take 11.7 turns on average
    assert gates["leaks"].high == 0 and gates["titles"].low == 1


@pytest.mark.parametrize(("titles", "kept"), [(1.0, ["c"]), (0.5, ["b", "c"])])
def test_a_share_of_titles_that_do_not_exist_can_be_let_pass(
    items: pl.DataFrame, titles: float, kept: list[str]
) -> None:
    gates = curation.gates(reference.read(resolve("data/human")).facts, titles=titles)[2:3]
    scores = {(one, "recommender_validity"): share for one, share in (("a", 0.4), ("b", 0.5), ("c", 1.0))}
    manifest = curation.curate(
        pool(items, {one: TEXTS[one] for one in "abc"}, scores), gates, n=0, similarity=1.0, held_out=0, seed=0
    )
    assert manifest.filter("kept")["dialogue_id"].to_list() == kept


# ── runs and folders ────────────────────────────────────────────────────────────────────────────────────────────────


def stored(folder: Path, run_id: str, given_: Pool, **parameters: Any) -> Run:
    """A run with the tables of a pool."""
    run = Run(folder)
    for name in ("dialogues", "turns", "profiles", "items", "scores"):
        run.write(name, getattr(given_, name))
    run.update(run_id=run_id, status="success", parameters={"condition": "x", **parameters}, agents={})
    return run


def test_several_runs_become_one_set_that_exports_take(items: pl.DataFrame, tmp_path: Path) -> None:
    clean = {(one, metric): 0.0 for one in "uv" for metric in ("leaked_titles", "leaked_profiles")}
    first = stored(tmp_path / "one", "1" * 16, pool(items, {"u": TEXTS["a"]}, clean))
    second = stored(tmp_path / "two", "2" * 16, pool(items, {"u": TEXTS["b"], "v": TEXTS["c"]}, clean))
    for run in (first, second):
        Source(name="Mine", licence="ask me").write(run.path)
        BOOKS.write(run.path)
    command = ["curate", str(first.path), str(second.path), "--to", str(tmp_path / "set"), "--held-out", "0"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    manifest = pl.read_parquet(tmp_path / "set" / "manifest.parquet")
    assert dict(manifest.schema) == dict(curation.MANIFEST)
    assert manifest.filter("kept")["dialogue_id"].to_list() == ["11111111.u", "22222222.u"]
    assert manifest.filter(dialogue_id="22222222.v")["why"].item().endswith("are those of 11111111.u")
    made = Run(tmp_path / "set")
    assert made.read("profiles")["profile_id"].to_list() == ["11111111.pu", "22222222.pu"]
    assert not made.has("holdouts")
    assert "2 of 3 dialogues of 2 runs" in (tmp_path / "set" / "README.md").read_text()
    assert "<svg" in (tmp_path / "set" / "funnel.svg").read_text()
    again = {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    assert CliRunner().invoke(main, command).exit_code == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()} == again
    assert (
        "from ratings of Mine; licence: ask me. Licence: that of the ratings"
        in (tmp_path / "set/README.md").read_text()
    )
    export = ["export", str(tmp_path / "set"), "--as", "trl", "--role", "recommender", "--to", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*export, "--test", "0.5"])
    assert "has been split when it was curated; leave --validation and --test out" in result.output
    assert CliRunner().invoke(main, export).exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "recommender.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert {row["messages"][0]["content"] for row in rows} == {BOOKS.system.recommender}
    assert "licence: ask me" in (tmp_path / "out" / "README.md").read_text()


def test_what_a_set_holds_out_is_in_no_file_to_train_on(items: pl.DataFrame, tmp_path: Path) -> None:
    talks = {f"u{number}": [f"hello {number} my friend", TEXTS["b"][1]] for number in range(12)}
    clean = {(one, metric): 0.0 for one in talks for metric in ("leaked_titles", "leaked_profiles")}
    run = stored(tmp_path / "one", "1" * 16, pool(items, talks, clean))
    both = curation.pooled([run])
    manifest = curation.curate(both, [], n=0, similarity=1.0, held_out=0.4, seed=3)
    made = curation.write(both, manifest, curation.funnel(manifest, []), [run], {}, tmp_path / "set")
    exports.write_trl(made, "recommender", tmp_path / "out", ExportParameters())
    for split, name in (("train", "recommender.jsonl"), ("test", "recommender-test.jsonl")):
        written = [json.loads(line)["dialogue_id"] for line in (tmp_path / "out" / name).read_text().splitlines()]
        assert sorted(written) == manifest.filter(split=split)["dialogue_id"].to_list()
        assert written


def test_what_cannot_be_curated_is_said(items: pl.DataFrame, tmp_path: Path) -> None:
    plain = stored(tmp_path / "one", "1" * 16, pool(items, {"u": TEXTS["a"]}, {}))
    with pytest.raises(CrsError, match="holds no evaluated dialogues; give the folder of a run that succeeded"):
        curation.pooled([Run(tmp_path / "none")])
    with pytest.raises(CrsError, match="the same run is given twice"):
        curation.pooled([plain, plain])
    of_books = stored(tmp_path / "books", "4" * 16, pool(items, {"u": TEXTS["b"]}, {}))
    BOOKS.write(of_books.path)
    with pytest.raises(CrsError, match="the runs are about different domains or data"):
        curation.pooled([plain, of_books])
    renamed = items.with_columns(title=pl.col("title") + "!")
    other = stored(tmp_path / "two", "2" * 16, pool(renamed, {"u": TEXTS["b"]}, {}))
    with pytest.raises(CrsError, match="item '1' differs between the runs' catalogues"):
        curation.pooled([plain, other])
    knowing = stored(tmp_path / "three", "3" * 16, pool(items, {"u": TEXTS["b"]}, {}))
    knowing.update(facts=True)
    runs = [plain, knowing]
    both = curation.pooled(runs)
    manifest = curation.curate(both, GATES, n=0, similarity=0.8, held_out=0, seed=0)
    with pytest.raises(CrsError, match="looked up facts in some of the runs only"):
        curation.write(both, manifest, curation.funnel(manifest, GATES), runs, {}, tmp_path / "set")
    with pytest.raises(CrsError, match="holds other files; give a new folder"):
        curation.write(both, manifest, curation.funnel(manifest, GATES), [plain], {}, plain.path)
