"""Grounding: which items may be named, by which mixture, and the table of the model, read once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.engines.scripted import ScriptedEngine
from crslib.errors import CrsError
from crslib.recommender.grounding import CatalogTitles, Grounding, RealTitles
from crslib.recommender.mixture import Mixture
from crslib.recommender.prior import Utterance
from tests.support.domains import MOVIES


class Even:
    """A "model" of bytes to which all are equally likely; counts how often it is asked."""

    chat_template = ("", "", "")
    pieces = tuple(bytes((byte,)) for byte in range(256))

    def __init__(self, name: str = "even") -> None:
        self.asked, self.identity = 0, dict[str, Any](model_sha256=name)

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        return list(text.encode())

    def score_tokens(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[np.ndarray]:
        self.asked += 1
        return [np.full(len(one), -np.log(256)) for one in continuations]


SAID = [
    Utterance(RECOMMENDER, "Seen [[Heat (1995)]]?", ["1"]),
    Utterance(USER, "Yes, and [[Up (2009)]]", ["6"]),
]


def grounded(items: pl.DataFrame, mixture: Mixture) -> Grounding:
    return Grounding(CatalogTitles(items, Even(), MOVIES, cache=None), None, mixture)


def initials(grounding: Grounding, history: Sequence[Utterance]) -> dict[str, float]:
    """The shares of the first letters."""
    choice = grounding.constraint(history).allowed(list(b"[["))
    assert choice is not None
    worth = np.exp(choice.weights)
    return dict(zip(map(chr, choice.tokens.tolist()), (worth / worth.sum()).tolist(), strict=True))


def test_what_was_recommended_is_excluded_and_what_the_user_named_is_not(items: pl.DataFrame) -> None:
    grounding = grounded(items, Mixture(1.0, 1.0, 1.0))
    assert initials(grounding, SAID).keys() == {"K", "N", "T", "U"}
    shares = grounding.shares(SAID)
    assert shares["Heat (1995)"] == -np.inf
    assert shares["Up (2009)"] == pytest.approx(-np.log(5))


def test_the_base_takes_out_how_long_a_title_is(items: pl.DataFrame) -> None:
    """Up is three bytes and Notting Hill twelve, to the blank before the year; King Kong is two films."""
    level = initials(grounded(items, Mixture(0.5, 1.0, 0.5)), [])
    # What a title is worth behind its first letter has that letter's probability taken out of it, the same for all.
    assert level == pytest.approx({"H": 1 / 6, "K": 2 / 6, "N": 1 / 6, "T": 1 / 6, "U": 1 / 6}, rel=1e-6)
    short = initials(grounded(items, Mixture(0.5, 1.0, 0.4)), [])
    assert short["U"] / short["N"] == pytest.approx(256 ** (0.1 * len("Notting Hill") - 0.1 * len("Up")))


def test_a_model_reads_the_titles_of_a_catalogue_once(
    items: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And anew where its weights were made in another way, or another kind of processor computes."""
    first, again, other = Even(), Even(), Even("other")
    tables = [CatalogTitles(items, engine, MOVIES, cache=tmp_path).table for engine in (first, again, other)]
    assert (first.asked, again.asked, other.asked) == (1, 0, 1)
    assert np.array_equal(tables[0], tables[1])
    CatalogTitles(items[:3], again, MOVIES, cache=tmp_path)
    assert again.asked == 1
    for n, (name, value) in enumerate([("weights", "merged otherwise, Q8_0"), ("n_gpu_layers", 9)], 2):
        again.identity[name] = value
        CatalogTitles(items, again, MOVIES, cache=tmp_path)
        assert again.asked == n
    monkeypatch.setattr("crslib.recommender.mixture.cpu", lambda: "another")
    CatalogTitles(items, again, MOVIES, cache=tmp_path)
    assert again.asked == 4


def test_titles_that_no_model_reads_cannot_count_by_one(items: pl.DataFrame) -> None:
    unread = CatalogTitles(items, Even(), MOVIES, reads=False)
    for mixture in (Mixture(1.0, 1.0, 0.0), Mixture(0.0, 1.0, 0.5)):
        with pytest.raises(CrsError, match="needs titles that a model reads"):
            Grounding(unread, None, mixture)
    assert initials(Grounding(unread, None, Mixture(0.0, 1.0, 0.0)), []).keys() == {"H", "K", "N", "T", "U"}


def test_an_engine_without_a_model_cannot_be_grounded(items: pl.DataFrame) -> None:
    engine = ScriptedEngine(lambda prompt, seed: "")
    engine.pieces = [bytes((byte,)) for byte in range(256)]
    with pytest.raises(CrsError, match="set grounding to off"):
        CatalogTitles(items, engine, MOVIES, cache=None)


def test_some_titles_are_likelier_to_a_user_than_they_are_to_its_model(items: pl.DataFrame) -> None:
    """Of a name without a title nothing follows, and without a reader nothing is likelier. The share of a kept title
    among all is the same as without."""
    likelier, kept = {"Heat (1995)", "Jaws (1975)"}, {"Notting Hill (1999)"}
    real = RealTitles(CatalogTitles(items, Even(), MOVIES, cache=None))
    plain, tilted = (real.constraint((), likelier, kept, by=by).allowed(list(b"[[")) for by in (0.0, 2.0))
    assert plain is not None and tilted is not None
    more = dict(zip(map(chr, plain.tokens.tolist()), (tilted.weights - plain.weights).tolist(), strict=True))
    assert {name: more[name] - more["U"] for name in "HKT"} == pytest.approx({"H": 2, "K": 0, "T": 0})
    before, after = (np.exp(one.weights) / np.exp(one.weights).sum() for one in (plain, tilted))
    named = list(more).index("N")
    assert after[named] == pytest.approx(before[named], rel=0.05)
    nothing = real.constraint((), (), kept, by=2.0).allowed(list(b"[["))
    assert nothing is not None and np.array_equal(nothing.weights, plain.weights)
    no_reader = RealTitles(CatalogTitles(items, Even(), MOVIES, reads=False))
    unread = no_reader.constraint(likelier=likelier, by=2.0).allowed(list(b"[["))
    assert unread is not None and set(unread.weights.tolist()) == {0.0}


def test_a_user_names_any_title_and_how_many_go_on_alike_does_not_count(items: pl.DataFrame) -> None:
    """King Kong is two films, so `K` leads to more titles than `H`; what the model says decides alone."""
    titles = RealTitles(CatalogTitles(items, Even(), MOVIES, reads=False))
    real = titles.constraint()
    choice = real.allowed(list(b"I love [["))
    assert choice is not None
    assert sorted(map(chr, choice.tokens.tolist())) == ["H", "K", "N", "T", "U"]
    assert set(choice.weights.tolist()) == {0.0} and choice.power == 1.0
    assert real.allowed(list(b"I love ")) is None
    assert real.forced(list(b"I love [[K")) == list(b"ing Kong (")
    assert titles.constraint().forced(list(b"[[H")) == list(b"eat (1995)")
    without = titles.constraint({"Heat (1995)", "Jaws (1975)"}).allowed(list(b"[["))
    assert without is not None
    assert sorted(map(chr, without.tokens.tolist())) == ["K", "N", "T", "U"]
