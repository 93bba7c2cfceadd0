"""Reject and resample: completions are drawn again until one is accepted."""

from crslib.engines.base import Completion, Request, complete
from crslib.engines.resampling import Resampling
from crslib.engines.scripted import ScriptedEngine
from crslib.identity import derive_seed


def test_the_first_accepted_draw_counts() -> None:
    replies = iter(("no", "no", "yes", "never drawn"))
    engine = ScriptedEngine(lambda prompt, seed: next(replies))
    resampling = Resampling(engine, 4)
    resampling.submit(Request("a", (1, 2, 3), 7), lambda completion: engine.decode(completion.ids) == "yes")
    ended: list[tuple[str, Completion]] = []
    while resampling.pending:
        ended += resampling.step()
    assert [(key, engine.decode(completion.ids), completion.n_cached) for key, completion in ended] == [("a", "yes", 0)]
    assert len(engine.prompts) == 3
    assert resampling.refused == 2


def test_the_last_draw_counts_where_all_are_refused_and_other_requests_are_unaffected() -> None:
    seeds: list[int] = []

    def reply(prompt: str, seed: int) -> str:
        seeds.append(seed)
        return str(seed)

    engine = ScriptedEngine(reply, width=1)
    resampling = Resampling(engine, 2)
    resampling.submit(Request("a", (1,), 7), lambda completion: False)
    resampling.submit(Request("b", (1,), 8))
    ended: dict[str, Completion] = {}
    while resampling.pending:
        ended.update(resampling.step())
    assert engine.decode(ended["a"].ids) == str(derive_seed(7, "again", 1))
    assert engine.decode(ended["b"].ids) == "8"
    assert sorted(seeds) == sorted([7, 8, derive_seed(7, "again", 1)])


def test_it_is_an_engine_with_the_draws_in_its_identity() -> None:
    engine = ScriptedEngine(lambda prompt, seed: str(seed), n_ctx=5)
    resampling = Resampling(engine, 3)
    assert resampling.identity == {**engine.identity, "resample": 3}
    assert complete(resampling, [Request("a", (1,), 1)]) == complete(engine, [Request("b", (1,), 1)])
    resampling.submit(Request("c", (1,) * 5, 1), lambda completion: False)
    assert resampling.step()[0][1].finish == "context_full"
