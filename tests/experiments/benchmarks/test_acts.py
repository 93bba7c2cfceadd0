import polars as pl
import pytest

from crslib.experiments.benchmarks import acts as benchmark


def test_accuracy_by_hand() -> None:
    """Four user turns; labels: a, a, ab, b; tags: a, b, a, b."""
    keys = {"dialogue_id": ["d", "d", "e", "e"], "turn": [0, 1, 0, 1], "role": ["user"] * 4}
    types = {"turn": pl.Int32}
    labelled = pl.DataFrame({**keys, "acts": [["a"], ["a"], ["a", "b"], ["b"]]}, schema_overrides=types)
    tagged = pl.DataFrame({**keys, "act": ["a", "b", "a", "b"]}, schema_overrides=types)
    rows = {row["act"]: row for row in benchmark.accuracy(labelled, tagged).filter(role="user").to_dicts()}
    # a: labelled 3, tagged 2, both 2 → F1 4/5; agreed on 3 of 4, by chance (3·2 + 1·2)/16 = 1/2 → kappa 1/2.
    assert (rows["a"]["labelled"], rows["a"]["tagged"], rows["a"]["f1"], rows["a"]["kappa"]) == (3, 2, 0.8, 0.5)
    # b: labelled 2, tagged 2, both 1 → F1 1/2; agreed on 2 of 4, by chance 1/2 → kappa 0.
    assert (rows["b"]["f1"], rows["b"]["kappa"]) == (0.5, 0.0)
    assert rows["micro"]["f1"] == pytest.approx(2 * 3 / 9, abs=1e-4)
    assert rows["macro"]["f1"] == 0.65
    assert rows["macro"]["kappa"] == 0.25
