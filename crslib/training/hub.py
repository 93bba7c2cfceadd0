"""`crs train --trainer trl`: SFT and DPO of any causal model of Hugging Face by TRL, for GPUs and larger models.

It learns from the files that `crs export --as trl` writes, so examples and barrier are the same, and from the role's
own utterances alone. LoRA of every linear layer, of the rank of crslib's own trainer; with the base in 4 bits this is
QLoRA (Dettmers et al. 2023). On several GPUs the command is started by `accelerate launch`.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import polars as pl
from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from crslib import json_files
from crslib.config import ExportParameters, install, resolve
from crslib.data.corpora.folder import Corpus
from crslib.dialogue.utterances import USER
from crslib.errors import CrsError
from crslib.files import Progress, no_progress, write_parquet, writing
from crslib.identity import digest
from crslib.schemas import STRICT
from crslib.training import cards, conversion, corpus
from crslib.training.parameters import PreferenceParameters, TrainingParameters
from crslib.training.run import ALPHA, RANK, chosen, resolve_device, training_corpus

MAX_TOKENS = 2048
"""Tokens of an example; longer ones are left out, and counted."""
PROMPT = "data/prompts/trained.md"
"""What a model that was trained on such files is told in a simulation."""
_NEEDED = ("torch", "transformers", "peft", "trl", "accelerate", "datasets")
_STEP = 16  # examples of an optimizer step on one device
_AT_ONCE = {"cpu": 1, "cuda": 4}
_WARMUP = 0.05  # of the steps
_UNLEARNED = -100  # torch's label of a token that is context
_PART = "training.json"  # beside the checkpoints: whose they are


@with_config(STRICT)
class _Part(TypedDict):
    """A part of a training that was killed."""

    key: str
    seconds: float


_PARTS = TypeAdapter(_Part)


def train(parameters: TrainingParameters, progress: Progress = no_progress) -> dict[str, Any]:
    """Trains an adapter of the model `parameters.model`; fills the folder of `parameters` and returns the figures.

    The folder gets `data` (the files learned from), the PEFT folder `peft`, `ROLE.gguf` where llama.cpp has the kind of
    model (`conversion.ARCHITECTURES`), `log.parquet`, `figures.json` and the card `README.md`. A killed training goes
    on after its last whole epoch. Figures as of `run.train`, and `left_out`, the examples above `MAX_TOKENS`; `before`
    and `after` hold the validation `loss` (of SFT nats per own token, the mean over batches), of DPO also `accuracy`
    and `margin`. `progress` counts steps. Raises `CrsError` where the extra `trl` is not installed, for a model that
    cannot be read, one whose template loses texts, and unusable data.
    """
    need_extra()
    from accelerate import PartialState
    from transformers.trainer_utils import get_last_checkpoint

    folder, device = parameters.folder, resolve_device(parameters.device, "auto", parameters.threads)[0].type
    processes = PartialState()  # before the model is loaded: it says which GPU is this process's
    model, reader = _load(parameters, device)
    with processes.main_process_first():
        people = training_corpus(parameters)
        files = _write_files(parameters, people, "keep" if takes_system(reader) else "fold")
    given = {name: _lines(path) for name, path in files.items() if path.is_file()}
    rows = {name: _examples(lines, reader, parameters) for name, lines in given.items()}
    if not len(rows["train"]):
        raise CrsError(f"no example of {files['train']} has at most {MAX_TOKENS} tokens; give shorter dialogues")
    rows = {name: part for name, part in rows.items() if len(part)}
    trainer = _trainer(parameters, model, reader, rows, device)
    checkpoints = Path(trainer.args.output_dir)
    earlier = _earlier(checkpoints, digest([parameters.identity(), given], "hub"))
    trainer.add_callback(_callback(progress, checkpoints, earlier))
    before = _validation(trainer)
    last = get_last_checkpoint(str(checkpoints)) if earlier["seconds"] else None
    seconds = earlier["seconds"] + trainer.train(resume_from_checkpoint=last).metrics["train_runtime"]
    tokens = int(trainer.state.num_input_tokens_seen)
    figures = {
        "device": device,
        "precision": "4 bits" if parameters.four_bit else str(model.dtype).removeprefix("torch."),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_s": tokens / seconds,
        "examples": len(rows["train"]),
        "validation_examples": len(rows.get("validation", ())),
        "left_out": sum(map(len, given.values())) - sum(map(len, rows.values())),
        "before": before,
        "after": _validation(trainer),
    }
    trainer.save_model(str(folder / "peft"))  # in all processes: some ways of sharing a model out need them
    if trainer.is_world_process_zero():
        _write(parameters, trainer.model, trainer.state.log_history, figures, people.credit, people.domain.name)
        shutil.rmtree(checkpoints)
    return figures


def _earlier(checkpoints: Path, key: str) -> dict[str, Any]:
    """What is known of the parts of this training before it was killed: its `key` and `seconds`.

    Raises `CrsError` where the checkpoints are of another training.
    """
    if not (checkpoints / _PART).exists():
        return {"key": key, "seconds": 0.0}
    known = json_files.read_as(checkpoints / _PART, _PARTS, "remove the folder")
    if known["key"] != key:
        raise CrsError(f"{checkpoints} is of another training; remove it, or give another folder with --to")
    return dict(known)


def need_extra() -> None:
    """Raises `CrsError` when the extra `trl` is not installed."""
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise CrsError(f"trainer = trl needs {', '.join(missing)}; {install('trl')}")


# ── the model ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _load(parameters: TrainingParameters, device: str) -> tuple[Any, Any]:
    """The base, with the adapter that training starts from where one is given, and its tokenizer."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    kind = torch.bfloat16 if device == "cuda" else torch.float32
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": kind}
    if parameters.four_bit and (device != "cuda" or find_spec("bitsandbytes") is None):
        raise CrsError("four_bit needs a GPU and bitsandbytes; run `pip install bitsandbytes` there, or leave it out")
    options = {"quantization_config": BitsAndBytesConfig(**four)} if parameters.four_bit else {}
    try:
        reader = AutoTokenizer.from_pretrained(parameters.model)
        model: Any = AutoModelForCausalLM.from_pretrained(parameters.model, dtype=kind, **options)
        if parameters.init:
            model = PeftModel.from_pretrained(model, str(resolve(parameters.init)), is_trainable=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise CrsError(
            f"cannot read the model {parameters.model!r} ({reason}); give a folder or name of a causal model of "
            "Hugging Face, and as init a PEFT folder"
        ) from None
    if not reader.chat_template:
        raise CrsError(f"{parameters.model} has no chat template; give a chat model, or one whose tokenizer has one")
    if reader.pad_token is None:
        reader.pad_token = reader.eos_token
    return model, reader


def takes_system(reader: Any) -> bool:
    """Whether the chat template of a tokenizer says a system text, before a dialogue that the other party begins."""
    from jinja2 import TemplateError

    probe = [{"role": role, "content": f"the {role}"} for role in ("system", "user", "assistant")]
    try:
        return str(reader.apply_chat_template(probe, tokenize=False)).count("the system") == 1
    except TemplateError:
        return False


# ── examples ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _write_files(parameters: TrainingParameters, people: Corpus, system: str) -> dict[str, Path]:
    """Writes the files to learn from, those of `crs export`; their paths by split."""
    options = {"system": system, "validation": parameters.validation, "seed": parameters.seed}
    form, to = ExportParameters.parse(options), parameters.folder / "data"
    dialogues = chosen(people, parameters)
    if parameters.pairs:
        made = resolve(parameters.pairs)
        corpus.write_pairs(made, parameters.role, to, form, people.origin, people.domain, people.dialogues)
        name = f"{parameters.role}-dpo"
    else:
        corpus.write_dialogues(dialogues, people.items, parameters.role, to, form, people.origin, people.domain)
        name = parameters.role
    return {"train": to / f"{name}.jsonl", "validation": to / f"{name}-validation.jsonl"}


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def _examples(written: Sequence[str], reader: Any, parameters: TrainingParameters) -> Any:
    """The examples in the lines of a file as a `datasets.Dataset`, without those above `MAX_TOKENS`."""
    from datasets import Dataset

    lines = [json.loads(line) for line in written]
    if parameters.pairs:
        rows = [{name: line[name] for name in ("prompt", "chosen", "rejected")} for line in lines]
        sizes = [max(_n_tokens(row["prompt"] + row[side], reader) for side in ("chosen", "rejected")) for row in rows]
    else:
        template = training_template(reader)
        rows = [labelled(line["messages"], reader, template) for line in lines]
        sizes = [len(row["input_ids"]) for row in rows]
    return Dataset.from_list([row for row, size in zip(rows, sizes, strict=True) if size <= MAX_TOKENS])


def _n_tokens(messages: Sequence[Mapping[str, str]], reader: Any) -> int:
    return len(_ids(reader, messages))


def training_template(reader: Any) -> str | None:
    """The tokenizer's chat template with marks of what the assistant says, as it is or as TRL has it for known ones;
    None where there is none."""
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    try:
        template = get_training_chat_template(reader) or reader.chat_template
    except ValueError:  # one that TRL does not know
        return None
    return template if has_generation_markers(template) else None


def labelled(messages: Sequence[Mapping[str, str]], reader: Any, template: str | None) -> dict[str, list[int]]:
    """`input_ids` of a conversation, and `labels`: its own utterances with the tokens that end them, else -100.

    `template`: of `training_template`; with None own utterances are what is added to the conversation before each.
    Raises `CrsError` where that does not tell them, since the template writes earlier messages differently then.
    """
    if template is not None:
        options = {"chat_template": template, "return_dict": True, "return_assistant_tokens_mask": True}
        read = reader.apply_chat_template([*messages], **options)
        ids, own = [*read["input_ids"]], [*read["assistant_masks"]]
    else:
        ids = _ids(reader, messages)
        own = [0] * len(ids)
        for place, message in enumerate(messages):
            if message["role"] == "assistant":
                before = _ids(reader, messages[:place], add_generation_prompt=True)
                after = _ids(reader, messages[: place + 1])
                if ids[: len(before)] != before or ids[: len(after)] != after:
                    raise CrsError(
                        f"the chat template of {reader.name_or_path} writes a message differently when others follow, "
                        "so that what the model says cannot be told; add {% generation %} marks to the template"
                    )
                own[len(before) : len(after)] = [1] * (len(after) - len(before))
    return {"input_ids": ids, "labels": [one if mine else _UNLEARNED for one, mine in zip(ids, own, strict=True)]}


def _ids(reader: Any, messages: Sequence[Mapping[str, str]], **options: Any) -> list[int]:
    return [*reader.apply_chat_template([*messages], return_dict=True, **options)["input_ids"]]


# ── TRL ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _trainer(parameters: TrainingParameters, model: Any, reader: Any, rows: Mapping[str, Any], device: str) -> Any:
    """TRL's trainer of `rows` (by split), SFT's of labels or DPO's of pairs."""
    import trl
    from peft import LoraConfig

    lora = LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules="all-linear", task_type="CAUSAL_LM")
    held_out = rows.get("validation")
    options: dict[str, Any] = {
        "output_dir": str(parameters.folder / "checkpoints"),
        "num_train_epochs": parameters.epochs,
        "learning_rate": parameters.lr,
        "lr_scheduler_type": "cosine",
        "warmup_steps": _WARMUP,
        "per_device_train_batch_size": _AT_ONCE[device],
        "per_device_eval_batch_size": _AT_ONCE[device],
        "gradient_accumulation_steps": _STEP // _AT_ONCE[device],
        "gradient_checkpointing": device == "cuda",
        "bf16": device == "cuda",
        "use_cpu": device == "cpu",
        "max_length": None,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "eval_strategy": "no" if held_out is None else "epoch",
        "load_best_model_at_end": held_out is not None,
        "include_num_input_tokens_seen": "non_padding",
        "seed": parameters.seed,
        "report_to": "none",
        "disable_tqdm": True,
    }
    given = {
        "model": model,
        "processing_class": reader,
        "train_dataset": rows["train"],
        "eval_dataset": held_out,
        "peft_config": None if parameters.init else lora,
    }
    if not parameters.pairs:
        return trl.SFTTrainer(args=trl.SFTConfig(**options), **given)
    defaults = PreferenceParameters()
    options |= {"beta": defaults.beta, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, defaults.sft]}
    return trl.DPOTrainer(args=trl.DPOConfig(**options), **given)


def _callback(progress: Progress, checkpoints: Path, earlier: Mapping[str, Any]) -> Any:
    """Reports the steps, and notes beside each checkpoint whose it is and how long it took."""
    from transformers import TrainerCallback

    begun = perf_counter()

    class Report(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress(state.global_step, state.max_steps)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                so_far = {**earlier, "seconds": earlier["seconds"] + perf_counter() - begun}
                with writing(checkpoints / _PART) as temporary:
                    temporary.write_text(json.dumps(so_far) + "\n", encoding="utf-8")

    return Report()


def _validation(trainer: Any) -> dict[str, float]:
    """The validation figures; empty without validation."""
    if trainer.eval_dataset is None:
        return {}
    measured = trainer.evaluate()
    names = {"loss": "eval_loss", "accuracy": "eval_rewards/accuracies", "margin": "eval_rewards/margins"}
    return {name: float(measured[key]) for name, key in names.items() if key in measured}


# ── results ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _write(
    parameters: TrainingParameters,
    model: Any,
    history: Sequence[Mapping[str, Any]],
    figures: Mapping[str, Any],
    credit: str,
    domain: str,
) -> None:
    """Writes GGUF, log, figures and card beside the PEFT folder."""
    folder, role, kind = parameters.folder, parameters.role, model.config.model_type
    name = Path(parameters.model).name
    adapter = f"`{role}.gguf` runs in llama.cpp"
    if kind in conversion.ARCHITECTURES:
        conversion.write_gguf(folder / "peft", model.config, folder / f"{role}.gguf", name, domain)
    else:
        adapter = f"there is no GGUF, since crslib does not convert adapters of {kind} models"
    told = "user_prompt" if role == USER else "recommender_prompt"
    use = (
        f"- In a simulation: {adapter}; vLLM serves the folder `peft` as `--lora-modules {role}=peft`. Either is told "
        f"what it read in training with `-p {told}={PROMPT}`."
    )
    lora = model.peft_config["default"]
    settings = {
        "rank": lora.r,
        "alpha": lora.lora_alpha,
        "lr": parameters.lr,
        "epochs": parameters.epochs,
        "trl": version("trl"),
    }
    init = resolve(parameters.init) if parameters.init else None
    commit = getattr(model.config, "_commit_hash", None)
    version_of = f", commit {commit}" if commit else ""
    base = f"{name} ({kind}{version_of}, {model.num_parameters():,} parameters with the adapter)"
    card = cards.model_card(parameters, base, figures, settings, init, credit).rstrip() + f"\n\n{use}\n"
    write_parquet(_log(history), folder / "log.parquet")
    for file, content in (("README.md", card), ("figures.json", json.dumps(figures, indent=2) + "\n")):
        with writing(folder / file) as temporary:
            temporary.write_text(content, encoding="utf-8")


def _log(history: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """A row per step (loss, lr), and the validation loss in the rows after which it was measured."""
    from crslib.training.fit import LOG

    rows: dict[int, dict[str, Any]] = {}
    names = {"epoch": "epoch", "num_input_tokens_seen": "tokens", "loss": "loss", "learning_rate": "lr"}
    for entry in history:
        row = rows.setdefault(entry["step"], {"step": entry["step"]})
        row |= {to: entry[name] for name, to in names.items() if name in entry}
        row |= {"validation": entry["eval_loss"]} if "eval_loss" in entry else {}
    return pl.DataFrame([rows[step] for step in sorted(rows)], schema=LOG).filter(pl.col("loss").is_not_null())
