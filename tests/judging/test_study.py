"""Votes on disk: each once and in order, also after a crash or when an answer is sent again."""

import json
from pathlib import Path

import polars as pl
import pytest

from crslib import schemas
from crslib.dialogue.utterances import plain
from crslib.errors import CrsError
from crslib.judging import analysis
from crslib.judging.study import Study, open_study
from crslib.reporting import study as reporting
from tests.support.people_runs import make_runs


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return open_study(make_runs(tmp_path, 6), 3, 0, tmp_path / "people")


def cast(study: Study, rater: str, choice: str, key: str | None = None) -> dict:
    """Answers the rater's current question; the next state."""
    state = study.state(rater)
    key = key or f"{rater}-{state['order']}-{state['step']}"
    return study.vote(rater, key, state["order"], state["criterion"], choice, 1.5)


def test_a_state_holds_the_dialogues_and_no_condition(study: Study) -> None:
    state = study.state("ann")
    assert (state["order"], state["pairs"], state["step"], state["steps"]) == (0, 6, 0, 5)
    assert (state["criterion"], state["profile"]) == ("naturalness", None)
    sent = json.dumps(state)
    secrets = ["run-a", "run-b", "condition", "shuffled", "repeating", *study.pairs["pair_id"]]
    assert not [secret for secret in [*secrets, *study.pairs["left_dialogue"]] if secret in sent]
    assert state["left"][0]["pieces"][1] == ["Heat (1995)", True]
    for _ in range(4):
        state = cast(study, "ann", "tie")
    assert state["criterion"] == "consistency"
    assert state["profile"]["summary"].startswith("You enjoy western movies")


def test_votes_have_the_sides_that_were_shown(study: Study) -> None:
    opening = study.state("ann")["left"][0]["pieces"]
    for choice in ("left", "tie", "right"):
        cast(study, "ann", choice)
    rows = study.votes().select("criterion", "choice", "order", "seconds", "rater").rows()
    assert rows == [
        ("naturalness", "left", 0, 1.5, "ann"),
        ("flow", "tie", 1, 1.5, "ann"),
        ("user control", "right", 2, 1.5, "ann"),
    ]
    (vote,) = study.votes().head(1).to_dicts()
    (pair,) = study.pairs.filter(pair_id=vote["pair_id"]).to_dicts()
    first = {pair[f"{side}_condition"]: pair[f"{side}_turns"][0]["text"] for side in ("left", "right")}
    assert "".join(text for text, _ in opening) == plain(first[vote["left_condition"]])


def test_an_answer_sent_again_counts_once_and_an_outdated_one_never(study: Study) -> None:
    first = cast(study, "ann", "left", "k")
    assert study.vote("ann", "k", 0, "naturalness", "left", 1.5) == first
    late = study.vote("ann", "other", 0, "naturalness", "right", 1.5)
    assert late["note"] == "This had been answered before; here is the next."
    assert study.votes()["choice"].to_list() == ["left"]
    study.undo("ann", "u")
    study.vote("ann", "k", 0, "naturalness", "left", 1.5)  # withdrawn: an answer that arrives late does not restore it
    assert study.votes().is_empty()


def test_undo_is_a_record_and_goes_back_one_answer(study: Study) -> None:
    study.state("ann")
    assert study.undo("ann", "u0")["step"] == 0  # nothing to undo
    for choice in ("left", "left", "right"):
        cast(study, "ann", choice)
    assert study.undo("ann", "u1")["step"] == 2
    assert study.undo("ann", "u1")["step"] == 2  # sent again
    assert study.undo("ann", "u2")["step"] == 1
    cast(study, "ann", "tie", "new")
    assert study.votes()["choice"].to_list() == ["left", "tie"]
    acts = [json.loads(line)["act"] for line in (study.path / "votes.jsonl").read_text().splitlines()]
    assert acts == ["join", "vote", "vote", "vote", "undo", "undo", "vote"]


def test_a_torn_line_is_dropped(study: Study) -> None:
    cast(study, "ann", "left")
    cast(study, "bob", "right")
    with (study.path / "votes.jsonl").open("a") as file:
        file.write('{"act": "vote", "rater": "ann", "ke')
    again = Study(study.path)
    assert again.state("ann")["step"] == 1
    cast(again, "ann", "tie")
    assert again.votes().select("rater", "choice").rows() == [("ann", "left"), ("ann", "tie"), ("bob", "right")]


def test_a_rater_reaches_the_end(study: Study) -> None:
    state = study.state("ann")
    while not state["done"]:
        state = cast(study, "ann", "tie")
    assert study.votes().height == 6 * 5
    assert "left" not in state
    assert study.vote("ann", "late", 6, "naturalness", "left", 1.0)["done"]
    assert study.votes().height == 6 * 5


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"choice": "both"}, "'both' is not a choice"),
        ({"seconds": -1}, "-1 is not a number of seconds"),
        ({"rater": "eve"}, "'eve' has not begun"),
        ({"key": ""}, "'' is not the key"),
    ],
)
def test_invalid_answers_are_refused(study: Study, given: dict, sentence: str) -> None:
    study.state("ann")
    answer = {"rater": "ann", "key": "k", "order": 0, "criterion": "naturalness", "choice": "left", "seconds": 1}
    with pytest.raises(CrsError, match=sentence):
        study.vote(**answer | given)
    with pytest.raises(CrsError, match="is not a name"):
        study.state(" ")


@pytest.mark.parametrize("line", range(12))
@pytest.mark.parametrize("damage", ["cut", "nul", "field", "type"])
def test_a_damaged_line_of_votes_costs_at_most_that_answer(line: int, damage: str, study: Study) -> None:
    """Lines 0 to 1: two raters join; then ann and bob answer in turn. What is lost is asked again, and nothing else."""
    for rater in ("ann", "bob"):
        study.state(rater)
    for _ in range(5):
        for rater in ("ann", "bob"):
            cast(study, rater, "left")
    whole = study.votes().drop("at")
    reached = {rater: study.state(rater) for rater in ("ann", "bob")}
    file = study.path / "votes.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1]
    record = json.loads(lines[line])
    lines[line] = {
        "cut": lines[line][:40],
        "nul": b"\0" * 40,
        "field": json.dumps({"key": record["key"], "act": "vote", "rater": record["rater"]}).encode(),
        "type": json.dumps({**record, "rater": 7}).encode(),
    }[damage]
    file.write_bytes(b"\n".join(lines) + b"\n")
    again = Study(study.path)
    with pytest.warns(UserWarning, match=rf"votes\.jsonl: line {line + 1} is damaged"):
        n_left = again.votes().height
        assert n_left == (10 if line < 2 else 9)
        if n_left < 10:
            assert cast(again, record["rater"], "left", "anew")["note"] == ""
        assert again.votes().drop("at").equals(whole)
        assert {rater: again.state(rater) for rater in ("ann", "bob")} == reached
    assert b"\n".join(lines) in file.read_bytes(), "a person may still mend the line"


def test_a_vote_twice_and_an_undo_twice_count_once(study: Study) -> None:
    for _ in range(3):
        cast(study, "ann", "left")
    study.undo("ann", "u")
    file = study.path / "votes.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines, lines[-1], lines[1]]))
    with pytest.warns(UserWarning, match="repeats an earlier one"):
        assert study.votes()["order"].to_list() == [0, 1]


def test_a_vote_without_a_rater_is_refused_and_one_on_disk_spoils_no_report(study: Study) -> None:
    cast(study, "ann", "left")
    nobody = study.votes().with_columns(rater=pl.lit(None, pl.String))
    with pytest.raises(CrsError, match="vote 1: rater = None is not valid"):
        study.add(nobody)
    with pytest.raises(CrsError, match="vote 1: rater = '' is not valid"):
        study.add(nobody.with_columns(rater=pl.lit("")))
    (vote,) = nobody.to_dicts()
    with (study.path / "votes.jsonl").open("a") as file:  # as an earlier version did
        for taken in (vote, vote | {"rater": "eve", "criterion": "mood"}):
            file.write(json.dumps({"act": "import", "rater": taken["rater"], "key": "k", "vote": taken}) + "\n")
    with pytest.warns(UserWarning) as said:
        assert study.votes()["rater"].to_list() == ["ann"]
    for number, warning in enumerate(said, start=3):
        assert f"votes.jsonl: line {number} is damaged and left out" in str(warning.message)
    assert len(said) == 2
    with pytest.warns(UserWarning, match=r"line \d is damaged"):
        assert "1 votes of 1 raters" in reporting.write(Study(study.path)).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("column", "value"),
    [("order", -1), ("seconds", -1.0), ("seconds", float("inf")), ("preference", float("nan")), ("preference", 2.0)],
)
def test_a_vote_with_impossible_numbers_is_refused(column: str, value: float, study: Study) -> None:
    cast(study, "ann", "left")
    dtype = schemas.TABLES["votes"][column]
    with pytest.raises(CrsError, match=f"vote 1: {column} = "):
        study.add(study.votes().with_columns(pl.lit(value, dtype).alias(column), rater=pl.lit("eve")))


@pytest.mark.parametrize("order", [None, 0])
@pytest.mark.parametrize("at", [None, "2020-01-01T00:00:00.000+00:00"])
def test_an_imported_vote_does_not_override_what_its_rater_said_on_the_page(
    study: Study, order: int | None, at: str | None
) -> None:
    """Ann prefers the dialogue on the left; a file says that she preferred the other one, and earlier."""
    cast(study, "ann", "left")
    before = study.votes()
    won = analysis.win_rates(before)
    other = before.with_columns(choice=pl.lit("right"), order=pl.lit(order, pl.Int32), at=pl.lit(at, pl.String))
    with pytest.warns(UserWarning, match="1 votes are of raters who answered the same on the page; that counts"):
        assert study.add(other) == 1
    assert study.add(other) == 0
    assert study.votes()["choice"].to_list() == ["left", "right"]
    assert analysis.win_rates(study.votes()).equals(won)
    study.undo("ann", "u")  # the page's answer is withdrawn: the one from elsewhere is hers
    assert study.votes().equals(other)
    assert analysis.win_rates(study.votes())["value"].item() == 1 - won["value"].item()
