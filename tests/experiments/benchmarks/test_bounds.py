"""What an idea can gain at most: shares counted by hand, and consistent figures of a small call."""

from pathlib import Path

import polars as pl
import pytest

from crslib.config import SimulationParameters
from crslib.experiments.benchmarks import bounds
from crslib.store import Run


class Letters:
    """Each character is a token."""

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        return [*map(ord, text)]


def a_run(folder: Path, items: pl.DataFrame) -> Run:
    run = Run(folder)
    run.write("items", items)
    said = [("user", "abcabd"), ("recommender", "[[Up (2009)]]"), ("user", "ok"), ("recommender", "abcaxx")]
    rows = {"dialogue_id": "u.0", "turn": range(4), "role": [role for role, _ in said], "text": [t for _, t in said]}
    pl.DataFrame(rows).write_parquet(folder / "turns.parquet")
    fed = {"dialogue_id": "u.0", "turn": [1, 3], "role": "recommender", "text": ["12345678901", "1234567890"]}
    pl.DataFrame(fed).write_parquet(folder / "prompts.parquet")
    return run


def test_shares_are_counts_of_a_run(tmp_path: Path, items: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path, items)
    monkeypatch.setattr(Run, "read", lambda self, name: pl.read_parquet(self.path / f"{name}.parquet"))
    found = bounds.shares(run, Letters())
    drawn = len("[[Up (2009)]]") + 1 + len("abcaxx") + 1
    assert found.fed == pytest.approx(21 / drawn)
    # Of the six titles only one begins with U: all its letters but the first are forced.
    assert found.forced == pytest.approx(len("p (2009)") / drawn)
    # "ab" came before: "cab" and "d" followed; the later one, "d", is wrong after "ab". "bc" → "abd": "a" is right.
    assert found.accepted == pytest.approx(1 / (len("[[Up (2009)]]") + len("abcaxx")))


def test_a_draft_is_what_followed_the_last_time() -> None:
    assert bounds._right([1, 2, 3, 4, 1, 2], [3, 4, 9]) == 2
    assert bounds._right([1, 2, 3, 1, 2, 7, 1, 2], [3, 1]) == 0
    assert bounds._right([1, 2], [3]) == 0
    assert bounds._right([5, 5, 5], [5, 5]) == 1


@pytest.mark.model
def test_the_bounds_of_a_small_call_are_consistent(
    tmp_path: Path, items: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(tmp_path, items)
    monkeypatch.setattr(Run, "read", lambda self, name: pl.read_parquet(self.path / f"{name}.parquet"))
    monkeypatch.setattr(bounds, "_TIMES", 1)
    found = bounds.measure(run, SimulationParameters(weights="Q8_0", width=4, n_ctx=512, threads=1))
    assert found.columns == ["idea", "today_s", "idea_s", "gain", "by"]
    steps, pieces, *_ = found["today_s"]
    expected = [(today - best) / (steps + pieces) for today, best in found.select("today_s", "idea_s").iter_rows()]
    assert found["gain"].to_list() == pytest.approx(expected)
    assert (found["idea_s"] > 0).all()
    assert len(bounds.lines(found)) == 4
