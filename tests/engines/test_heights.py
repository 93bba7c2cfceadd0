"""Steps of few rows where few are busy: fewer rows are computed, and the text is the same to the last bit."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from crslib.engines.base import Choice, Completion, Request, Sampling, complete
from crslib.engines.llama import Feeder, MeasuredEngine, Model, model_path
from crslib.engines.llama.context import Context
from crslib.engines.llama.workload import MeasuredContext

pytestmark = pytest.mark.model
WIDTH = 4


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    loaded = Model(model_path("smollm2"))
    yield loaded
    loaded.close()


def run(model: Model, n: int, **settings: Any) -> tuple[list[Completion], int, int]:
    """The completions of `n` prompts of 20 to 280 tokens, how many steps they took, and how many rows these had."""
    prompts = [tuple(model.encode(f"Tell me of film {k}. " * (3 + 37 * (k % 2)))) for k in range(n)]
    sampling = Sampling(temperature=1, top_p=1, max_tokens=12)
    engine = MeasuredEngine(model, None, sampling, n_ctx=384, width=WIDTH, **settings)
    try:
        completions = complete(engine, [Request(str(k), prompt, k) for k, prompt in enumerate(prompts)])
        return completions, engine.work[0].steps, engine.work[0].rows
    finally:
        engine.close()


@pytest.fixture(scope="module")
def constant(model: Model) -> list[Completion]:
    """The completions of an engine whose steps always have all rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MeasuredContext, "heights", lambda self: [WIDTH])
        completions, steps, rows = run(model, 6)
    assert rows == WIDTH * steps
    return completions


@pytest.mark.parametrize("n", [1, 3, 6])
def test_steps_of_few_rows_change_no_text(model: Model, constant: list[Completion], n: int) -> None:
    feeder = Feeder()
    completions, steps, rows = run(model, n, feeder=feeder, threads=2)
    feeder.close()
    assert completions == constant[:n]
    assert rows == 2 * steps if n == 1 else rows < WIDTH * steps


class EndsAfter:
    """A constraint (`engines.base.Constraint`): an utterance of `n` tokens, whatever they are."""

    def __init__(self, model: Model, n: int) -> None:
        self.never, self._n = np.array(sorted(model.ends), np.int32), n

    def allowed(self, ids: Sequence[int]) -> Choice | None:
        end = Choice(self.never[:1], np.zeros(1, np.intp), np.zeros(1))
        return end if len(ids) >= self._n else None

    def forced(self, ids: Sequence[int]) -> list[int]:
        return []


def test_the_last_utterances_are_moved_into_few_rows(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3, 6, 9 and 12 tokens, begun in rows 0 to 3: six steps of four rows, then six of two."""
    prompt = tuple(model.encode("Tell me of a film. "))
    asked = [Request(str(k), prompt, k, constraint=EndsAfter(model, 3 * (k + 1))) for k in range(WIDTH)]
    said = []
    for few in (2, WIDTH):
        engine = MeasuredEngine(model, None, Sampling(max_tokens=16, guard="off"), n_ctx=384, width=WIDTH)
        said.append(complete(engine, asked))
        assert (engine.work[0].steps, engine.work[0].rows) == (12, 6 * WIDTH + 6 * few)
        engine.close()
        monkeypatch.setattr(MeasuredContext, "heights", lambda self: [WIDTH])
    assert [len(completion.ids) for completion in said[0]] == [3, 6, 9, 12]
    assert said[0] == said[1]


@pytest.mark.parametrize("odd", [2, 4, 8])
def test_a_number_of_rows_with_other_roundings_is_not_used(
    model: Model, odd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = Context.logits

    def rounded(self: Context, n: int) -> np.ndarray:
        values = logits(self, n)
        return np.nextafter(values, np.float32(np.inf)) if n == odd else values

    monkeypatch.setattr(Context, "logits", rounded)
    context = Context(model, None, 384, 8, 1)
    heights = context.heights()
    context.close()
    assert heights == {2: [4, 8], 4: [2, 8], 8: [8]}[odd]
