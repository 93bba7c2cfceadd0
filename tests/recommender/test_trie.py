"""Titles are drawn from the stated distribution, by enumeration; invariants over random titles and vocabularies."""

import math
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crslib.config import ROOT
from crslib.dialogue import utterances
from crslib.engines.llama import Model, model_path
from crslib.errors import CrsError
from crslib.recommender.trie import TitleConstraint, Titles
from tests.support.fuzz import tries

BYTES = [bytes((i,)) for i in range(256)]  # token i is byte i
WORDS = [b" [[", b"[[", b"]]", b")]]", b"]].", b"],", b"]] [[", b"[['", b"[[[", b"]]]", b"(", b"ab", b"bc", b" ("]
PIECES = [*BYTES, b"", *WORDS]  # token 256 is no text


def tokenizer(pieces: Sequence[bytes]) -> Callable[[str], list[int]]:
    """The longest token at each byte."""

    def encode(text: str) -> list[int]:
        raw, ids = text.encode(), []
        while raw:
            ids.append(max((t for t, p in enumerate(pieces) if p and raw.startswith(p)), key=lambda t: len(pieces[t])))
            raw = raw[len(pieces[ids[-1]]) :]
        return ids

    return encode


def titles(names: Sequence[str], pieces: Sequence[bytes] = PIECES) -> Titles:
    return Titles(names, pieces, tokenizer(pieces))


def ids_of(*words: bytes) -> list[int]:
    return [PIECES.index(word) for word in words]


def sets(constraint: TitleConstraint, ids: Sequence[int]) -> list[tuple[set[bytes], float]]:
    """The tokens of each alternative, and its share of the weight."""
    choice = constraint.allowed(ids)
    assert choice is not None
    worth = np.exp(choice.weights)
    tokens = [{PIECES[t] for t in part} for part in np.split(choice.tokens, choice.starts[1:])]
    return list(zip(tokens, (worth / worth.sum()).tolist(), strict=True))


def weights(constraint: TitleConstraint, ids: Sequence[int]) -> dict[bytes, float]:
    """The share of each token, all alternatives having one."""
    alternatives = sets(constraint, ids)
    assert all(len(tokens) == 1 for tokens, _ in alternatives)
    return {token: share for tokens, share in alternatives for token in tokens}


# ── by hand ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_has_the_mass_of_the_titles_that_continue_with_it() -> None:
    constraint = titles(["abc", "abd", "b"]).constraint(np.log([1.0, 2.0, 5.0]))
    opened = ids_of(b" [[")
    assert weights(constraint, opened) == pytest.approx({b"ab": 3 / 8, b"b": 5 / 8})
    assert weights(constraint, [*opened, *ids_of(b"ab")]) == pytest.approx({b"c": 1 / 3, b"d": 2 / 3})
    choice = constraint.allowed(opened)
    assert choice is not None and (choice.tokens.dtype, choice.scores(np.zeros(2)).dtype) == (np.int32, np.float32)


def test_a_title_is_written_in_the_tokens_of_the_tokenizer_only() -> None:
    constraint = titles(["abc", "a"]).constraint(np.zeros(2))
    assert weights(constraint, ids_of(b"[[")) == pytest.approx({b"ab": 1 / 2, b"a": 1 / 2})
    assert sets(constraint, ids_of(b"[[", b"a")) == [({b"]", b"]]", b"]]."}, 1)]


def test_a_title_that_the_tokenizer_joins_with_the_brackets_has_tokens_of_its_own() -> None:
    constraint = titles(["'ab"]).constraint(np.zeros(1))  # in a mention: `[['`, `ab`
    assert constraint.forced(ids_of(b"[[")) == ids_of(b"'", b"ab")


def test_the_power_is_the_exponent_of_the_model_and_not_of_the_weights() -> None:
    choice = titles(["a", "b"]).constraint(np.log([1.0, 3.0]), power=2.0).allowed(ids_of(b"[["))
    assert choice is not None and [PIECES[t] for t in choice.tokens] == [b"a", b"b"]
    probabilities = np.exp(choice.scores(np.log([0.2, 0.1])))  # 0.2² · 1 and 0.1² · 3
    assert probabilities / probabilities.sum() == pytest.approx([4 / 7, 3 / 7])


def test_a_title_closes_as_the_model_likes_whatever_the_power() -> None:
    choice = titles(["a"]).constraint(np.zeros(1), power=0.5).allowed(ids_of(b"[[", b"a"))
    assert choice is not None and [PIECES[t] for t in choice.tokens] == [b"]", b"]]", b"]]."]
    probabilities = np.exp(choice.scores(np.log([0.1, 0.2, 0.5])))
    assert probabilities / probabilities.sum() == pytest.approx([1 / 8, 2 / 8, 5 / 8])


def test_nothing_is_entered_for_titles_that_are_excluded_or_whose_rest_is_hardly_written() -> None:
    """After `a`, the model all but always writes `b`. Without "ab", there is little to enter `a` for."""
    catalogue = titles(["a b", "a c", "d e"])
    table = np.log([[0.9, 1, 0.98, 1], [0.9, 1, 0.01, 1], [0.1, 1, 1, 1]])
    opened = ids_of(b"[[")
    whole = catalogue.constraint(np.zeros(3), power=1.0, table=table)
    assert weights(whole, opened) == pytest.approx({b"a": 0.99 / 1.99, b"d": 1 / 1.99})
    without = catalogue.constraint(np.zeros(3), [0], power=1.0, table=table)
    assert weights(without, opened) == pytest.approx({b"a": 0.01 / 1.01, b"d": 1 / 1.01})
    assert weights(without, [*opened, *ids_of(b"a", b" ")]) == {b"c": 1}


def test_the_closing_token_may_include_the_end_of_the_only_title_that_goes_on_with_it() -> None:
    both = titles(["a (1)", "a (1) b"])
    written = ids_of(b"[[", b"a", b" (", b"1")
    alone = both.constraint(np.zeros(2), [1])
    assert sets(alone, written) == [({b")", b")]]"}, 1)]
    assert not alone.open([*written, *ids_of(b")]]")])
    constraint = both.constraint(np.log([1.0, 3.0]))
    assert weights(constraint, written) == {b")": 1}
    (closing, share), (going_on, other) = sets(constraint, [*written, *ids_of(b")")])
    assert (closing, going_on) == ({b"]", b"]]", b"]]."}, {b" "})
    assert (share, other) == (pytest.approx(1 / 4), pytest.approx(3 / 4))
    assert sets(constraint, [*written, *ids_of(b")", b"]")]) == [({b"]", b"],"}, 1)]
    for end in ([b"]", b"],"], [b"]]."]):
        assert not constraint.open([*written, *ids_of(b")", *end)])
        assert weights(constraint, [*written, *ids_of(b")", *end, b" [[", b"a", b" (", b"1", b")")]) == {b" ": 1}


def test_items_of_one_name_add_up_and_are_excluded_together() -> None:
    both = titles(["a", "b", "a"])
    assert weights(both.constraint(np.log([1.0, 2.0, 3.0])), ids_of(b"[[")) == pytest.approx({b"a": 2 / 3, b"b": 1 / 3})
    assert weights(both.constraint(np.zeros(3), [2]), ids_of(b"[[")) == {b"b": 1}


def test_a_title_is_allowed_once() -> None:
    constraint = titles(["a", "b"]).constraint(np.zeros(2))
    written = ids_of(b"[[", b"a", b"]]", b" [[")
    assert weights(constraint, written) == {b"b": 1}
    assert constraint.forced(written) == ids_of(b"b")
    assert weights(constraint, written[:1]).keys() == {b"a", b"b"}  # shorter ids undo what followed them


def test_outside_a_mention_only_tokens_that_open_one_and_go_on_are_excluded() -> None:
    constraint = titles(["a", "'a"]).constraint(np.zeros(2))
    assert constraint.allowed([]) is None
    assert constraint.allowed(ids_of(b"a", b"]]", b"(")) is None
    assert [PIECES[t] for t in constraint.never] == [b"[['", b"[[["]


def test_a_bracket_opens_a_mention() -> None:
    constraint = titles(["a"]).constraint(np.zeros(1))
    assert weights(constraint, ids_of(b"a", b"[")) == {b"[": 1}
    assert weights(constraint, ids_of(b"a", b"[", b"[")) == {b"a": 1}


def test_without_a_title_left_no_mention_is_opened() -> None:
    openers = {b"[", b" [[", b"[[", b"]] [[", b"[['", b"[[["}
    only_a = titles(["a"])
    none = only_a.constraint(np.zeros(1), [0])
    assert {PIECES[t] for t in none.never} == openers
    for written in (
        [],
        ids_of(b"["),
        ids_of(b"[", b"["),
        ids_of(b"[["),
    ):  # a bracket that comes nevertheless opens no mention
        assert none.allowed(written) is None
        assert none.forced(written) == []
    constraint = only_a.constraint(np.zeros(1))
    assert b"[" not in {PIECES[t] for t in constraint.never}
    assert constraint.allowed(ids_of(b"[[", b"a", b"]]")) is None
    assert {PIECES[t] for t in constraint.never} == openers
    assert constraint.allowed([]) is None
    assert b"[" not in {PIECES[t] for t in constraint.never}


def test_forced_tokens_are_those_shared_by_all_titles_left() -> None:
    constraint = titles(["ab ab (1)", "ab abc", "c"]).constraint(np.zeros(3))
    assert constraint.forced(ids_of(b"[[")) == []
    assert constraint.forced(ids_of(b"[[", b"ab")) == ids_of(b" ", b"ab")
    assert constraint.forced(ids_of(b"[[", b"ab", b" ", b"ab", b" (")) == ids_of(b"1")  # ")]]" is the model's
    assert constraint.forced(ids_of(b"[[", b"ab", b" ", b"ab", b"c")) == []
    assert constraint.forced(ids_of(b"[[", b"c", b"]")) == []
    assert constraint.forced(ids_of(b"ab")) == []


def test_an_utterance_is_open_until_the_mention_is_closed() -> None:
    constraint = titles(["ab"]).constraint(np.zeros(1))
    written = ids_of(b"(", b"[", b"[", b"ab", b"]", b"]")
    assert [constraint.open(written[:n]) for n in range(7)] == [False] * 3 + [True] * 3 + [False]


@pytest.mark.parametrize("words", [[b"c"], [b"a"], [b"]]"], [b"ab", b"],"], [b"ab", b"]", b" "], [b"ab", b"ab"]])
def test_text_that_no_title_fits_is_no_mention(words: list[bytes]) -> None:
    constraint = titles(["ab"]).constraint(np.zeros(1))
    written = ids_of(b"[[", *words)
    assert not constraint.open(written)
    assert constraint.allowed(written) is None
    assert constraint.forced([*written, *ids_of(b"[[")]) == ids_of(b"ab")


def test_a_mass_below_floating_point_is_still_allowed() -> None:
    constraint = titles(["a", "b", "c"]).constraint(np.array([0.0, -5000.0, 9000.0]), [2])
    assert weights(constraint, ids_of(b"[[")).keys() == {b"a", b"b"}


@pytest.mark.parametrize("name", ["", " a", "a\nb"])
def test_a_name_that_cannot_be_read_back_from_its_mention_is_an_error(name: str) -> None:
    with pytest.raises(CrsError, match="cannot be mentioned"):
        titles([name])


def test_an_unusable_vocabulary_is_an_error() -> None:
    with pytest.raises(CrsError, match="cannot spell 'é'"):
        Titles(["é"], PIECES, lambda text: [ord(c) for c in text.replace("é", "?")])
    for missing in (b"[", b"]"):
        with pytest.raises(CrsError, match="no token"):
            titles(["a"], [piece for piece in PIECES if piece != missing])


@pytest.mark.parametrize("prior", [[0.0], [0.0, math.nan], [0.0, math.inf]])
def test_a_prior_of_wrong_shape_or_values_is_an_error(prior: list[float]) -> None:
    with pytest.raises(CrsError, match="each of the 2 names"):
        titles(["a", "b"]).constraint(np.array(prior))


def test_brackets_in_a_name_become_round() -> None:
    constraint = titles(["[a]"]).constraint(np.zeros(1))
    assert weights(constraint, ids_of(b"[[")) == {b"(": 1}


# ── by enumeration ──────────────────────────────────────────────────────────────────────────────────────────────


def model_logit(written: bytes, piece: bytes) -> float:
    """A language model with fixed arbitrary numbers."""
    return random.Random(written + b"|" + piece).gauss(0, 2)


def log_model(written: bytes, pieces: Sequence[bytes]) -> np.ndarray:
    """Its log-probabilities of all pieces."""
    logits = np.array([model_logit(written, piece) for piece in pieces])
    return logits - np.logaddexp.reduce(logits)


def drawn(constraint: TitleConstraint, pieces: Sequence[bytes]) -> dict[bytes, float]:
    """Probability of each title, over all token paths that the constraint allows."""
    opener = [pieces.index(b"[[")]
    names: dict[bytes, float] = {}
    paths = [(opener, 1.0)]
    while paths:
        ids, chance = paths.pop()
        written = b"".join(pieces[t] for t in ids)[2:]
        if not constraint.open(ids):
            name = written.split(b"]]")[0]
            names[name] = names.get(name, 0.0) + chance
            continue
        choice = constraint.allowed(ids)
        assert choice is not None
        scores = np.exp(choice.scores(log_model(written, pieces)[choice.tokens]).astype(float))
        paths += [([*ids, int(t)], chance * s / scores.sum()) for t, s in zip(choice.tokens, scores, strict=True)]
    return names


def read_table(titles: Titles, pieces: Sequence[bytes]) -> np.ndarray:
    """What the model says of every token of every title, and of the bracket that closes it."""
    table = np.zeros((len(titles.spellings), max(map(len, titles.spellings)) + 1))
    for row, spelling in enumerate(titles.spellings):
        for depth, token in enumerate([*spelling, pieces.index(b"]")]):
            table[row, depth] = log_model(b"".join(pieces[t] for t in spelling[:depth]), pieces)[token]
    return table


LETTERS = "ab é("
NAMES = st.lists(
    st.text(LETTERS, min_size=1, max_size=5).map(lambda name: " ".join(name.split())).filter(bool),
    min_size=1,
    max_size=6,
)


@st.composite
def cases(draw: st.DrawFn, closing: bool = True) -> tuple[list[str], list[float], list[int], list[bytes]]:
    """Names, their mass (sometimes 0), which are excluded, and a vocabulary of bytes and pieces of utterances, with or
    without tokens that close a mention."""
    names = draw(NAMES)
    mass = draw(st.lists(st.sampled_from([0.0, 0.1, 1.0, 2.0, 30.0]), min_size=len(names), max_size=len(names)))
    excluded = draw(st.lists(st.sampled_from(range(len(names))), max_size=2))
    pieces = [b"[[", *(bytes((b,)) for b in sorted({*LETTERS.encode(), *b"[]. \n"}))]
    talk = " ".join(f" [[{name}]]. (" for name in names).encode()
    for _ in range(draw(st.integers(0, 8))):
        begin = draw(st.integers(0, len(talk) - 1))
        piece = talk[begin : begin + draw(st.integers(2, 7))]
        if closing or b"]" not in piece:
            pieces.append(piece)
    return names, mass, excluded, list(dict.fromkeys(pieces))


def of_mass(names: Sequence[str], mass: Sequence[float], excluded: Sequence[int]) -> dict[str, float]:
    """The titles that are allowed, with the mass of all items of that name."""
    excluded_names = {names[i] for i in excluded}
    total: dict[str, float] = {}
    for name, m in zip(names, mass, strict=True):
        if name not in excluded_names and m > 0:
            total[name] = total.get(name, 0.0) + m
    return total


def catalogue_of(names: Sequence[str], pieces: Sequence[bytes]) -> Titles:
    return Titles(names, pieces, tokenizer(pieces))


def normalised(worth: dict[str, float]) -> dict[bytes, float]:
    total = sum(worth.values())
    return {name.encode(): value / total for name, value in worth.items()}


@settings(max_examples=tries(150))
@given(cases(closing=False), st.sampled_from([0.3, 0.5, 1.0, 1.4]))
def test_titles_are_drawn_from_the_mixture_over_whole_titles(case, power: float) -> None:
    names, mass, excluded, pieces = case
    assume(expected := of_mass(names, mass, excluded))
    catalogue = catalogue_of(names, pieces)
    table = read_table(catalogue, pieces)
    read = dict(zip(catalogue.names, table.sum(axis=1), strict=True))
    mixture = {name: m * math.exp(power * read[name]) for name, m in expected.items()}
    with np.errstate(divide="ignore"):
        constraint = catalogue.constraint(np.log(mass), excluded, power=power, table=table)
    probabilities = drawn(constraint, pieces)
    assert probabilities.keys() == {name.encode() for name in expected}  # all titles that are allowed, and no others
    assert probabilities == pytest.approx(normalised(mixture), rel=1e-4)


@settings(max_examples=tries(100))
@given(cases(closing=False), st.integers(0, 99))
def test_with_another_table_the_factors_along_a_title_are_those_of_the_formula(case, seed: int) -> None:
    names, mass, excluded, pieces = case
    assume(expected := of_mass(names, mass, excluded))
    catalogue = catalogue_of(names, pieces)
    table, own = read_table(catalogue, pieces), catalogue.spellings
    table += np.random.default_rng(seed).normal(0, 1, table.shape) * (table < 0)
    with np.errstate(divide="ignore"):
        constraint = catalogue.constraint(np.log(mass), excluded, power=0.5, table=table)

    def worth(spelling: tuple[int, ...]) -> float:
        """Of all titles that begin with `spelling`, by the table."""
        rows = [
            row
            for row, other in enumerate(own)
            if other[: len(spelling)] == spelling and catalogue.names[row] in expected
        ]
        return sum(expected[catalogue.names[row]] * math.exp(0.5 * table[row, len(spelling) :].sum()) for row in rows)

    for row, spelling in enumerate(own):
        if (name := catalogue.names[row]) not in expected:
            continue
        end, chance = pieces.index(b"]"), 1.0
        for depth, token in enumerate([*spelling, end]):
            read = np.exp(0.5 * log_model(b"".join(pieces[t] for t in spelling[:depth]), pieces))
            following = {other[depth] for other in own if other[:depth] == spelling[:depth] and len(other) > depth}
            alternatives = {t: read[t] * worth((*spelling[:depth], t)) for t in following}
            if spelling[:depth] in own and (ended := catalogue.names[own.index(spelling[:depth])]) in expected:
                alternatives[end] = read[end] * expected[ended]
            chance *= alternatives[token] / sum(alternatives.values())
        assert drawn(constraint, pieces)[name.encode()] == pytest.approx(chance, rel=1e-4)


@settings(max_examples=tries(100))
@given(cases())
def test_without_the_model_titles_are_drawn_by_weight_whatever_the_tokens(case) -> None:
    names, mass, excluded, pieces = case
    assume(expected := of_mass(names, mass, excluded))
    with np.errstate(divide="ignore"):
        constraint = catalogue_of(names, pieces).constraint(np.log(mass), excluded, power=0.0)
    assert drawn(constraint, pieces) == pytest.approx(normalised(expected), rel=1e-4)


@settings(max_examples=tries(200))
@given(cases(), st.integers(0, 2**32))
def test_whatever_is_drawn_only_titles_left_are_mentioned_and_once(case, seed: int) -> None:
    names, mass, excluded, pieces = case
    all_titles = Titles(names, pieces, tokenizer(pieces))
    with np.errstate(divide="ignore"):
        prior = np.log(mass)
    constraint, rng = all_titles.constraint(prior, excluded), random.Random(seed)
    ids: list[int] = []
    for _ in range(40):
        choice, forced = constraint.allowed(ids), constraint.forced(ids)
        fresh = all_titles.constraint(prior, excluded)
        again = fresh.allowed(ids)
        assert fresh.forced(ids) == forced
        assert (again is None) == (choice is None)
        assert np.array_equal(fresh.never, constraint.never)
        if choice is None or again is None:
            tokens = sorted(set(range(len(pieces))) - set(constraint.never.tolist()))
        else:
            assert np.array_equal(choice.tokens, again.tokens) and np.array_equal(choice.weights, again.weights)
            tokens = choice.tokens.tolist()
        for n, token in enumerate(forced):
            assert token in constraint.allowed(ids + forced[:n]).tokens  # type: ignore[union-attr]
        # Brackets are rare in dialogues and common here.
        ids.append(rng.choice([t for t in tokens if b"[" in pieces[t]] or tokens if rng.random() < 0.3 else tokens))
    text = b"".join(pieces[t] for t in ids).decode("utf-8", "replace")
    written = [name for name, _, _ in utterances.mentions(utterances.clean(text))]
    assert len(written) == len(set(written))
    assert {*written} <= of_mass(names, mass, excluded).keys()


# ── the built-in vocabulary and catalogue ───────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    loaded = Model(model_path("smollm2"))
    yield loaded
    loaded.close()


@pytest.mark.model
def test_every_title_can_be_written_in_the_tokenizers_tokens_and_in_no_others(model: Model) -> None:
    items = pl.read_parquet(ROOT / "data" / "items.parquet").sort("item_id")
    names = [utterances.item_name(title, year) for title, year in zip(items["title"], items["year"], strict=True)]
    catalogue = Titles(names, model.pieces, model.encode)
    opening = "Have you seen [["
    opened = model.encode(opening)
    for name in [name for name in names if name[0].isalnum()][::50]:
        for closing in ("]].", "]]?", "]] yet"):
            constraint = catalogue.constraint(np.zeros(len(names)))
            ids = list(opened)
            for token in model.encode(f"{opening}{name}{closing}")[len(opened) :]:
                if not constraint.open(ids):
                    break
                forced, choice = constraint.forced(ids), constraint.allowed(ids)
                assert choice is not None
                assert token in choice.tokens, name
                assert not forced or forced[0] == token, name
                ids.append(token)
            assert utterances.mentions(utterances.clean(model.decode(ids)))[0][0] == name
            assert constraint.allowed(ids) is None
