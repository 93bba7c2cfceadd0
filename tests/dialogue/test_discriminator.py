"""What a discriminator reads of an utterance, and how it is stored."""

import math
from pathlib import Path

import pytest

from crslib.config import ROOT
from crslib.dialogue.discriminator import Discriminator, features
from crslib.errors import CrsError


def test_features_are_words_and_pairs_with_titles_masked() -> None:
    assert set(features("Seen [[Up (2009)]]?")) == {"seen", "[]", "^ seen", "seen []", "[] $"}
    assert features("Seen [[Heat (1995)]]!") == features("seen [[Up (2009)]]")
    assert features("Up (2009)") != features("[[Up (2009)]]"), "a title without brackets is words"
    assert features("no no no") == ["^ no", "no", "no $", "no no"]
    assert features("") == features("?!") == []


def test_log_odds_are_the_sum_of_the_weights() -> None:
    judge = Discriminator(0.5, {"great": -2.0, "^ it": 1.0})
    assert judge.log_odds("It is great") == pytest.approx(0.5 - 2.0 + 1.0)
    assert judge.log_odds("great great") == pytest.approx(-1.5)
    assert judge.log_odds("") == 0
    assert 1 / (1 + math.exp(-judge.log_odds("hm"))) == pytest.approx(0.622, abs=1e-3)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    judge = Discriminator(-0.25, {"größe []": 0.5}, {"role": "user"})
    judge.write(tmp_path / "user.json")
    assert Discriminator.read(tmp_path / "user.json") == judge


@pytest.mark.parametrize(
    "content", ["", "[]", '{"intercept": 1}', '{"intercept": 0, "weights": {"a": "b"}, "about": {}}']
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "user.json").write_text(content, encoding="utf-8")
    with pytest.raises(CrsError, match="is no discriminator; fit one with `crs discriminator`"):
        Discriminator.read(tmp_path / "user.json")
    with pytest.raises(CrsError, match="cannot read the discriminator"):
        Discriminator.read(tmp_path / "none.json")


@pytest.mark.parametrize("role", ["user", "recommender"])
def test_the_shipped_ones_say_what_they_were_fitted_on(role: str) -> None:
    judge = Discriminator.read(ROOT / "data" / "discriminators" / f"{role}.json")
    assert judge.about["role"] == role
    assert "CC BY 4.0" in judge.about["data"]
    assert 0.5 < judge.about["accuracy"] < 1
    assert all(len(feature.split(" ")) <= 2 for feature in judge.weights)  # words and pairs, no sentence
