"""The training loop and both losses: targets, batches, steps, checkpoints and resuming."""

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("safetensors", reason="needs the extra train")

from crslib.errors import CrsError
from crslib.training import losses
from crslib.training.adapter import Adapter
from crslib.training.base import Base
from crslib.training.fit import Guard, Settings, adamw, batches, evaluate, fit, plan, step
from crslib.training.model import LoraLlama, Precision, Sequences
from crslib.training.objectives import DPOObjective, SFTObjective
from tests.support.tiny_llama import make_examples, write_gguf

CPU = torch.device("cpu")
TARGETS = pl.List(pl.Boolean)
FAST = Settings(epochs=2, lr=1e-2, step_tokens=100, batch_tokens=60, checks=2)


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return Base(write_gguf(tmp_path / "tiny.gguf"))


def model_of(base: Base, precision: Precision = "float32") -> LoraLlama:
    return LoraLlama(base, rank=4, alpha=8, seed=0, precision=precision)


def objective(examples: pl.DataFrame) -> SFTObjective:
    return SFTObjective(examples, CPU, 128)


def test_loss_is_that_of_the_marked_tokens_given_all_before_them(base: Base) -> None:
    model = model_of(base)
    frame = pl.DataFrame(
        {"tokens": [[5, 6, 7, 8]], "target": [[True, False, True, True]]},
        schema_overrides={"tokens": pl.List(pl.Int32)},
    )
    with torch.no_grad():
        logits = model(Sequences([np.array([5, 6, 7, 8])], CPU)) @ model.head.T
    by_hand = -(logits[1].log_softmax(0)[7] + logits[2].log_softmax(0)[8])  # nothing precedes the first
    own = objective(frame)
    assert own.weights.tolist() == [2]
    assert float(own.sums(model, [0])["loss"]) == pytest.approx(float(by_hand), abs=1e-4)


def test_size_of_batches_does_not_change_the_mean(base: Base) -> None:
    model, own = model_of(base), objective(make_examples(12))
    means = [evaluate(model, own, most)["loss"] for most in (1, 70, 10_000)]
    assert means == pytest.approx([means[0]] * 3, abs=1e-5)


def test_batches_hold_every_row_once_and_have_a_largest_size() -> None:
    lengths = np.array([5, 9, 3, 7, 20, 5])
    parts = batches(np.arange(6), lengths, 12)
    assert [part.tolist() for part in parts] == [[4], [1], [3, 0], [5, 2]]


def test_every_epoch_has_each_example_once_in_its_own_order() -> None:
    lengths = np.arange(5, 45)
    steps = plan(lengths, FAST)
    order = np.concatenate(steps)
    assert sorted(order[:40]) == sorted(order[40:]) == list(range(40))
    assert order[:40].tolist() != order[40:].tolist()
    assert max(lengths[rows].sum() - lengths[rows].max() for rows in steps) <= FAST.step_tokens


def test_steps_can_be_counted_in_examples() -> None:
    steps = plan(np.array([500, 1, 1, 1, 1]), Settings(epochs=2, step_tokens=100, step_examples=2))
    assert [len(rows) for rows in steps] == [2, 2, 1] * 2


def test_training_learns_and_logs(base: Base, tmp_path: Path) -> None:
    model, reached = model_of(base), []
    own, held_out = objective(make_examples(10)), objective(make_examples(4, seed=9))
    log = fit(
        model,
        own,
        held_out,
        Settings(epochs=20, lr=2e-2, step_tokens=100, checks=1),
        tmp_path / "checkpoint.pt",
        progress=lambda done, total: reached.append((done, total)),
    )
    assert log["loss"][-1] < log["loss"][0] / 2
    assert log["tokens"][-1] == 20 * own.lengths.sum() == reached[-1][0] == reached[-1][1]
    assert log["validation"].drop_nulls().len() == 20
    assert log["epoch"][-1] == pytest.approx(20)
    assert log["lr"].max() == pytest.approx(2e-2)
    best = log["validation"].min()
    assert log["validation"].drop_nulls()[-1] > best, "random tokens cannot be learned: the end is not the best"
    assert evaluate(model, held_out, 100)["loss"] == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_training_has_the_same_bits_with_any_number_of_threads(
    base: Base, tmp_path: Path, precision: Precision
) -> None:
    own, held_out = objective(make_examples(16)), objective(make_examples(4, seed=9))
    before, logs, ends = torch.get_num_threads(), [], []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            model = model_of(base, precision)
            logs.append(fit(model, own, held_out, FAST, tmp_path / f"{threads}.pt").drop("seconds"))
            ends.append(model.lora.detach().clone())
            assert torch.get_num_threads() == threads, "what else is computed has all of them again"
    finally:
        torch.set_num_threads(before)
    assert logs[0].equals(logs[1])
    assert torch.equal(*ends)


def test_a_fault_in_one_part_ends_the_step(base: Base) -> None:
    class Broken(SFTObjective):
        def sums(self, model: LoraLlama, rows: Any) -> dict[str, torch.Tensor]:
            raise CrsError("no memory")

    model, broken = model_of(base), Broken(make_examples(4), CPU, 128)
    threads = torch.get_num_threads()
    with pytest.raises(CrsError, match="no memory"):
        evaluate(model, broken, 60)
    with pytest.raises(CrsError, match="no memory"):
        step(model, broken, np.arange(4), 60, adamw(model, 1e-3))
    assert torch.get_num_threads() == threads


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("when", [1, 4, 7])
def test_resumed_training_ends_as_if_it_had_not_been_killed(base: Base, tmp_path: Path, when: int) -> None:
    own, held_out = objective(make_examples(16)), objective(make_examples(4, seed=9))
    whole, broken = model_of(base), model_of(base)
    expected = fit(whole, own, held_out, FAST, tmp_path / "whole.pt")

    def kill(done: int, total: int) -> None:
        kill.steps += 1
        if kill.steps == when:
            raise _KilledError

    kill.steps = 0
    with pytest.raises(_KilledError):
        fit(broken, own, held_out, FAST, tmp_path / "broken.pt", save_every=0, progress=kill)
    resumed = model_of(base)
    log = fit(resumed, own, held_out, FAST, tmp_path / "broken.pt", resume=True)
    assert log.drop("seconds").equals(expected.drop("seconds"))
    for name, pair in Adapter.of(whole).pairs.items():
        for one, other in zip(pair, Adapter.of(resumed).pairs[name], strict=True):
            assert np.array_equal(one, other)


def _train_until_killed(gguf: Path, checkpoint: Path, when: int) -> None:
    def kill(done: int, total: int) -> None:
        kill.steps += 1
        if kill.steps == when:
            os.kill(os.getpid(), signal.SIGKILL)

    kill.steps = 0
    model = model_of(Base(gguf))
    fit(model, objective(make_examples(16)), None, FAST, checkpoint, save_every=0, progress=kill)


def test_training_resumes_after_kill_9_in_another_process(base: Base, tmp_path: Path) -> None:
    own, whole, resumed = objective(make_examples(16)), model_of(base), model_of(base)
    expected = fit(whole, own, None, FAST, tmp_path / "whole.pt")
    arguments = tmp_path / "tiny.gguf", tmp_path / "killed.pt", 4
    process = multiprocessing.get_context("spawn").Process(target=_train_until_killed, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    reached = []
    log = fit(
        resumed, own, None, FAST, tmp_path / "killed.pt", resume=True, progress=lambda done, total: reached.append(done)
    )
    assert len(reached) < expected.height, "finished steps are not repeated"
    assert log.drop("seconds").equals(expected.drop("seconds"))
    for name, pair in Adapter.of(whole).pairs.items():
        for one, other in zip(pair, Adapter.of(resumed).pairs[name], strict=True):
            assert np.array_equal(one, other)


def test_checkpoint_of_other_settings_is_refused(base: Base, tmp_path: Path) -> None:
    own = objective(make_examples(6))
    fit(model_of(base), own, None, FAST, tmp_path / "checkpoint.pt")
    other = replace(FAST, lr=5e-3)
    for model, settings in ((model_of(base), other), (model_of(base, "bfloat16"), FAST)):
        with pytest.raises(CrsError, match="has other settings, examples or precision"):
            fit(model, own, None, settings, tmp_path / "checkpoint.pt", resume=True)


def test_damaged_checkpoint_is_refused(base: Base, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"torn")
    with pytest.raises(CrsError, match="remove it"):
        fit(model_of(base), objective(make_examples(6)), None, FAST, tmp_path / "checkpoint.pt", resume=True)


def test_no_examples_and_long_ones_are_refused(base: Base, tmp_path: Path) -> None:
    with pytest.raises(CrsError, match="no examples"):
        fit(model_of(base), objective(make_examples(0)), None, FAST, tmp_path / "checkpoint.pt")
    with pytest.raises(CrsError, match="max_tokens=10"):
        SFTObjective(make_examples(20), CPU, 10)


# ── losses ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_table_of_losses_is_per_token_and_per_kind(base: Base) -> None:
    model, examples = model_of(base), make_examples(8)
    sums = losses.by_trainer(model, examples, 50)
    table = losses.table(sums, {1: "odd", 2: "even"})
    assert table["kind"].to_list() == ["all", "odd", "even"]
    everything = evaluate(model, objective(examples), 1000)["loss"]
    assert table["loss"][0] == pytest.approx(everything, abs=1e-5)
    assert table["n_tokens"][0] == objective(examples).weights.sum() == table["n_tokens"][1:].sum()
    assert table.filter(pl.col("low") <= pl.col("loss"), pl.col("loss") <= pl.col("high")).height == 3


def test_transformers_has_the_same_losses(base: Base) -> None:
    pytest.importorskip("transformers", reason="needs the extra train")
    from crslib.training.base import transformers_model

    examples = make_examples(5)
    ours = losses.by_trainer(model_of(base), examples)
    theirs = losses.by_transformers(transformers_model(base), examples)
    assert ours.drop("nats").equals(theirs.drop("nats"))
    assert np.allclose(ours["nats"], theirs["nats"], atol=1e-3)


# ── preferences ─────────────────────────────────────────────────────────────────────────────────────────────────


def make_pairs(n: int) -> pl.DataFrame:
    tokens = [row[:4] for row in make_examples(3 * n)["tokens"].to_list()]
    columns = {"prompt": tokens[:n], "chosen": tokens[n : 2 * n], "rejected": tokens[2 * n :]}
    return all_targets(pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.List(pl.Int32))))


def all_targets(pairs: pl.DataFrame) -> pl.DataFrame:
    """`pairs` with every token of both continuations as a target."""
    every = pl.element().is_not_null()
    return pairs.with_columns(pl.col("chosen", "rejected").list.eval(every).name.suffix("_target"))


def test_the_dpo_loss_of_the_reference_itself_is_log_two(base: Base) -> None:
    model = model_of(base)
    means = evaluate(model, DPOObjective(make_pairs(6), model, CPU), 50)
    assert means["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert means["margin"] == pytest.approx(0, abs=1e-6)


def test_log_probability_is_that_of_the_continuation(base: Base) -> None:
    model = model_of(base)
    pairs = all_targets(pl.DataFrame({"prompt": [[1, 2]], "chosen": [[3, 4]], "rejected": [[5]]}))
    with torch.no_grad():
        ours = DPOObjective(pairs, model, CPU).log_probabilities(model, [0])[0]
        logits = model(Sequences([np.array([1, 2, 3])], CPU)) @ model.head.T
    after = logits.log_softmax(1)
    assert ours.tolist() == pytest.approx([float(after[1, 3] + after[2, 4]), float(after[1, 5])], abs=1e-4)


@pytest.mark.parametrize("sft", [0.0, 1.0])
def test_preferences_are_learned(base: Base, tmp_path: Path, sft: float) -> None:
    model = model_of(base)
    pairs = DPOObjective(make_pairs(8), model, CPU, sft=sft)
    log = fit(model, pairs, pairs, Settings(epochs=10, lr=2e-2, step_tokens=60, checks=1), tmp_path / "checkpoint.pt")
    last = log.drop_nulls("validation").row(-1, named=True)
    assert last["accuracy"] == 1
    assert last["margin"] > 0
    assert last["validation"] < log["loss"][0]


def test_the_sft_term_of_dpo_is_the_cross_entropy_of_the_chosen_text_per_token(base: Base) -> None:
    model, frame = model_of(base), make_pairs(4)
    plain, added = (DPOObjective(frame, model, CPU, sft=weight) for weight in (0.0, 0.5))
    with torch.no_grad():
        chosen = plain.log_probabilities(model, [2])[0, 0]
        both = [float(p.sums(model, [2])["loss"]) for p in (plain, added)]
    assert both[1] - both[0] == pytest.approx(-0.5 * float(chosen) / 4, abs=1e-5)


def test_empty_continuation_is_refused(base: Base) -> None:
    empty = {"rejected": pl.Series([[]], dtype=pl.List(pl.Int32)), "rejected_target": pl.Series([[]], dtype=TARGETS)}
    pairs = make_pairs(1).with_columns(**empty)
    with pytest.raises(CrsError, match="leave it out"):
        DPOObjective(pairs, model_of(base), CPU)


def masked(tokens: list[int]) -> pl.DataFrame:
    """A pair whose chosen continuation has `tokens` in the middle, which are no targets; nor is the last one."""
    chosen, rejected = [3, *tokens, 4, tokens[-1]], [5, 6]
    targets = {"chosen_target": [[True, *[False] * len(tokens), True, False]], "rejected_target": [[True, True]]}
    return pl.DataFrame({"prompt": [[1, 2]], "chosen": [chosen], "rejected": [rejected], **targets})


def test_tokens_that_are_no_targets_are_read_but_do_not_count(base: Base) -> None:
    model = model_of(base)
    with torch.no_grad():
        ours = DPOObjective(masked([7, 8]), model, CPU).log_probabilities(model, [0])[0, 0]
        logits = model(Sequences([np.array([1, 2, 3, 7, 8, 4, 8])], CPU)) @ model.head.T
    after = logits.log_softmax(1)
    assert float(ours) == pytest.approx(float(after[1, 3] + after[4, 4]), abs=1e-4)


@pytest.mark.parametrize("sft", [0.0, 1.0])
def test_no_gradient_comes_from_tokens_that_are_no_targets(base: Base, sft: float) -> None:
    """Of the last token nothing follows: with any token there the gradient is the same, unless it is a target."""

    def gradient(last: int, target: bool) -> np.ndarray:
        model = model_of(base)
        pair = masked([7, 8]).with_columns(chosen=pl.Series([[3, 7, 8, 4, last]]))
        pair = pair.with_columns(chosen_target=pl.Series([[True, False, False, True, target]]))
        DPOObjective(pair, model, CPU, sft=sft).sums(model, [0])["loss"].backward()
        return model.lora.grad.numpy()

    assert np.array_equal(gradient(9, False), gradient(20, False))
    assert np.abs(gradient(9, False)).max() > 0
    assert not np.allclose(gradient(9, True), gradient(20, True))


def test_the_sft_term_counts_targets_alone(base: Base) -> None:
    model = model_of(base)
    plain, added = (DPOObjective(masked([7, 8]), model, CPU, sft=weight) for weight in (0.0, 1.0))
    with torch.no_grad():
        chosen = plain.log_probabilities(model, [0])[0, 0]
        both = [float(p.sums(model, [0])["loss"]) for p in (plain, added)]
    assert both[1] - both[0] == pytest.approx(-float(chosen) / 2, abs=1e-5)


def test_a_pair_without_a_target_is_refused(base: Base) -> None:
    pairs = make_pairs(1).with_columns(chosen_target=pl.Series([[False] * 4], dtype=TARGETS))
    with pytest.raises(CrsError, match="leave it out"):
        DPOObjective(pairs, model_of(base), CPU)


# ── the guard ───────────────────────────────────────────────────────────────────────────────────────────────────────

GUARDED = Settings(epochs=8, lr=3e-2, step_tokens=60, batch_tokens=60, checks=2)


def test_training_stops_when_the_guarded_loss_is_above_the_limit(base: Base, tmp_path: Path) -> None:
    """The result is an adapter that was within it, and a resumed training does not go on."""
    model, people = model_of(base), objective(make_examples(6, seed=9))
    pairs = DPOObjective(make_pairs(8), model, CPU)
    limit = evaluate(model, people, 100)["loss"] + 0.02
    free = fit(model_of(base), pairs, pairs, GUARDED, tmp_path / "free.pt")
    log = fit(model, pairs, pairs, GUARDED, tmp_path / "checkpoint.pt", guard=Guard(people, limit))
    measured = log["guard"].drop_nulls().to_list()
    assert measured[-1] > limit >= max(measured[:-1])
    assert len(log) < len(free)
    assert evaluate(model, people, 100)["loss"] == pytest.approx(measured[-2] if len(measured) > 1 else limit - 0.02)
    again, reached = model_of(base), []
    resumed = fit(
        again, pairs, pairs, GUARDED, tmp_path / "checkpoint.pt", guard=Guard(people, limit), resume=True,
        progress=lambda done, total: reached.append(done),
    )  # fmt: skip
    assert not reached and resumed.equals(log)
    for name, pair in Adapter.of(model).pairs.items():
        assert all(np.array_equal(x, y) for x, y in zip(pair, Adapter.of(again).pairs[name], strict=True))


def test_the_result_is_the_start_where_the_first_check_is_above_the_limit(base: Base, tmp_path: Path) -> None:
    model, people = model_of(base), objective(make_examples(6, seed=9))
    before = Adapter.of(model).pairs
    log = fit(model, objective(make_examples(10)), None, GUARDED, tmp_path / "checkpoint.pt", guard=Guard(people, 0.0))
    assert log["guard"].drop_nulls().len() == 1
    for name, pair in Adapter.of(model).pairs.items():
        assert all(np.array_equal(x, y) for x, y in zip(pair, before[name], strict=True))


def test_a_guard_that_is_never_above_its_limit_changes_nothing(base: Base, tmp_path: Path) -> None:
    own, people = objective(make_examples(10)), objective(make_examples(6, seed=9))
    free, guarded = model_of(base), model_of(base)
    expected = fit(free, own, None, FAST, tmp_path / "free.pt")
    log = fit(guarded, own, None, FAST, tmp_path / "guarded.pt", guard=Guard(people, 100.0))
    assert log.drop("seconds", "guard").equals(expected.drop("seconds", "guard"))
    assert log["guard"].drop_nulls().len() == FAST.epochs * FAST.checks
    for name, pair in Adapter.of(free).pairs.items():
        assert all(np.array_equal(x, y) for x, y in zip(pair, Adapter.of(guarded).pairs[name], strict=True))


def test_any_damaged_byte_of_a_checkpoint_is_one_sentence_or_harmless(base: Base, tmp_path: Path) -> None:
    own, path = objective(make_examples(6)), tmp_path / "checkpoint.pt"
    fit(model_of(base), own, None, FAST, path)
    raw = path.read_bytes()
    state = torch.load(path, weights_only=True)

    def resumes() -> bool:
        try:
            fit(model_of(base), own, None, FAST, path, resume=True)
        except CrsError as error:
            assert str(path) in str(error)
            assert "remove it" in str(error) and "\n" not in str(error)
            return False
        return True

    assert resumes()
    chance = np.random.default_rng(0)
    for at in chance.integers(len(raw), size=25):
        for damaged in (raw[:at], raw[:at] + bytes([raw[at] ^ 64]) + raw[at + 1 :], raw[: at + 1] + raw[at:]):
            path.write_bytes(damaged)
            resumes()
    changes = [{"step": "2"}, {"step": -1}, {"rows": None}, {"best": (1.0,)}, {"adapter": {}}, {"optimizer": {}}]
    for change in [*changes, {"adapter": {name: [torch.zeros(1)] for name in state["adapter"]}}]:
        torch.save({**state, **change}, path)
        assert not resumes(), change
    for part in state:
        torch.save({name: value for name, value in state.items() if name != part}, path)
        assert not resumes(), part
    torch.save([1], path)
    assert not resumes()
