"""The real 135M model: what a measured engine counts, that measuring changes no text, and pauses of the feeder."""

from collections.abc import Iterator

import pytest

from crslib.engines.base import Completion, Request, Sampling, complete
from crslib.engines.guard import Guard
from crslib.engines.llama import Feeder, LlamaEngine, MeasuredEngine, Model, model_path

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    loaded = Model(model_path("smollm2"))
    yield loaded
    loaded.close()


def requests(model: Model, n: int) -> list[Request]:
    return [Request(str(k), tuple(model.encode(f"Tell me of film {k}. " * 9)), k) for k in range(n)]


def test_measuring_changes_no_text_and_counts_its_tokens(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    # Which words a CPU draws decides where an utterance is cut back; without that, every token that is drawn stays.
    monkeypatch.setattr(Guard, "whole", lambda self, ids: len(ids))
    completions: list[list[Completion]] = []
    for engine_type in (LlamaEngine, MeasuredEngine):
        engine = engine_type(model, None, Sampling(max_tokens=8), n_ctx=256, width=2)
        completions.append(complete(engine, requests(model, 3)))
        if isinstance(engine, MeasuredEngine):
            (work,) = engine.work
            engine.reset_work()
            assert engine.work[0].drawn == 0
        engine.close()
    assert completions[0] == completions[1]
    assert sum(n for _, n in work.fed) == sum(len(request.prompt) for request in requests(model, 3))
    ends = sum(completion.finish == "end" for completion in completions[1])
    assert work.drawn == sum(len(completion.ids) for completion in completions[1]) + ends
    assert 0 < work.steps < work.drawn
    assert min(work.prefill, work.decode, work.sampling, work.parking) > 0 == work.waiting


@pytest.mark.parametrize("with_feeder", [False, True])
def test_the_ceiling_is_measured_without_counting_as_work(model: Model, with_feeder: bool) -> None:
    feeder = Feeder() if with_feeder else None
    engine = MeasuredEngine(model, None, Sampling(max_tokens=8), n_ctx=256, width=2, feeder=feeder)
    complete(engine, requests(model, 1))
    before = engine.work
    steps, counted = before[0].steps, [len(work.fed) for work in before]
    fed = [piece for work in before for piece in work.fed]
    prefill, decode, seconds = engine.measure_ceiling(fed, 40, steps)
    assert prefill > 0 < decode
    assert seconds >= (0 if feeder else prefill + decode)
    assert all(now is then for now, then in zip(engine.work, before, strict=True))
    assert (before[0].steps, [len(work.fed) for work in before]) == (steps, counted)
    engine.close()
    if feeder:
        feeder.close()


def test_a_pause_stops_the_feeder_and_changes_no_text(model: Model) -> None:
    plain = LlamaEngine(model, None, Sampling(max_tokens=8), n_ctx=256, width=2)
    expected = dict(zip("0123", complete(plain, requests(model, 4)), strict=True))
    plain.close()
    feeder = Feeder()
    engine = MeasuredEngine(model, None, Sampling(max_tokens=8), n_ctx=256, width=2, feeder=feeder)
    for request in requests(model, 4):
        engine.submit(request)
    completions: dict[str, Completion] = {}
    while engine.pending:
        with engine.paused():
            assert all(future.done() for _, future in engine._queue)
        completions.update(engine.step())
    assert completions == expected
    engine.close()
    feeder.close()
