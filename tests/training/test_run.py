"""Training from parameters to results: dialogues, device, pairs, SFT and DPO."""

import contextlib
import json
from pathlib import Path

import gguf
import polars as pl
import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("safetensors", reason="needs the extra train")

from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.views import Message
from crslib.engines import llama
from crslib.errors import CrsError
from crslib.experiments import pipeline
from crslib.training import adapter, preferences, run
from crslib.training.base import Base
from crslib.training.parameters import PreferenceParameters, TrainingParameters
from tests.support.tiny_llama import write_gguf
from tests.support.tiny_redial import write
from tests.training.test_fit import make_pairs


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder in ReDial's schema with six short dialogues."""
    return write(tmp_path / "redial" / "train.jsonl").parent


def numbered_pairs(n: int) -> pl.DataFrame:
    """Random pairs, each from its own dialogue."""
    return make_pairs(n).with_columns(context_id=pl.Series([f"{number}:00" for number in range(n)]))


# ── device ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_gpu_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(CrsError, match="device 'cuda' is not there"):
        run.resolve_device("cuda", "auto")
    assert run.resolve_device("auto", "float32", 1) == (torch.device("cpu"), "float32")


@pytest.mark.parametrize(
    ("has", "expected"),
    [({"avx512_f": True}, "float32"), ({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16")],
)
def test_bfloat16_is_used_where_a_cpu_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert run.resolve_device("cpu", "auto", 1)[1] == expected
    assert run.resolve_device("cpu", "float32", 1)[1] == "float32"


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(CrsError, match="precision 'int4' is not possible on cpu"):
        run.resolve_device("cpu", "int4")


# ── supervised fine-tuning ──────────────────────────────────────────────────────────────────────────────────────────


def test_dialogues_are_skipped_and_limited(corpus: Path) -> None:
    def ids(**given: int) -> list[str]:
        parameters = TrainingParameters(role="user", redial=str(corpus), **given)
        return [dialogue.dialogue_id for dialogue in run.chosen(run.training_corpus(parameters), parameters)]

    whole = ids()
    assert len(whole) == 6
    assert [ids(skip=2), ids(skip=2, limit=3), ids(skip=4, limit=3)] == [whole[2:], whole[2:5], whole[4:]]
    with pytest.raises(CrsError, match="skip = 6 leaves none of 6 dialogues; skip fewer"):
        ids(skip=6)


@pytest.mark.model
@pytest.mark.notebook
def test_the_notebook_trains(corpus: Path, tmp_path: Path) -> None:
    given = {"role": "recommender", "redial": str(corpus), "epochs": 1, "validation": 0.3, "to": str(tmp_path / "to")}
    (tmp_path / "run").mkdir()
    pipeline.execute_notebook("06_train", tmp_path / "run", given)
    assert (tmp_path / "to" / "recommender.gguf").stat().st_size < 8 << 20
    figures = json.loads((tmp_path / "to" / "figures.json").read_text(encoding="utf-8"))
    assert figures["validation_examples"] > 0
    assert set(figures["after"]) == {"all", "text", "title", "end"}


# ── preference optimisation ─────────────────────────────────────────────────────────────────────────────────────────


def test_no_dialogue_is_on_both_sides_of_a_split_of_pairs() -> None:
    pairs = pl.DataFrame({"context_id": [f"{dialogue}:{turn:02d}" for dialogue in range(10) for turn in range(3)]})
    training, held_out = run._split_pairs(pairs, 0.2, 0)
    assert (len(training), len(held_out)) == (24, 6)
    dialogues = [set(part["context_id"].str.split(":").list.first()) for part in (training, held_out)]
    assert not dialogues[0] & dialogues[1]
    assert run._split_pairs(pairs.reverse(), 0.2, 0)[1].sort("context_id").equals(held_out)
    assert run._split_pairs(pairs, 0, 0)[1].is_empty()


def test_dpo_ends_with_adapter_card_and_figures(tmp_path: Path) -> None:
    tiny, start, to = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "start", tmp_path / "to"
    model, base = run.load_model(str(tiny), None, 0, torch.device("cpu"), "float32")
    adapter.write_peft(adapter.Adapter.of(model), start, base.shape.name)
    parameters = PreferenceParameters(
        role="user", init=str(start), to=str(to), model=str(tiny), device="cpu", threads=1, epochs=4, lr=1e-2,
        validation=0.25, sft=0.0,
    )  # fmt: skip
    figures = run.prefer(parameters, numbered_pairs(8))
    files = {str(path.relative_to(to)) for path in to.rglob("*") if path.is_file()}
    peft = {"peft/adapter_config.json", "peft/adapter_model.safetensors"}
    assert files == {"README.md", "figures.json", "log.parquet", "user.gguf", *peft}
    assert (figures["examples"], figures["validation_examples"]) == (6, 2)
    assert figures["before"]["loss"] == pytest.approx(0.693, abs=1e-3)
    assert figures["tokens"] == 4 * 6 * 16  # epochs, pairs, tokens of a pair with its prompt twice
    card = (to / "README.md").read_text(encoding="utf-8")
    assert "LoRA for tiny, `tiny.gguf`" in card
    assert "the adapter start (SHA-256 of adapter_model.safetensors: " in card
    assert "`crs prefer user --model tiny.gguf --init start --sft 0.0 --epochs 4 --lr 0.01 --validation 0.25`" in card
    assert "| accuracy |" in card
    assert len(gguf.GGUFReader(to / "user.gguf").tensors) == 28
    assert adapter.read_peft(to / "peft", base.shape).rank == 16
    assert run.before_and_after(figures)["figure"].to_list() == ["loss", "accuracy", "margin"]


def test_the_start_of_dpo_may_be_a_peft_folder_or_a_gguf(tmp_path: Path) -> None:
    tiny, start = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "start"
    model, base = run.load_model(str(tiny), None, 0, torch.device("cpu"), "float32")
    adapter.write_peft(adapter.Adapter.of(model), start, base.shape.name)
    path = run._as_gguf(start, str(tiny), tmp_path / "to")
    assert adapter.read_gguf(path, Base(tiny).shape).rank == 16
    assert run._as_gguf(path, str(tiny), tmp_path / "to") == path


@pytest.mark.model
def test_continuations_are_drawn_once_and_judged(corpus: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    parameters = PreferenceParameters(
        role="recommender", redial=str(corpus), to=str(to), contexts=3, draws=2, judge="smollm2", threads=2
    )

    def candidates() -> pl.DataFrame:
        with contextlib.suppress(CrsError):  # of so few none may be clearly better than another
            run.make_pairs(parameters)
        return pl.read_parquet(to / "candidates.parquet")

    first = candidates()
    assert first["context_id"].n_unique() == 3
    assert first["draw"].to_list() == [0, 1] * 3
    assert first["judge"].is_between(0, 1).all()
    assert first["title_exists"].drop_nulls().is_between(0, 1).all()
    journal = (to / "journal.jsonl").read_bytes()
    assert candidates().equals(first)
    assert (to / "journal.jsonl").read_bytes() == journal


@pytest.mark.model
def test_preferences_are_learned(corpus: Path, tmp_path: Path) -> None:
    with contextlib.closing(llama.Model(llama.model_path(llama.BUILT_IN))) as model:
        prompt = ChatTemplate(*model.chat_template).encode([Message("user", "Have you seen it?")], model)
        good, bad = (model.encode(text) for text in ("I hated it", "I loved it"))
    targets = [[True] * len(side) for side in (good, bad)]
    rows = [(f"{n}:00", "user", prompt, good, bad, *targets, [], "I hated it", "I loved it") for n in range(4)]
    pairs = pl.DataFrame(rows, schema=preferences.PAIRS, orient="row")
    to = tmp_path / "to"
    parameters = PreferenceParameters(role="user", redial=str(corpus), to=str(to), epochs=4, validation=0.25, lr=0.001)
    figures = run.prefer(parameters, pairs)
    assert (figures["examples"], figures["validation_examples"]) == (3, 1)
    assert figures["after"]["margin"] > figures["before"]["margin"] == 0
    assert figures["after"]["accuracy"] == 1
    assert (to / "user.gguf").stat().st_size < 8 << 20
    assert "the adapter user.gguf (SHA-256" in (to / "README.md").read_text(encoding="utf-8")
