"""The pairs that raters see: balanced, with attention checks."""

from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from crslib.cli.main import main
from crslib.errors import CrsError
from crslib.judging.criteria import read_questions
from crslib.judging.pairs import build, is_check, n_pairs_of, schedule
from crslib.judging.study import Study, open_study
from crslib.runs import find_runs
from crslib.store import read_parquet
from crslib.web import server
from tests.support.people_runs import make_runs


def pairs_of(folder: Path, n_pairs: int, conditions: tuple[str, ...] = ("a", "b")) -> pl.DataFrame:
    return build(find_runs(make_runs(folder, 24, conditions=conditions)), n_pairs, 0)


def test_pairs_are_of_one_profile_and_conditions_are_equally_often_left(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, 20)
    compared = pairs.filter(~is_check())
    assert compared.height == 20
    assert compared["profile_id"].n_unique() == 20
    assert (compared["left_dialogue"] == compared["right_dialogue"]).all()
    assert compared["left_condition"].value_counts().sort("left_condition").rows() == [("a", 10), ("b", 10)]
    assert (compared["left_condition"] != compared["right_condition"]).all()
    first = compared.row(0, named=True)
    assert first["left_turns"][0]["text"].startswith(f"{first['profile_id']} says {first['left_condition']}0")


def test_three_conditions_are_compared_equally_often(tmp_path: Path) -> None:
    compared = pairs_of(tmp_path, 12, ("a", "b", "c")).filter(~is_check())
    conditions = Counter(frozenset(row) for row in compared.select("left_condition", "right_condition").rows())
    assert compared["profile_id"].n_unique() == 12
    assert conditions == {frozenset("ab"): 4, frozenset("ac"): 4, frozenset("bc"): 4}


def test_checks_compare_a_dialogue_with_its_corrupted_copy(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, 20)
    checks = pairs.filter(is_check())
    conditions = {side for row in checks.select("left_condition", "right_condition").rows() for side in row}
    assert conditions == {"a", "b", "shuffled", "repeating"}
    assert not set(checks["profile_id"]) & set(pairs.filter(~is_check())["profile_id"])


def test_every_condition_gets_both_kinds_of_check(tmp_path: Path) -> None:
    checks = pairs_of(tmp_path, 60, ("a", "b", "c")).filter(is_check())
    conditions = {frozenset(row) for row in checks.select("left_condition", "right_condition").rows()}
    assert conditions == {frozenset((condition, kind)) for condition in "abc" for kind in ("shuffled", "repeating")}


def test_each_rater_has_an_own_order_and_both_sides_are_seen(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, 20)
    compared = set(pairs.filter(~is_check())["pair_id"])
    shown = [schedule(pairs, number, 0) for number in range(2)]
    assert schedule(pairs, 0, 0) == shown[0]
    orders = [[showing.pair_id for showing in one] for one in shown]
    assert orders[0] != orders[1]
    for number, one in enumerate(shown):
        again = [pair for pair, times in Counter(orders[number]).items() if times == 2]
        assert set(orders[number]) == set(pairs["pair_id"])
        assert len(again) == 2
        assert set(again) <= compared
        for pair in again:
            first, second = (place for place, showing in enumerate(one) if showing.pair_id == pair)
            assert second - first > 5
            assert one[first].swapped != one[second].swapped
    swapped = [{showing.pair_id: showing.swapped for showing in reversed(one)} for one in shown]
    assert all(swapped[0][pair] != swapped[1][pair] for pair in compared)


def test_too_few_dialogues_or_runs_are_errors(tmp_path: Path) -> None:
    paths = make_runs(tmp_path, 3)
    with pytest.raises(CrsError, match="9 pairs asked for, but a, b have 3 of one profile"):
        build(find_runs(paths), 9, 0)
    with pytest.raises(CrsError, match="two or more runs"):
        build(find_runs(paths[:1]), 1, 0)
    with pytest.raises(CrsError, match="given twice"):
        find_runs([paths[0], paths[0]])
    with pytest.raises(CrsError, match="holds no dialogues"):
        find_runs([tmp_path])


def test_pairs_are_counted(tmp_path: Path) -> None:
    assert n_pairs_of(find_runs(make_runs(tmp_path, 5, conditions=("a", "b", "c"))), 0) == 15  # three of each profile
    with pytest.raises(CrsError, match="two or more runs"):
        n_pairs_of(find_runs([tmp_path / "a"]), 0)


def test_people_get_what_pairs_there_are_and_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = []
    monkeypatch.setattr(server, "serve", lambda study, *rest: served.append(study))
    paths = [str(path) for path in make_runs(tmp_path / "runs", 7)]
    words = ["people", "serve", *paths, "--reports", str(tmp_path)]
    few = CliRunner().invoke(main, words)
    assert (few.exit_code, few.stdout.split("\n")[0]) == (0, "7 pairs instead of 20: these runs have no more")
    again = CliRunner().invoke(main, [*words, "--pairs", "7"])
    assert again.stdout.split("\n")[0] == f"votes go to {served[0].path}"
    assert CliRunner().invoke(main, ["people", "serve", str(served[0].path)]).stdout == again.stdout
    assert [study.path for study in served] == [served[0].path] * 3
    assert read_parquet(served[0].path / "pairs.parquet", "pairs").filter(~is_check()).height == 7


def test_the_same_runs_open_the_same_study(tmp_path: Path) -> None:
    paths = make_runs(tmp_path, 4)
    first = open_study(paths, 3, 0, tmp_path / "people")
    assert open_study(paths, 3, 0, tmp_path / "people").path == first.path
    assert open_study([first.path], 3, 0, tmp_path / "people").path == first.path
    assert open_study(paths, 3, 1, tmp_path / "people").path != first.path
    with pytest.raises(CrsError, match=r"no readable study\.json"):
        Study(tmp_path)


def test_questions_are_checked(tmp_path: Path) -> None:
    criteria = [question.criterion for question in read_questions()]
    assert criteria == ["naturalness", "flow", "user control", "real", "consistency"]
    assert [question.criterion for question in read_questions() if question.profile] == ["consistency"]
    (tmp_path / "q.yaml").write_text("- {criterion: flow, questoin: Which one}\n")
    with pytest.raises(CrsError, match=r"0\.question is not valid: field required"):
        read_questions(tmp_path / "q.yaml")
