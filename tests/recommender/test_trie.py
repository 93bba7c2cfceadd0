"""Grounded decoding against its definition, by enumeration; invariants over random titles, priors and vocabularies."""

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


def weights(constraint: TitleConstraint, ids: Sequence[int]) -> dict[bytes, float]:
    choice = constraint.allowed(ids)
    assert choice is not None
    return {PIECES[t]: math.exp(w) for t, w in zip(*choice, strict=True)}


# ── by hand ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_has_the_mass_of_the_titles_that_continue_with_it() -> None:
    constraint = titles(["abc", "abd", "b"]).constraint(np.log([1.0, 2.0, 5.0]))
    opened = ids_of(b" [[")
    assert weights(constraint, opened) == pytest.approx({b"ab": 3 / 8, b"b": 5 / 8})
    assert weights(constraint, [*opened, *ids_of(b"ab")]) == pytest.approx({b"c": 1 / 3, b"d": 2 / 3})
    ids, logs = constraint.allowed(opened) or ((), ())
    assert (ids.dtype, logs.dtype) == (np.int32, np.float32)


def test_a_title_is_written_in_the_tokens_of_the_tokenizer_only() -> None:
    constraint = titles(["abc", "a"]).constraint(np.zeros(2))
    assert weights(constraint, ids_of(b"[[")) == pytest.approx({b"ab": 1 / 2, b"a": 1 / 2})
    assert weights(constraint, ids_of(b"[[", b"a")).keys() == {b"]", b"]]", b"]]."}


def test_a_title_that_the_tokenizer_joins_with_the_brackets_has_tokens_of_its_own() -> None:
    constraint = titles(["'ab"]).constraint(np.zeros(1))  # in a mention: `[['`, `ab`
    assert constraint.forced(ids_of(b"[[")) == ids_of(b"'", b"ab")


def test_weight_is_the_exponent_of_the_prior() -> None:
    constraint = titles(["a", "b"]).constraint(np.log([1.0, 3.0]), weight=2.0)
    assert weights(constraint, ids_of(b"[[")) == pytest.approx({b"a": 1 / 16, b"b": 9 / 16})


def test_the_closing_token_may_include_the_end_of_the_title_and_the_next_words() -> None:
    constraint = titles(["a (1)", "a (1) b"]).constraint(np.log([1.0, 3.0]))
    written = ids_of(b"[[", b"a", b" (", b"1")
    assert weights(constraint, written) == pytest.approx({b")": 1, b")]]": 1 / 4})
    assert weights(constraint, [*written, *ids_of(b")")]) == pytest.approx(
        {b"]": 1 / 4, b"]]": 1 / 4, b"]].": 1 / 4, b" ": 3 / 4}
    )
    assert weights(constraint, [*written, *ids_of(b")", b"]")]) == {b"]": 1, b"],": 1}
    for closing in ([b")", b"]", b"],"], [b")]]"], [b")", b"]]."]):
        assert not constraint.open([*written, *ids_of(*closing)])
        assert weights(constraint, [*written, *ids_of(*closing, b" [[", b"a", b" (", b"1", b")")]) == {b" ": 1}


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


def drawn(constraint: TitleConstraint, pieces: Sequence[bytes], logit: Callable[[bytes, bytes], float]) -> dict:
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
        tokens, logs = constraint.allowed(ids)  # type: ignore[misc]
        scores = np.exp([logit(written, pieces[t]) + w for t, w in zip(tokens, logs, strict=True)])
        paths += [([*ids, int(t)], chance * s / scores.sum()) for t, s in zip(tokens, scores, strict=True)]
    return names


Way = tuple[bytes, ...]


def closings(rest: bytes, pieces: Sequence[bytes]) -> Iterator[Way]:
    """All ways to write `rest`, the last token perhaps with words after it."""
    for piece in pieces:
        if piece.startswith(rest) and not {*piece[len(rest) :]} & {*b"[]"}:
            yield (piece,)
        elif rest.startswith(piece):
            yield from ((piece, *more) for more in closings(rest[len(piece) :], pieces))


def ways(name: str, pieces: Sequence[bytes]) -> list[Way]:
    """All ways to write a title and to close its mention."""
    spelled = {before: [pieces[t] for t in tokenizer(pieces)(before + name)] for before in (" [[", "\n")}
    parts = next(
        parts[n:]
        for before, parts in spelled.items()
        for n in range(len(parts))
        if b"".join(parts[:n]) == before.encode()
    )
    return [(*parts, *closing) for closing in closings(b"]]", pieces)] + [
        (*parts[:-1], *closing)
        for closing in closings(parts[-1] + b"]]", pieces)
        if closing[0].startswith(parts[-1] + b"]")
    ]


def defined(mass: dict[str, float], pieces: Sequence[bytes], logit: Callable[[bytes, bytes], float]) -> dict:
    """The same from the definition: P(token) ∝ P_model(token) · (mass of the titles going on with it / mass here)."""
    all_ways = {(name, way) for name in mass for way in ways(name, pieces)}

    def titles_from(written: Way) -> set[str]:
        return {name for name, way in all_ways if way[: len(written)] == written}

    names: dict[bytes, float] = {}
    paths: list[tuple[Way, float]] = [((), 1.0)]
    while paths:
        written, chance = paths.pop()
        here = titles_from(written)
        if finished := [name for name, way in all_ways if way == written]:
            assert here == {*finished}
            names[finished[0].encode()] = names.get(finished[0].encode(), 0.0) + chance
            continue
        worth = {
            piece: math.exp(logit(b"".join(written), piece))
            * sum(mass[name] for name in titles_from((*written, piece)))
            for piece in {way[len(written)] for _, way in all_ways if way[: len(written)] == written}
        }
        paths += [((*written, piece), chance * value / sum(worth.values())) for piece, value in worth.items()]
    return names


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


def constrained(names: Sequence[str], mass: Sequence[float], excluded: Sequence[int], pieces: Sequence[bytes]):
    with np.errstate(divide="ignore"):
        return Titles(names, pieces, tokenizer(pieces)).constraint(np.log(mass), excluded)


@settings(max_examples=150)
@given(cases())
def test_titles_are_drawn_with_the_defined_probability(case) -> None:
    names, mass, excluded, pieces = case
    assume(expected := of_mass(names, mass, excluded))
    probabilities = drawn(constrained(*case), pieces, model_logit)
    assert probabilities.keys() == {name.encode() for name in expected}  # all titles that are allowed, and no others
    assert probabilities == pytest.approx(defined(expected, pieces, model_logit), rel=1e-4)


@settings(max_examples=100)
@given(cases(closing=False))
def test_an_indifferent_model_draws_from_the_prior_whatever_the_tokens(case) -> None:
    expected = of_mass(*case[:3])
    assume(expected)
    probabilities = drawn(constrained(*case), case[3], lambda written, piece: 0.0)
    total = sum(expected.values())
    assert probabilities == pytest.approx({name.encode(): m / total for name, m in expected.items()}, rel=1e-4)


@settings(max_examples=200)
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
            assert all(np.array_equal(a, b) for a, b in zip(choice, again, strict=True))
            tokens = choice[0].tolist()
        for n, token in enumerate(forced):
            assert token in constraint.allowed(ids + forced[:n])[0]  # type: ignore[index]
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
                share = dict(zip(choice[0].tolist(), np.exp(choice[1]), strict=True))
                assert share[token] > 0, name
                assert not forced or forced[0] == token, name
                if not any(model.pieces[t].startswith(b"]") for t in share):
                    going_on = sum(s for t, s in share.items() if b"]" not in model.pieces[t])
                    assert going_on == pytest.approx(1, rel=1e-4)
                ids.append(token)
            assert utterances.mentions(utterances.clean(model.decode(ids)))[0][0] == name
            assert constraint.allowed(ids) is None
