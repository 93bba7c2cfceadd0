"""Typed parameters of trainings: which human dialogues, which base model, for how long."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from crslib.config import Parameters, outside_identity, path_field, resolve

_OWN = ("without", "negative_weight", "precision", "step_tokens")  # of crslib's own trainer alone


class CorpusParameters(Parameters):
    """Which human dialogues are read, and by which base model."""

    redial: str = path_field(
        "data/raw/redial/redial_dataset.zip", description="ReDial's zip or folder; see crs data fetch"
    )
    corpus: str = path_field("", description="folder of crs data import-dialogues, instead of ReDial; empty: ReDial")
    skip: int = Field(0, ge=0, description="first dialogues to skip, for example those that init was trained on")
    limit: int = Field(0, ge=0, description="most dialogues used after the skipped ones; 0: all")
    model: str = path_field(
        "smollm2", description="GGUF of the base; smollm2 is the built-in one; trl: a folder or name of Hugging Face"
    )
    threads: int = outside_identity(0, ge=0, description="CPU threads; 0 is all of them")


class LearningParameters(CorpusParameters):
    """What every training needs: dialogues, a base model, and a device."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="device to train on")
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto", description="of matrix products; auto: bfloat16 where the device supports it, else float32"
    )


class TrainingParameters(LearningParameters):
    """`06_train` and `crs train`: which adapter, from which dialogues, for how long."""

    role: Literal["user", "recommender", "scripted", "user-target"] = Field(
        "user", description="whose utterances are learned"
    )
    trainer: Literal["own", "trl"] = Field(
        "own", description="own: of llama GGUFs, exact and small; trl: TRL, of any causal model of Hugging Face"
    )
    pairs: str = path_field("", description="trl: folder of crs prefer or crs imitate, for DPO; empty: SFT")
    four_bit: bool = Field(False, description="trl: the base in 4 bits (QLoRA), on a GPU with bitsandbytes")
    init: str = path_field("", description="adapter to start from, PEFT folder or GGUF; empty: a new one")
    to: str = path_field("", description="folder for the adapter; empty: reports/training/ROLE, of pairs ROLE-dpo")
    epochs: int = Field(3, ge=1, description="passes over the dialogues")
    lr: float = Field(2e-3, gt=0, description="peak learning rate")
    step_tokens: int = Field(8192, ge=1, description="tokens per step of the optimizer")
    negative_weight: int = Field(1, ge=1, description="copies of each dialogue in which something is disliked")
    validation: float = Field(0.05, ge=0, lt=1, description="share of dialogues, by person, held out for validation")
    without: Literal["", "notes", "summary and attributes", "facts", "style"] = Field(
        "", description="ablation: part removed from the role's view; empty: none"
    )

    @model_validator(mode="after")
    def _private(self) -> Self:
        users = ("user", "user-target")
        having = {"facts": ("recommender",), "style": (*users, "recommender")}.get(self.without, users)
        if self.without and self.role not in having:
            raise ValueError(f"without = {self.without!r} is for {' and '.join(having)}; leave it out")
        return self

    @model_validator(mode="after")
    def _of_the_trainer(self) -> Self:
        fields = type(self).model_fields
        if self.trainer == "own":
            if odd := [name for name in ("pairs", "four_bit") if getattr(self, name)]:
                raise ValueError(f"{odd[0]} is for trainer = trl; give it too, or leave {odd[0]} out")
            return self
        if odd := [name for name in _OWN if getattr(self, name) != fields[name].default]:
            raise ValueError(f"{odd[0]} is for crslib's own trainer; leave it out, or trainer = trl")
        if self.model == fields["model"].default:
            raise ValueError("trainer = trl needs model, a folder or name of a causal model of Hugging Face")
        if self.role not in ("user", "recommender"):
            raise ValueError(f"trainer = trl learns user or recommender, not {self.role}")
        return self

    @property
    def folder(self) -> Path:
        """Folder of the results."""
        return resolve(self.to or f"reports/training/{self.role}{'-dpo' if self.pairs else ''}")


class DrawingParameters(CorpusParameters):
    """What is needed where an adapter continues human dialogues."""

    role: Literal["user", "recommender"] = Field("user", description="whose adapter, and whose turns")
    init: str = path_field("", description="adapter to start from, PEFT folder or GGUF; empty: the shipped one")
    contexts: int = Field(480, ge=1, description="points in human dialogues to continue")
    draws: int = Field(4, ge=2, description="continuations of each point")

    @property
    def start(self) -> Path:
        """The adapter that continues."""
        return resolve(self.init or f"data/adapters/{self.role}.gguf")


class PairParameters(DrawingParameters, LearningParameters):
    """What every training on pairs of replies needs: how far the adapter may move."""

    beta: float = Field(0.1, gt=0, description="DPO's beta: how strongly the starting adapter is kept")
    sft: float = Field(0.2, ge=0, description="weight of the chosen continuation's own cross-entropy; 0: plain DPO")
    epochs: int = Field(1, ge=1, description="passes over the pairs")
    lr: float = Field(3e-4, gt=0, description="peak learning rate")
    validation: float = Field(0.1, ge=0, lt=1, description="share of dialogues whose pairs are held out for validation")


class PreferenceParameters(PairParameters):
    """`crs prefer`: which adapter learns to prefer its better continuations, and how far it may move."""

    to: str = path_field("", description="folder for the adapter; empty: reports/preferences/ROLE")
    judge: str = path_field("", description="GGUF of a model that judges in addition to the rules; empty: none")
    told: bool = Field(
        False, description="init is of --trainer trl: pairs are drawn as it reads, and nothing is trained"
    )

    @property
    def folder(self) -> Path:
        """Folder of the results."""
        return resolve(self.to or f"reports/preferences/{self.role}")


class ImitationParameters(PairParameters):
    """`crs imitate`: which adapter learns to prefer what a person said to its own reply, and what must not be lost."""

    to: str = path_field("", description="folder for the adapter; empty: reports/imitation/ROLE")
    sft: float = Field(1.0, ge=0, description="weight of the cross-entropy of what the person said")
    rounds: int = Field(1, ge=1, description="rounds; each begins with the adapter of the one before")
    guard: int = Field(
        50, ge=1, description="dialogues of other people; training stops when their words get less likely"
    )
    slack: float = Field(
        0.01, ge=0, description="nats per token that the guard dialogues may lose; beyond, training stops"
    )

    @property
    def folder(self) -> Path:
        """Folder of the results."""
        return resolve(self.to or f"reports/imitation/{self.role}")


class DiscriminatorParameters(DrawingParameters):
    """`crs discriminator`: whose turns are compared with people's, an adapter's or those of a run."""

    run: str = path_field("", description="folder of a run whose turns are the model's, instead of replies by init")
    to: str = path_field("", description="folder for ROLE.json; empty: reports/discriminators")

    @property
    def folder(self) -> Path:
        """Folder of the results."""
        return resolve(self.to or "reports/discriminators")
