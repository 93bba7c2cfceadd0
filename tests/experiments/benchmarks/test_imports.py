"""The benchmark of imports: its made-up file, and its figures."""

from pathlib import Path

import polars as pl
import pytest

from crslib.experiments.benchmarks import imports


def test_the_made_up_file_has_no_pair_twice(tmp_path: Path) -> None:
    imports.make(tmp_path, 16_000)
    rated = pl.read_csv(tmp_path / "ratings.csv")
    assert rated.height == 16_000 and rated["userId"].n_unique() == 100
    pairs = rated.select("userId", "movieId")
    assert not pairs.is_duplicated().any()
    assert pairs.equals(pairs.sort("userId", "movieId"))  # as ml-32m is
    assert rated["movieId"].is_between(1, imports.N_ITEMS).all()
    assert rated["rating"].is_between(0.5, 5).all()


@pytest.mark.parametrize("letter", ["", "x"])
def test_figures_are_of_one_file(letter: str) -> None:
    figures = imports.measure(160, letter=letter)
    assert figures["ratings"] == 160
    assert figures["import_s"] > 0 and figures["import_mb"] > 0 and figures["plain_cpu_s"] > 0
    assert figures["sorted_s"] > 0
    assert len(imports.lines(figures)) == 4
