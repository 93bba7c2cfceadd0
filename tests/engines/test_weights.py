"""Adapters that are whole or refused, and merged weights that are what was written."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from crslib.config import SimulationParameters
from crslib.engines import loading, weights
from crslib.engines.llama import AS_THEY_ARE, LlamaEngine, Model, adapter_path, model_path
from crslib.errors import CrsError
from tests.support import tiny

NAME = "blk.0.attn_q.weight"
A, B = f"{NAME}.lora_a", f"{NAME}.lora_b"
RANK = 4
WIDTH = tiny.N_EMBD
RNG = np.random.default_rng(0)
WHOLE = {A: RNG.normal(size=(RANK, WIDTH)), B: RNG.normal(size=(WIDTH, RANK))}


def alpha(value: float) -> Callable[[gguf.GGUFWriter], None]:
    return lambda writer: writer.add_float32("adapter.lora.alpha", value)


EIGHT = alpha(8.0)


def write(path: Path, tensors: Mapping[str, np.ndarray], add: Callable[[gguf.GGUFWriter], Any] | None = EIGHT) -> Path:
    """An adapter file. `add` writes its alpha."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    if add:
        add(writer)
    for name, values in tensors.items():
        writer.add_tensor(name, np.asarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("base") / "llama3.gguf", "llama3")


def matrix(path: Path) -> np.ndarray:
    """The adapted matrix of a model's file."""
    (tensor,) = [tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == NAME]
    return gguf.dequantize(tensor.data, tensor.tensor_type)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({}, "has no LoRA matrices: it changes nothing"),
    "only b": ({B: WHOLE[B]}, rf"has no {A}: half of a pair is missing"),
    "only a": ({A: WHOLE[A]}, rf"has no {B}: half of a pair is missing"),
    "unknown suffix": (
        WHOLE | {"blk.0.attn_norm.weight": np.ones((1, WIDTH))},
        r"has tensors that cannot be applied \(blk\.0\.attn_norm\.weight\)",
    ),
    "ranks": ({A: WHOLE[A], B: WHOLE[B][:, :2]}, rf"has matrices of {NAME} that cannot be multiplied"),
    "a vector": ({A: WHOLE[A][0], B: WHOLE[B]}, rf"has matrices of {NAME} that cannot be multiplied"),
    "zeros": ({A: WHOLE[A], B: 0 * WHOLE[B]}, "has zeros only in one matrix of every pair: it changes nothing"),
    "not a number": (
        {A: np.where(np.eye(RANK, WIDTH) > 0, np.nan, 1), B: WHOLE[B]},
        f"has values in {NAME} that are no numbers",
    ),
    "infinite": ({A: WHOLE[A], B: np.full((WIDTH, RANK), np.inf)}, f"has values in {NAME} that are no numbers"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("form", ["Q8_0", AS_THEY_ARE])
def test_an_adapter_that_is_not_whole_is_refused_merged_or_not(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, form: str
) -> None:
    tensors, fault = BROKEN[case]
    path = write(tmp_path / "adapter.gguf", tensors)
    monkeypatch.setattr(loading, "CACHE", tmp_path / "cache")
    with pytest.raises(CrsError, match=rf"^the adapter .*adapter\.gguf {fault}"):
        loading.engine_files(SimulationParameters(weights=form), str(base), str(path))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("add", "fault"),
    [
        (None, "is not a LoRA adapter"),
        (alpha(float("nan")), "has adapter.lora.alpha = nan, which is no number"),
        (alpha(float("inf")), "has adapter.lora.alpha = inf, which is no number"),
        (lambda w: w.add_string("adapter.lora.alpha", "16"), "that is no 32-bit float"),
        (lambda w: w.add_array("adapter.lora.alpha", [1.0, 2.0]), "that is no 32-bit float"),
    ],
)
def test_an_alpha_that_is_no_number_is_refused(
    tmp_path: Path, add: Callable[[gguf.GGUFWriter], None] | None, fault: str
) -> None:
    with pytest.raises(CrsError, match=fault):
        weights.check_adapter(write(tmp_path / "adapter.gguf", WHOLE, add))


def test_products_that_are_infinite_are_refused(base: Path, tmp_path: Path) -> None:
    huge = write(tmp_path / "huge.gguf", {name: np.full_like(values, 1e38) for name, values in WHOLE.items()})
    with pytest.raises(CrsError, match="whose products are infinite"):
        weights.merged(base, huge, "Q8_0", tmp_path / "cache")


def test_an_adapter_for_other_matrices_does_not_fit(base: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.gguf", {f"base_model.{name}": values for name, values in WHOLE.items()})
    with pytest.raises(CrsError, match="does not fit the model"):
        weights.merged(base, other, "Q8_0", tmp_path / "cache")
    model = Model(base)
    with pytest.raises(CrsError, match="does not fit the model"):
        LlamaEngine(model, other, n_ctx=256, width=2, threads=1)
    model.close()


@pytest.mark.parametrize(("value", "factor"), [(8.0, 2.0), (0.0, 1.0), (-4.0, -1.0)])
def test_alpha_means_the_same_merged_or_not(base: Path, tmp_path: Path, value: float, factor: float) -> None:
    """W + (alpha / r) · B · A; llama.cpp takes alpha 0 for a factor of 1."""
    path = write(tmp_path / "adapter.gguf", WHOLE, alpha(value))
    merged = weights.merged(base, path, "F16", tmp_path / "cache")
    np.testing.assert_allclose(matrix(merged) - matrix(base), factor * WHOLE[B] @ WHOLE[A], atol=0.02)
    read = []
    for file, adapter in ((merged, None), (base, path), (base, None)):
        model = Model(file)
        engine = LlamaEngine(model, adapter, n_ctx=256, width=2, threads=1)
        read.append(engine.read(range(20, 40), 0))
        engine.close()
        model.close()
    inside, beside, without = read
    assert np.abs(inside - beside).max() < 0.3 < np.abs(without - beside).max()


# ── the cache ──


@pytest.fixture
def prepared(base: Path, tmp_path: Path) -> Callable[[], Path]:
    adapter = write(tmp_path / "adapter.gguf", WHOLE)
    return lambda: weights.merged(base, adapter, "Q8_0", tmp_path / "cache")


def test_damaged_weights_are_made_anew(prepared: Callable[[], Path]) -> None:
    path = prepared()
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[-100] ^= 1
    for damaged in (b"", whole[: len(whole) // 2], bytes(changed), b"GGUF" + whole[:500]):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match=rf"{path} is not as it was written: it is removed and made anew"):
            assert prepared() == path
        assert path.read_bytes() == whole


def test_weights_in_the_place_of_others_are_not_opened(base: Path, tmp_path: Path) -> None:
    one, other = write(tmp_path / "one.gguf", WHOLE), write(tmp_path / "other.gguf", WHOLE, alpha(1.0))
    first, second = (weights.merged(base, adapter, "Q8_0", tmp_path / "cache") for adapter in (one, other))
    assert first != second
    whole = first.read_bytes()
    second.rename(first)
    assert weights.merged(base, one, "Q8_0", tmp_path / "cache").read_bytes() == whole


def test_whole_weights_are_read_once_for_each_state_of_the_file(
    prepared: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = prepared()
    read: list[Path] = []
    hashed = weights.file_sha256
    monkeypatch.setattr(weights, "file_sha256", lambda file: read.append(file) or hashed(file))
    inside = lambda: [file for file in read if file == path]  # noqa: E731
    prepared()
    assert not inside()
    os.utime(path, ns=(1, 1))
    written = path.read_bytes()
    prepared()
    prepared()
    assert len(inside()) == 1
    assert path.read_bytes() == written


@pytest.mark.parametrize("notes", [b"", b"[]", b"{}", b'{"size": "x"}', b"[" * 5000, b"\xff"])
def test_notes_that_cannot_be_read_are_made_anew(prepared: Callable[[], Path], notes: bytes) -> None:
    path = prepared()
    (noted,) = path.parent.glob("*.json")
    whole = noted.read_bytes()
    noted.write_bytes(notes)
    assert prepared() == path
    assert noted.read_bytes() != notes
    assert len(noted.read_bytes()) == len(whole)
    weights.remove(path)
    assert not list(path.parent.iterdir())


def test_weights_and_notes_of_others_in_the_place_are_not_opened(base: Path, tmp_path: Path) -> None:
    one, other = write(tmp_path / "one.gguf", WHOLE), write(tmp_path / "other.gguf", WHOLE, alpha(1.0))
    first, second = (weights.merged(base, adapter, "Q8_0", tmp_path / "cache") for adapter in (one, other))
    whole = first.read_bytes()
    second.rename(first)
    weights._notes(second).rename(weights._notes(first))
    assert weights.merged(base, one, "Q8_0", tmp_path / "cache").read_bytes() == whole


def test_damage_that_keeps_size_and_time_is_mended_when_the_file_cannot_be_loaded(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "CACHE", tmp_path / "cache")
    adapter = write(tmp_path / "adapter.gguf", WHOLE)
    parameters = SimulationParameters(weights="F16", width=2, threads=1)
    path, _, _ = loading.engine_files(parameters, str(base), str(adapter))
    whole, state = path.read_bytes(), path.stat()
    path.write_bytes(whole[:-2000] + b"\xff" * 2000)  # NaN in all formats
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with loading.open_engine(parameters, str(base), str(adapter)):
        assert path.read_bytes() == whole
    path.write_bytes(b"")
    base.with_name("torn.gguf").write_bytes(base.read_bytes()[:5000])
    with (
        pytest.raises(CrsError, match=r"cannot load the model .*torn\.gguf"),
        loading.open_engine(parameters, str(base.with_name("torn.gguf")), ""),
    ):
        pass


def test_a_model_with_values_that_are_no_numbers_is_named_not_the_cache(tmp_path: Path) -> None:
    broken = tiny.make(tmp_path / "nan.gguf", "llama3", nan=True)
    head = next(tensor for tensor in gguf.GGUFReader(broken).tensors if tensor.name == "output.weight")
    pair = {"output.weight.lora_a": WHOLE[A], "output.weight.lora_b": np.ones((int(head.shape[1]), RANK))}
    adapter = write(tmp_path / "adapter.gguf", pair)
    with pytest.raises(CrsError, match=r"the model .*nan\.gguf has values in output\.weight that are no numbers"):
        weights.merged(broken, adapter, "Q8_0", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_the_cache_keeps_what_was_used_last(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    adapters = [write(tmp_path / f"{number}.gguf", WHOLE, alpha(1.0 + number)) for number in range(6)]
    first = [weights.merged(base, adapter, "Q8_0", cache) for adapter in adapters[:5]]
    assert all(path.exists() for path in first)
    for place, path in enumerate(first):
        os.utime(weights._notes(path), (place, place))
    weights.merged(base, adapters[0], "Q8_0", cache)  # used again
    monkeypatch.setattr(weights, "_MOST_BYTES", 1)
    last = weights.merged(base, adapters[5], "Q8_0", cache)
    assert {path for path in (*first, last) if path.exists()} == {first[0], *first[3:], last}
    assert len(list(cache.iterdir())) == 2 * weights._KEPT
    monkeypatch.setattr(weights, "_MOST_BYTES", 10**9)
    weights.merged(base, adapters[1], "Q8_0", cache)
    assert len(list(cache.iterdir())) == 2 * (weights._KEPT + 1)


def test_what_a_killed_writer_left_is_removed_by_the_next(prepared: Callable[[], Path], tmp_path: Path) -> None:
    (cache := tmp_path / "cache").mkdir()
    (cache / ".42134749f9d515ac.gguf.k3j2_x9a").write_bytes(b"half")
    (cache / "keep.npy").touch()
    path = prepared()
    assert {file.name for file in cache.iterdir()} == {"keep.npy", path.name, weights._notes(path).name}


def test_a_second_writer_waits_and_writes_nothing(
    prepared: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    make = weights._make
    monkeypatch.setattr(weights, "_make", lambda path, *given: made.append(path) or make(path, *given))
    with ThreadPoolExecutor(2) as pool, weights._only_writer(tmp_path / "cache"):
        both = [pool.submit(prepared) for _ in range(2)]
        assert not wait(both, timeout=0.5).done
        assert not made
    assert both[0].result() == both[1].result()
    assert made == [both[0].result()]


def test_a_read_only_cache_serves_what_it_holds(prepared: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = prepared()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(weights.os, "utime", refuse)
    assert prepared() == path


@pytest.mark.parametrize("role", ["user", "recommender"])
def test_merged_weights_do_not_depend_on_the_number_of_cores(role: str) -> None:
    """One byte was another with one core than with two, and all dialogues had other words."""
    parameters = SimulationParameters()
    adapter = adapter_path(parameters.adapter(role))
    assert adapter is not None
    deltas, tensors = weights.check_adapter(adapter), weights.read(model_path(parameters.model(role)), "model").tensors
    for tensor in (tensor for tensor in tensors if tensor.name in deltas.names and tensor.name.startswith("blk.0.")):
        merged = set()
        for n_cores in (1, 2, 3, 4):
            with threadpool_limits(n_cores, user_api="blas"):
                values = gguf.dequantize(tensor.data, tensor.tensor_type) + deltas.of(tensor.name)
                merged.add(gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0).tobytes())
        assert len(merged) == 1, tensor.name
