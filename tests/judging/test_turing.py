"""Human and simulated dialogues in one form, paired by shape, and how often raters identify the human one."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from crslib.cli.main import main
from crslib.data.catalog import Catalog
from crslib.errors import CrsError
from crslib.judging import analysis, exchange, turing
from crslib.judging.criteria import read_questions
from crslib.judging.pairs import build, is_check
from crslib.judging.study import Study, open_study
from crslib.judging.turing import HUMAN
from crslib.reporting.study import figures, lines, tables
from crslib.runs import find_runs
from crslib.store import Run
from tests.judging.test_analysis import frame, vote
from tests.support.domains import MOVIES
from tests.support.people_runs import make_runs

FILMS = {"1": "Heat (1995)", "2": "Matrix, The (1999)", "3": "A Film Without Year"}


def talk(number: int, n_turns: int, opener: str = "user", film: str = "1") -> dict[str, Any]:
    """A conversation in ReDial's schema with two messages per turn; the last one names `film`."""
    parties = ("user", "recommender") if opener == "user" else ("recommender", "user")
    messages = [(parties[turn % 2], f"talk {number}") for turn in range(n_turns) for _ in "ab"]
    messages[-1] = (messages[-1][0], f"i liked @{film} .")
    return {
        "conversationId": str(number),
        "initiatorWorkerId": 0,
        "respondentWorkerId": 1,
        "messages": [
            {"senderWorkerId": int(role == "recommender"), "text": text, "timeOffset": n, "messageId": n}
            for n, (role, text) in enumerate(messages)
        ],
        "movieMentions": {film: FILMS[film]},
        "initiatorQuestions": {},
        "respondentQuestions": {},
    }


def corpus(folder: Path, *talks: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "test_data.jsonl").write_text("".join(json.dumps(one) + "\n" for one in talks))
    return folder


@pytest.fixture
def redial(tmp_path: Path) -> Path:
    """Forty dialogues of the shape of the runs below, one longer, one with another opener, one with a film without a
    year."""
    matching = [talk(number, 7) for number in range(40)]
    others = [talk(40, 8), talk(41, 7, opener="recommender"), talk(42, 7, film="3")]
    return corpus(tmp_path / "redial", *matching, *others)


@pytest.fixture
def paths(tmp_path: Path, items: pl.DataFrame) -> list[Path]:
    """Runs `a` and `z` of twelve profiles, with dialogues of seven turns that the user opens."""
    folders = make_runs(tmp_path, 12, conditions=("a", "z"))
    for path in folders:
        Run(path).write("items", items)
    return folders


def test_normalise_changes_the_form_and_not_the_content(items: pl.DataFrame) -> None:
    catalog = Catalog(items, MOVIES)
    text = "i liked [[Matrix, The (1999)]] .have you seen it , or[[up (2009)]]?i’m off ! so am i. i.e. bye."
    (turn,) = turing.normalise([{"role": "user", "text": text}], catalog)
    assert turn["text"] == (
        "I liked [[The Matrix (1999)]] .have you seen it, or [[Up (2009)]]? I'm off! So am I. I.e. Bye"
    )
    assert turing.normalise([turn], catalog) == [turn]
    names = "see [[E.T. the i (1982)]]"  # no rule for words reaches a title
    assert turing.normalise([{"role": "user", "text": names}], catalog) == [{"role": "user", "text": f"S{names[1:]}"}]
    assert turing.normalise([{"role": "user", "text": "[[A Film Without Year]]"}], catalog) is None


def test_pairs_with_a_human_dialogue_are_balanced_and_of_one_shape(paths: list[Path], redial: Path) -> None:
    pairs = build(find_runs(paths), 20, 0, redial)
    compared = pairs.filter(~is_check())
    sides = Counter(compared.select("left_condition", "right_condition").rows())
    assert sides == {(HUMAN, "a"): 5, ("a", HUMAN): 5, (HUMAN, "z"): 5, ("z", HUMAN): 5}
    used = []
    for row in compared.iter_rows(named=True):
        side = "left" if row["left_condition"] == HUMAN else "right"
        other = {"left": "right", "right": "left"}[side]
        used.append(int(row[f"{side}_dialogue"]))
        assert [turn["role"] for turn in row["left_turns"]] == [turn["role"] for turn in row["right_turns"]]
        assert row[f"{side}_turns"][0]["text"] == f"Talk {used[-1]} talk {used[-1]}"
        assert row[f"{side}_turns"][-1]["text"] == f"Talk {used[-1]} I liked [[Heat (1995)]]"
        assert row[f"{other}_turns"][0]["text"].startswith("U")  # u000 says …
        assert (row["summary"], row["attributes"]) == ("", "")
    assert len(set(used)) == 20  # no human dialogue comes twice
    assert set(used) <= set(range(40))
    assert pairs.filter(is_check()).height == 2
    assert build(find_runs(paths), 20, 0, redial).equals(pairs)
    assert not build(find_runs(paths), 20, 1, redial)["pair_id"].equals(pairs["pair_id"])


def test_one_run_is_enough_and_too_few_matching_dialogues_are_an_error(paths: list[Path], tmp_path: Path) -> None:
    redial = corpus(tmp_path / "few", *[talk(number, 7) for number in range(3)], talk(3, 5))
    runs = find_runs(paths[:1])
    assert build(runs, 3, 0, redial).filter(~is_check()).height == 3
    with pytest.raises(CrsError, match="4 pairs asked for, but a have 3 with the opener and length of a human one"):
        build(runs, 4, 0, redial)
    words = ["people", "serve", str(paths[0]), "--redial", str(tmp_path / "none"), "--reports", str(tmp_path)]
    result = CliRunner().invoke(main, words)
    assert (result.exit_code, "cannot read" in result.stderr) == (1, True)
    with pytest.raises(CrsError, match="'human' has the name of an attention check or of human dialogues"):
        build({"human": runs["a"]}, 3, 0, redial)


def rated(study: Study) -> None:
    """Two raters answer everything and always choose the human dialogue."""
    for rater in ("ann", "bob"):
        state = study.state(rater)
        while not state["done"]:
            opening = state["left"][0]["pieces"][0][0]
            choice = "left" if opening.startswith("Talk") else "right"
            key = f"{rater} {state['order']} {state['step']}"
            state = study.vote(rater, key, state["order"], state["criterion"], choice, 1.0)


def test_the_share_is_1_for_raters_who_always_know_and_one_half_for_random_ones(
    paths: list[Path], redial: Path, tmp_path: Path
) -> None:
    (real,) = (question for question in read_questions() if question.criterion == analysis.REAL)
    knowing = Study.of(find_runs(paths), 10, 0, [real], tmp_path / "people", redial)
    rated(knowing)
    shares = analysis.turing_test(knowing.votes())
    assert shares.select("condition", "value", "ties", "votes", "n", "raters").rows() == [
        ("a", 1.0, 0.0, 10, 5, 2),
        ("z", 1.0, 0.0, 10, 5, 2),
    ]
    exact = 0.025 ** (1 / 5)  # Clopper and Pearson's bound for five dialogues of five
    assert shares["low"].to_list() == pytest.approx([exact, exact])
    assert shares["high"].to_list() == [1.0, 1.0]
    draw = np.random.default_rng(0)
    tossed = [
        vote(pair, rater, str(draw.choice(["left", "tie", "right"])), *draw.permutation([HUMAN, "a"]), criterion="real")
        for pair in range(200)
        for rater in ("ann", "bob", "cyd")
    ]
    (row,) = analysis.turing_test(frame(*tossed)).to_dicts()
    assert abs(row["value"] - 0.5) < 0.05
    assert 0.4 < row["low"] < 0.5 < row["high"] < 0.6


def test_the_share_is_that_of_human_dialogues_for_every_name_of_a_condition() -> None:
    votes = [
        vote(1, "x", "left", HUMAN, "z"),  # identified
        vote(2, "x", "left", "z", HUMAN),  # not identified
        vote(3, "x", "tie", HUMAN, "z"),
        vote(4, "x", "right", "z", HUMAN),  # identified
        vote(5, "x", "right", "a", HUMAN),  # identified
        vote(6, "x", "left", HUMAN, "a"),  # identified
        vote(7, "x", "right", HUMAN, "a"),  # not identified
        vote(8, "x", "left", "a", "z"),  # no human dialogue: ignored
        vote(9, "x", "left", HUMAN, "shuffled"),  # an attention check
    ]
    shares = analysis.turing_test(
        frame(*[{**one, "criterion": "real"} for one in votes], vote(1, "x", "right", HUMAN, "z"))
    )
    assert shares.select("condition", "value", "ties", "votes", "n").rows() == [
        ("a", pytest.approx(2 / 3), 0.0, 3, 3),
        ("z", 0.625, 0.25, 4, 4),
    ]
    assert all(row["low"] < row["value"] < row["high"] for row in shares.iter_rows(named=True))


def test_length_baseline_is_the_share_of_longer_human_dialogues() -> None:
    short, long = [{"role": "user", "text": "one two"}], [{"role": "user", "text": "one two [[Three (1990)]] four"}]
    sides = [(HUMAN, "a", long, short), ("a", HUMAN, long, short), ("a", HUMAN, short, short), ("a", "z", long, short)]
    pairs = pl.DataFrame(
        [
            {"left_condition": a, "right_condition": b, "left_turns": left, "right_turns": right}
            for a, b, left, right in sides
        ]
    )
    assert analysis.length_baseline(pairs).rows() == [("a", 0.5)]  # 1, 0, and ½ for equal lengths


def test_a_study_with_human_dialogues_asks_nothing_about_a_profile_and_reports_the_shares(
    paths: list[Path], redial: Path, tmp_path: Path
) -> None:
    study = open_study(paths, 4, 0, tmp_path / "people", redial)
    assert [question.criterion for question in study.questions] == ["naturalness", "flow", "user control", "real"]
    shown = json.dumps(study.state("ann"))
    assert "human" not in shown
    rated(study)
    assert lines(study.votes())[0].startswith("human dialogues identified against a: 1.00 [")
    votes = study.votes().filter(criterion="real")
    first, *_ = tables(study, votes)
    assert (first.title, first.frame["condition"].to_list()) == ("Which is real?", ["a", "z"])
    assert figures(votes)[0].title == "Which is real?"
    exchange.write(study, "labelstudio", tmp_path / "out")
    exchange.write(study, "potato", tmp_path / "out")
    assert "profile" not in (tmp_path / "out/config.xml").read_text(encoding="utf-8")
    assert "THE USER" not in (tmp_path / "out/pairs.jsonl").read_text(encoding="utf-8")
