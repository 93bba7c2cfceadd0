"""Trainings by TRL: tiny random models with strict templates, from a folder to an adapter that llama.cpp reads."""

import json
from pathlib import Path
from typing import Any

import gguf
import polars as pl
import pytest

pytest.importorskip("trl", reason="TRL is not installed (extra trl)")

from crslib.engines import weights
from crslib.errors import CrsError
from crslib.training import hub
from crslib.training.parameters import TrainingParameters
from tests.support.chat_templates import END, TEMPLATES, tokenizer
from tests.support.tiny_redial import write

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
TALK = [
    {"role": "system", "content": "told"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello you"},
    {"role": "user", "content": "bye"},
    {"role": "assistant", "content": "see you"},
]


def model_folder(folder: Path, kind: str = "llama 3", architecture: str = "llama") -> Path:
    """A chat model of one layer as Hugging Face stores it, with a tokenizer of bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM, set_seed

    reader = tokenizer(TEMPLATES[kind])
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "max_position_embeddings": 4096}
    sizes |= {"vocab_size": len(reader), "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    set_seed(0)
    of = (LlamaConfig, LlamaForCausalLM) if architecture == "llama" else (Qwen3Config, Qwen3ForCausalLM)
    of[1](of[0](**sizes)).save_pretrained(folder)
    reader.save_pretrained(folder)
    return folder


def parameters(tmp_path: Path, model: Path, /, **given: Any) -> TrainingParameters:
    redial = tmp_path / "redial"
    if not redial.exists():
        write(redial / "train.jsonl")
    fixed = {"trainer": "trl", "model": str(model), "redial": str(redial), "to": str(tmp_path / "to"), "lr": 0.01}
    return TrainingParameters.parse({"role": "recommender", "validation": 0.3, **fixed, **given})


# ── labels ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("kind", ["llama 3", "llama 2", "mistral"])
def test_own_utterances_and_their_ends_are_learned(kind: str, marked: bool) -> None:
    template = TEMPLATES[kind]
    plain = template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    reader = tokenizer(template if marked else plain)
    found = hub.training_template(reader)
    assert found == (template if marked else None)
    example = hub.labelled(TALK, reader, found)
    assert reader.decode(example["input_ids"]) == reader.apply_chat_template(TALK, tokenize=False)
    learned = reader.decode([label for label in example["labels"] if label != -100]).replace(" " + "hello", "hello")
    assert learned.replace(" see", "see") == f"hello you{END[kind]}see you{END[kind]}"


def test_a_template_that_writes_earlier_messages_anew_is_refused() -> None:
    odd = "{% for m in messages %}{{ m.role + (' ' if loop.last else '!') + m.content }}{% endfor %}"
    reader = tokenizer(odd)
    with pytest.raises(CrsError, match="writes a message differently when others follow"):
        hub.labelled(TALK, reader, hub.training_template(reader))


def test_templates_without_a_system_role_are_known() -> None:
    assert [hub.takes_system(tokenizer(TEMPLATES[kind])) for kind in ("llama 3", "gemma")] == [True, False]


# ── trainings ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sft_then_dpo_end_with_an_adapter_a_card_and_figures(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model")
    given = parameters(tmp_path, model, epochs=2)
    figures = hub.train(given)
    to = tmp_path / "to"
    assert figures["after"]["loss"] < figures["before"]["loss"]
    assert figures == json.loads((to / "figures.json").read_text(encoding="utf-8"))
    assert figures["examples"] + figures["validation_examples"] == 6
    log = pl.read_parquet(to / "log.parquet")
    assert log["epoch"].max() == 2 and log["validation"].drop_nulls().len() == 2
    names = {tensor.name for tensor in gguf.GGUFReader(to / "recommender.gguf").tensors}
    layers = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert names == {f"blk.0.{layer}.weight.lora_{half}" for layer in layers for half in "ab"}
    assert weights.domain_of(to / "recommender.gguf") == "movies"
    card = (to / "README.md").read_text(encoding="utf-8")
    assert "ReDial's training part (Li et al. 2018, CC BY 4.0)" in card
    assert "-p recommender_prompt=data/prompts/trained.md" in card
    assert "crs train recommender" in card and "--trainer trl" in card and str(tmp_path) not in card
    learned = (to / "data" / "recommender.jsonl").read_text(encoding="utf-8")
    assert "not seen" not in learned.replace("I have not seen it", "")  # the seeker's answers stay private

    pairs = [
        {
            "context_id": f"{number}:00",
            "prompt": [{"role": "system", "content": "You are a movie recommender."}],
            "chosen": [{"role": "assistant", "content": "Hello! What do you like?"}],
            "rejected": [{"role": "assistant", "content": "zzzz"}],
        }
        for number in range(6)
    ]
    (tmp_path / "made").mkdir()
    pl.DataFrame(pairs).write_ndjson(tmp_path / "made" / "pairs.jsonl")
    more = parameters(
        tmp_path, model, pairs=str(tmp_path / "made"), init=str(to / "peft"), to=str(tmp_path / "dpo"), epochs=3
    )
    figures = hub.train(more)
    assert figures["before"]["margin"] == pytest.approx(0, abs=1e-4)  # the reference is the adapter of SFT
    assert figures["after"]["margin"] > 0.1
    assert (tmp_path / "dpo" / "recommender.gguf").is_file()
    assert "Started from: the adapter peft" in (tmp_path / "dpo" / "README.md").read_text(encoding="utf-8")


def test_a_killed_training_goes_on(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model", architecture="qwen3")
    whole = hub.train(parameters(tmp_path, model, epochs=2, to=str(tmp_path / "whole")))

    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        if done > total // 2:
            raise Killed

    with pytest.raises(Killed):
        hub.train(parameters(tmp_path, model, epochs=2), kill)
    with pytest.raises(CrsError, match="checkpoints is of another training; remove it, or give another folder"):
        hub.train(parameters(tmp_path, model, epochs=2, lr=0.02))
    steps: list[int] = []
    figures = hub.train(parameters(tmp_path, model, epochs=2), lambda done, total: steps.append(done))
    assert min(steps) > 1  # the first epoch was not computed again
    assert figures["tokens_per_s"] == pytest.approx(figures["tokens"] / figures["seconds"])
    assert not (tmp_path / "to" / "checkpoints").exists()
    assert figures["after"] == pytest.approx(whole["after"], rel=1e-4)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"model": "smollm2"}, "needs model, a folder or name of a causal model of Hugging Face"),
        ({"role": "scripted"}, "learns user or recommender, not scripted"),
        ({"negative_weight": 2}, "negative_weight is for crslib's own trainer"),
        ({"trainer": "own", "pairs": "made"}, "pairs is for trainer = trl"),
    ],
)
def test_settings_of_the_other_trainer_are_refused(given: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(CrsError, match=sentence):
        parameters(tmp_path, tmp_path, **given)


def test_validation_examples_that_are_too_long_are_left_out(tmp_path: Path) -> None:
    rows = [{"messages": [*TALK]}, {"messages": [*TALK[:-1], {"role": "assistant", "content": "x" * 3000}]}]
    lines = [json.dumps(row) for row in rows]
    reader = tokenizer(TEMPLATES["llama 3"])
    given = parameters(tmp_path, tmp_path)
    assert [len(hub._examples(part, reader, given)) for part in (lines, lines[:1], lines[1:])] == [1, 1, 0]


def test_what_is_no_model_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(CrsError, match=r"cannot read the model .*; give a folder or name of a causal model"):
        hub.train(parameters(tmp_path, tmp_path / "model"))
    with pytest.raises(CrsError, match="four_bit needs a GPU and bitsandbytes"):
        hub.train(parameters(tmp_path, model_folder(tmp_path / "model"), four_bit=True, device="cpu"))
    reader = tokenizer("")
    reader.chat_template = None
    reader.save_pretrained(model_folder(tmp_path / "untalking"))
    (tmp_path / "untalking" / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(CrsError, match="has no chat template"):
        hub.train(parameters(tmp_path, tmp_path / "untalking"))
