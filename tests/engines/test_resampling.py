"""Resampling: completions are drawn again until one has no fault, or one of the best is drawn by weight."""

import math
from collections import Counter
from collections.abc import Sequence

import pytest

from crslib.engines.base import Completion, Request, complete
from crslib.engines.resampling import Resampling
from crslib.engines.scripted import ScriptedEngine
from crslib.identity import derive_seed


def scripted(*replies: str) -> ScriptedEngine:
    """Gives the replies in turn, whatever is asked."""
    left = iter(replies)
    return ScriptedEngine(lambda prompt, seed: next(left))


def drain(resampling: Resampling) -> dict[str, Completion]:
    ended: dict[str, Completion] = {}
    while resampling.pending:
        ended.update(resampling.step())
    return ended


def test_the_first_draw_without_a_fault_counts() -> None:
    engine = scripted("no", "no", "yes", "never drawn")
    resampling = Resampling(engine, 4)
    resampling.submit(Request("a", (1, 2, 3), 7), lambda completion: engine.decode(completion.ids) != "yes")
    completion = drain(resampling)["a"]
    assert (engine.decode(completion.ids), completion.n_cached) == ("yes", 0)
    assert len(engine.prompts) == 3
    assert resampling.refused == 2


def test_of_draws_with_faults_the_last_with_the_least_counts() -> None:
    faults = {"a": 2.0, "b": 1.0, "c": 1.0, "d": math.inf}
    engine = scripted(*faults)
    resampling = Resampling(engine, 4)
    resampling.submit(Request("a", (1,), 7), lambda completion: faults[engine.decode(completion.ids)])
    assert engine.decode(drain(resampling)["a"].ids) == "c"
    assert resampling.refused == 4


def test_the_last_draw_counts_where_all_are_as_bad_and_other_requests_are_unaffected() -> None:
    seeds: list[int] = []

    def reply(prompt: str, seed: int) -> str:
        seeds.append(seed)
        return str(seed)

    engine = ScriptedEngine(reply, width=1)
    resampling = Resampling(engine, 2)
    resampling.submit(Request("a", (1,), 7), lambda completion: 1)
    resampling.submit(Request("b", (1,), 8))
    ended = drain(resampling)
    assert engine.decode(ended["a"].ids) == str(derive_seed(7, "again", 1))
    assert engine.decode(ended["b"].ids) == "8"
    assert sorted(seeds) == sorted([7, 8, derive_seed(7, "again", 1)])


def test_it_is_an_engine_with_the_draws_in_its_identity() -> None:
    engine = ScriptedEngine(lambda prompt, seed: str(seed), n_ctx=5)
    resampling = Resampling(engine, 3)
    assert resampling.identity == {**engine.identity, "resample": 3}
    assert complete(resampling, [Request("a", (1,), 1)]) == complete(engine, [Request("b", (1,), 1)])
    resampling.submit(Request("c", (1,) * 5, 1), lambda completion: 1)
    assert resampling.step()[0][1].finish == "context_full"


# ── weights ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def weighted(replies: Sequence[str], weights: dict[str, float], fitting: str, seed: int) -> str:
    """Which of `replies` is kept, with these weights, where those in `fitting` fit."""
    engine = scripted(*replies)
    resampling = Resampling(engine, len(replies))

    def log_weight(completion: Completion) -> float:
        weight = weights[engine.decode(completion.ids)]
        return math.log(weight) if weight else -1e9

    resampling.submit(Request("a", (1,), seed), lambda one: engine.decode(one.ids) not in fitting, log_weight)
    return engine.decode(drain(resampling)["a"].ids)


def test_draws_are_kept_in_proportion_to_their_weights() -> None:
    kept = Counter(weighted("abc", {"a": 1, "b": 3, "c": 0}, "abc", seed) for seed in range(2000))
    assert set(kept) == {"a", "b"}
    assert kept["b"] / 2000 == pytest.approx(0.75, abs=0.04)


def test_only_draws_without_faults_are_weighed_or_all_where_there_are_none() -> None:
    weights = {"a": 1.0, "b": 3.0, "c": 1e6}
    assert {weighted("abc", weights, "ab", seed) for seed in range(50)} == {"a", "b"}
    assert {weighted("abc", weights, "a", seed) for seed in range(50)} == {"a"}
    assert {weighted("abc", weights, "", seed) for seed in range(50)} == {"c"}


def test_importance_resampling_turns_the_models_words_into_peoples() -> None:
    """The model says "a" in a fifth of its turns, people in four fifths: D / (1 − D) is 4 for "a" and 1/4 for "b"."""
    shares = {}
    for times in (1, 4, 16):
        engine = ScriptedEngine(lambda prompt, seed: "a" if seed / 0xFFFFFFFF < 0.2 else "b")
        resampling = Resampling(engine, times)
        for number in range(1500):
            request = Request(str(number), (1,), derive_seed(number, "turn"))
            resampling.submit(
                request, log_weight=lambda one, decode=engine.decode: math.log(4 if decode(one.ids) == "a" else 1 / 4)
            )
        ended = drain(resampling).values()
        shares[times] = sum(engine.decode(one.ids) == "a" for one in ended) / 1500
    assert shares[1] == pytest.approx(0.2, abs=0.03)
    assert shares[1] < shares[4] < shares[16]
    assert shares[16] == pytest.approx(0.8, abs=0.07)


def test_the_choice_depends_on_the_request_alone() -> None:
    """Not on the width, on other requests or on their order."""

    def kept(width: int, keys: Sequence[str]) -> dict[str, tuple[int, ...]]:
        engine = ScriptedEngine(lambda prompt, seed: str(seed), width=width)
        resampling = Resampling(engine, 4)
        for key in keys:
            seed = derive_seed(5, key)
            resampling.submit(Request(key, (1,), seed), log_weight=lambda completion: completion.ids[-1] % 7)
        return {key: completion.ids for key, completion in drain(resampling).items()}

    keys = [f"d{number}" for number in range(12)]
    whole = kept(4, keys)
    assert kept(1, keys[::-1]) == whole
    assert kept(3, keys[:1]) == {"d0": whole["d0"]}
