"""Typed parameters of a run, one class per notebook, and the checks before any kernel starts.

A parameter has one name across the whole pipeline. The parameters cell of each notebook repeats the fields of its class
(tests/test_architecture.py). Fields marked `identity=False` do not change the results, or enter the run's identity as
the hash of the file they name.
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from crslib.errors import CrsError

ROOT = Path(__file__).resolve().parents[1]
BUILT_IN = "smollm2"
"""Name of the built-in model."""
TOLD_CONTEXT = 2048
"""Tokens of context that a model which is told what to do has at least."""


def resolve(path: str | Path) -> Path:
    """`path` itself when absolute, else below the project folder: notebooks and commands agree wherever they start."""
    return ROOT / expanded(path)


def expanded(path: str | Path) -> Path:
    """`path` with `~` as the home folder; as it stands where nobody has such a home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def kind_of(name: str) -> str:
    """What a `*_model` parameter names: openai, python, dialoguekit, http, agenda, or gguf for the path of a file."""
    head = name.split(":", 1)[0]
    if head in ("openai", "python", "dialoguekit") and ":" in name:
        return head
    if re.match(r"[a-z][a-z0-9+.-]*://", name, re.IGNORECASE):  # of another scheme too: refused as an address
        return "http"
    return name if name == "agenda" else "gguf"


def install(extra: str) -> str:
    """What installs an extra of crslib, as words of an error's remedy: in a checkout the index is not asked for it."""
    if (ROOT / "pyproject.toml").is_file():
        return f"run `pip install --constraint constraints.txt --editable '.[{extra}]'` in {ROOT}"
    return f"run `pip install 'crslib[{extra}]'`"


def n_threads(threads: int) -> int:
    """`threads` itself, or for 0 as many as this process may use (`taskset`, a batch scheduler)."""
    return threads or usable_cores()


def usable_cores() -> int:
    """The number of CPU threads that this process may use; where the system does not say, those of the machine."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def outside_identity(default: Any, **rules: Any) -> Any:
    return Field(default, json_schema_extra={"identity": False}, **rules)


def path_field(default: str, **rules: Any) -> Any:
    return Field(default, json_schema_extra={"identity": False, "path": True}, **rules)


def _script_prompt() -> Any:
    return path_field("data/prompts/script.md", description="told to a model without adapter that writes both sides")


def marked(field: FieldInfo, mark: str, default: bool) -> bool:
    """What a field says of `identity` or `path`; `default` where it says nothing."""
    extra = field.json_schema_extra
    return bool(extra.get(mark, default)) if isinstance(extra, dict) else default


class Parameters(BaseModel):
    """Base of all parameter classes: frozen, strict, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    seed: int = Field(0, ge=0, lt=1 << 63, description="seed of the run")  # as wide as its column

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Parameters from names and values. Raises `CrsError` for the first unknown name or wrong value, and for an
        address with a password."""
        for name in values:
            if name not in cls.model_fields:
                close = difflib.get_close_matches(name, cls.model_fields, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(cls.model_fields))}"
                raise CrsError(f"unknown parameter {name!r}: {hint}")
            if marked(cls.model_fields[name], "path", False):
                _check_address(name, str(values[name]))
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            value = f"{first['input']!r:.200}"
            about = f"parameter {name} = {value} is not valid: " if name else ""  # empty: a rule on several
            message = first["msg"].removeprefix("Value error, ")
            raise CrsError(about + message[:1].lower() + message[1:]) from None

    @classmethod
    def pick(cls, namespace: Mapping[str, Any]) -> Self:
        """Parameters from the variables of a notebook's parameters cell, or from a run's record.

        Raises `CrsError` as `parse`, and for one that is missing.
        """
        if missing := [name for name in cls.model_fields if name not in namespace]:
            raise CrsError(f"parameter {missing[0]!r} is missing; all of {', '.join(cls.model_fields)} are needed")
        return cls.parse({name: namespace[name] for name in cls.model_fields})

    def identity(self) -> dict[str, Any]:
        """The parameters that change the result by their value."""
        return {
            name: getattr(self, name)
            for name, field in type(self).model_fields.items()
            if marked(field, "identity", True)
        }

    def located(self) -> Self:
        """The same with files that exist below the current folder made absolute: a command means those.

        Raises `CrsError` for a value that cannot be a path.
        """
        absolute = {
            name: _absolute(name, value)
            for name, field in type(self).model_fields.items()
            if marked(field, "path", False) and (value := getattr(self, name))
        }
        return self.model_copy(update=absolute)


def _check_address(name: str, value: str) -> None:
    _, separator, address = value.partition("://")
    if separator and set(address) & set("@?#"):
        raise CrsError(
            f"parameter {name} holds an address with a name, a password or a query, which would be stored with the "
            "run; give the address alone, and the key in the environment"
        )


def _absolute(name: str, value: str) -> str:
    """A path, or the file in `python:module:function`, made absolute where it exists; other values as they are."""
    agent, _, rest = value.partition(":")
    place, _, function = rest.rpartition(":")
    if (kind := kind_of(value)) in ("openai", "http"):
        return value
    named = kind in ("python", "dialoguekit") and bool(place)
    path = expanded(value if not named else place if place.endswith(".py") else place.replace(".", "/") + ".py")
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return value
    except (OSError, ValueError) as error:  # ValueError: a NUL, half of a surrogate pair
        reason = getattr(error, "strerror", None) or str(error)
        raise CrsError(f"parameter {name} = {value[:200]!r} cannot be a path: {reason}; give another") from None
    return f"{agent}:{path.resolve()}:{function}" if named else str(path.resolve())


class ProfileParameters(Parameters):
    """`01_profiles`: who is simulated, and which part of their history is known or hidden."""

    data: str = path_field("data", description="folder with items.parquet and ratings.parquet")
    domain: str = path_field(
        "auto", description="what the talk is about: a name or a file; auto: as the data folder says"
    )
    n_profiles: int = Field(64, ge=1, lt=1 << 31, description="profiles simulated")
    target_mode: Literal["heldout", "taste"] = Field("heldout", description="where target attributes come from")
    holdout_share: float = Field(
        0.2, gt=0, lt=1, description="share of each history that is hidden, the latest ratings"
    )
    min_k: int = Field(20, ge=1, lt=1 << 31, description="catalogue items that must match the target attributes")
    summary_style: Literal["template", "model"] = Field("template", description="how summaries are worded")
    summary_model: str = path_field(
        "smollm2", description="GGUF, or openai:MODEL@URL, that words summaries if summary_style is model"
    )


class SimulationParameters(Parameters):
    """`02_simulate`: two models and how they talk."""

    condition: str = Field("interplay", min_length=1, description="name of the condition in tables and charts")
    user_model: str = path_field(
        BUILT_IN,
        min_length=1,
        description="smollm2, GGUF file, openai:MODEL@URL, python:module:function, http://… or agenda",
    )
    user_adapter: str = path_field("auto", description="LoRA GGUF; auto: the built-in one for smollm2; empty: none")
    user_prompt: str = path_field("data/prompts/user.md", description="told to a model without adapter; empty: nothing")
    recommender_model: str = path_field(
        BUILT_IN, min_length=1, description="smollm2, GGUF file, openai:MODEL@URL, python:module:function or http://…"
    )
    recommender_adapter: str = path_field(
        "auto", description="LoRA GGUF; auto: the built-in one for smollm2; empty: none"
    )
    recommender_prompt: str = path_field(
        "data/prompts/recommender.md", description="told to a model without adapter; empty: nothing"
    )
    weights: Literal["fastest", "Q8_0", "BF16", "F16", "Q4_0", "as they are"] = Field(
        "Q8_0", description="weights format with the adapter merged; fastest: measured once on this machine"
    )
    opener: Literal["mixed", "user", "recommender"] = Field(
        "mixed", description="who speaks first; mixed: the recommender in 65 %, as people do"
    )
    grounding: Literal["prior", "contrary", "catalogue", "off"] = Field(
        "prior",
        description="titles the recommender can name: by item prior, contrary: by taste turned round, catalogue: any; "
        "the user any; off: free text of both",
    )
    # Those that make people's titles likeliest, times 1.2: in simulated dialogues they spread recommendations wider
    # than people's (FINDINGS 20).
    title_model: float = Field(
        0.53, ge=0, le=5, description="choice of a title: exponent of the model that reads the dialogue"
    )
    title_prior: float = Field(0.84, ge=0, le=5, description="choice of a title: exponent of the item prior")
    title_base: float = Field(
        0.35, ge=0, le=5, description="choice of a title: exponent of the model without a dialogue, divided out"
    )
    title_wish: float = Field(
        3.5, ge=0, le=20, description="choice of a user's title: nats by which those that go with its wish are likelier"
    )
    resample: int = Field(4, ge=1, description="most draws of an utterance: until one goes with what its speaker knows")
    discriminators: str = path_field(
        "", description="folder of files that weigh all draws, such as data/discriminators; empty: none"
    )
    memory: bool = Field(True, description="private notes: what the user remembers or thinks of mentioned items")
    opinions: Literal["ratings", "people"] = Field(
        "people",
        description="what a user has seen and likes: by its visible ratings alone, or as much of it as people do",
    )
    facts: Literal["auto", "always", "never"] = Field(
        "auto",
        description="catalogue facts of mentioned items in the recommender's view; auto: if its adapter was trained so",
    )
    styles: str = path_field(
        "auto",
        description="how each party writes is drawn from this table; auto: data/human/styles.parquet, for adapters "
        "trained with styles; empty: no styles",
    )
    temperature: float = Field(1.0, ge=0, le=5, description="of words; 0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus sampling; 1: none")
    min_p: float = Field(0.005, ge=0, le=1, description="least probability relative to the best token's")
    max_tokens: int = Field(64, ge=1, description="tokens of an utterance from which on it ends with its sentence")
    guard: bool = Field(True, description="no sentence twice in one utterance, and no words on and on")
    max_turns: int = Field(24, ge=1, le=10_000, description="longest dialogue, in turns of both parties")
    dialogues_per_profile: int = Field(1, ge=1, le=10_000, description="dialogues each person has, with other seeds")
    n_ctx: int = Field(768, ge=128, description="context of one dialogue, in tokens; at least 2048 for told models")
    width: int = Field(16, ge=1, le=256, description="most utterances decoded at once; part of the engine's identity")
    n_gpu_layers: int = Field(0, ge=-1, lt=1 << 31, description="layers on a GPU, in CUDA and Metal builds; -1: all")
    threads: int = outside_identity(
        0, ge=0, le=1024, description="CPU threads; 0 is all of them; never changes the text"
    )
    max_concurrency: int = outside_identity(16, ge=1, le=9999, description="requests to servers at the same time")
    requests_per_minute: int = outside_identity(0, ge=0, description="most requests to servers a minute; 0: any number")
    tokens_per_minute: int = outside_identity(0, ge=0, description="most tokens of servers a minute; 0: any number")
    timeout: float = outside_identity(120.0, gt=0, le=86_400, description="seconds that a server has for one answer")
    price_in: float = outside_identity(
        0.0, ge=0, le=1e9, description="money per million tokens sent to servers; 0: not known"
    )
    price_out: float = outside_identity(
        0.0, ge=0, le=1e9, description="money per million tokens servers write; 0: not known"
    )

    def model(self, role: str) -> str:
        """The name of a role's model or other agent."""
        return str(getattr(self, f"{role}_model"))

    def prompt(self, role: str) -> str:
        """The path of the instructions that a role's model is told; empty for none, and for one with an adapter unless
        others than the usual ones are given."""
        name = f"{'script' if getattr(self, 'baseline', '') == 'scripted' else role}_prompt"
        given, usual = str(getattr(self, name)), str(type(self).model_fields[name].default)
        return "" if self.adapter(role) and given and resolve(given) == resolve(usual) else given

    @property
    def context(self) -> int:
        """Tokens that a local model's context holds: instructions and longer turns need more room."""
        told = any(self.is_local(role) and self.prompt(role) for role in ("user", "recommender"))
        return max(self.n_ctx, TOLD_CONTEXT) if told else self.n_ctx

    def is_local(self, role: str) -> bool:
        """Whether a role's model is a GGUF file or the built-in one."""
        return kind_of(self.model(role)) == "gguf"

    def adapter(self, role: str) -> str:
        """The path of a role's adapter, empty for none."""
        given = str(getattr(self, f"{role}_adapter"))
        if given != "auto":
            return given
        return f"data/adapters/{role}.gguf" if self.model(role) == BUILT_IN else ""


class BaselineParameters(SimulationParameters):
    """`02_baselines`: a condition in which a model knows the targets, in place of `02_simulate`."""

    baseline: Literal["user-target", "scripted"] = Field("user-target", description="who knows the targets")
    script_prompt: str = _script_prompt()


class EvaluationParameters(Parameters):
    """`03_evaluate`: what dialogues are compared with, and how precise intervals are."""

    human: str = path_field("data/human", description="folder with the statistics of human dialogues")
    judged_by: Literal["own", "another"] = Field(
        "own", description="whose profile dialogues are evaluated with; another: a control"
    )
    redial: str = path_field(
        "", description="ReDial's zip or folder, for metrics that need human text; empty: without them"
    )
    metrics: str = path_field("", description="your own metrics: python:module:function,function; empty: none")
    n_bootstrap: int = Field(1000, ge=100, le=1_000_000, description="resamples of dialogues behind each 95 % interval")


class QuickstartParameters(Parameters):
    """`00_quickstart`: a tour with few people and short talks."""

    n_profiles: int = Field(4, ge=1, description="profiles simulated")
    max_turns: int = Field(10, ge=1, description="longest dialogue, in turns of both parties")


class OwnParameters(Parameters):
    """`07_your_own`: your recommender beside another one, with the same simulated users."""

    recommender_model: str = path_field(
        "python:data/protocol/newest.py:reply",
        description="yours: python:module:function, http://… or dialoguekit:module:Class",
    )
    other_model: str = path_field("smollm2", description="the recommender beside it; smollm2 is the built-in one")
    user_model: str = path_field("smollm2", description="who both talk with; smollm2 is the built-in one")
    n_profiles: int = Field(30, ge=1, description="profiles simulated; below 30 no difference is called significant")
    max_turns: int = Field(12, ge=1, description="longest dialogue, in turns of both parties")
    n_bootstrap: int = Field(1000, ge=100, description="resamples of dialogues behind each 95 % interval")


class PeopleParameters(Parameters):
    """`05_people`: which dialogues are compared, by whom."""

    runs: list[str] = Field([], description="runs (id, tag, folder), or a sweep's or study's folder; none: last sweep")
    n_pairs: int = Field(20, ge=1, description="pairs to compare, attention checks aside")
    redial: str = path_field("", description="ReDial's zip or folder: a real dialogue in every pair; empty: none")
    rater: str = Field("", description="who rates in this notebook; empty: who types a name")
    judge: str = path_field("", description="Parquet of a judge's votes on the same runs; empty: none")


class ExportParameters(Parameters):
    """`crs export --as trl` and `--as dpo`: the form of the messages, and how people are split."""

    system: Literal["keep", "fold"] = Field(
        "keep", description="fold: the system text begins the first user message, for templates without a system role"
    )
    validation: float = Field(0.0, ge=0, lt=1, description="share of the people, of a corpus of the dialogues")
    test: float = Field(0.0, ge=0, lt=1, description="the same for the test split")

    @model_validator(mode="after")
    def _some_are_for_training(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nobody to train on; lower one")
        return self


class RunParameters(ProfileParameters, SimulationParameters, EvaluationParameters):
    """All parameters of `crs run`."""

    baseline: Literal["", "user-target", "scripted"] = Field(
        "",
        description="a condition in which a model knows the targets; scripted: it writes both sides; empty: none",
    )
    script_prompt: str = _script_prompt()

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: dict[str, Any]) -> dict[str, Any]:
        """A baseline names its condition in tables and charts, unless another name is given."""
        name = values.get("baseline")
        if name == "scripted" and values.get("grounding") != "off":
            name = "scripted-grounded"
        return ({"condition": name} if name else {}) | values

    @property
    def stages(self) -> Mapping[str, type[Parameters]]:
        """The notebooks of this run, in order, with their parameters."""
        middle = {"02_baselines": BaselineParameters} if self.baseline else {"02_simulate": SimulationParameters}
        return {"01_profiles": ProfileParameters, **middle, "03_evaluate": EvaluationParameters}


class StoredParameters(EvaluationParameters):
    """`crs evaluate`: the parameters of a run of dialogues that were stored in a file."""

    condition: str = Field(min_length=1, description="name of the condition in tables and charts")
    form: str = Field(description="form of the file")
    titles: Literal["auto", "marked", "all"] = Field(
        "auto", description="items linked: those that the file marks, or all; auto: the marked ones if there are any"
    )
    data: str = path_field("data", description="folder with items.parquet, the catalogue that items are linked to")
    domain: str = path_field(
        "auto", description="what the talk is about: a name or a file; auto: as the data folder says"
    )

    @property
    def stages(self) -> Mapping[str, type[Parameters]]:
        """The notebook of this run, with its parameters."""
        return {"03_evaluate": EvaluationParameters}


NOTEBOOKS: Mapping[str, type[Parameters]] = {
    "01_profiles": ProfileParameters,
    "02_simulate": SimulationParameters,
    "02_baselines": BaselineParameters,
    "03_evaluate": EvaluationParameters,
}
"""All notebooks that a run may execute; `RunParameters.stages` says which."""
