"""From the parameters of a simulation to open engines: which files, which form of the weights, which sampling.

Knows files and parameters, nothing of dialogues.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from crslib.config import SimulationParameters, n_threads, resolve
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.engines import llama, preparation, weights
from crslib.engines.base import Sampling, Scope
from crslib.errors import CrsError

CACHE = resolve(".cache/weights")
"""Folder of the merged weights and of the measurements that choose their format."""
SomeEngine = TypeVar("SomeEngine", bound=llama.LlamaEngine)


@overload
def open_engines(
    parameters: SimulationParameters, roles: Sequence[str] = ...
) -> contextlib.AbstractContextManager[tuple[llama.LlamaEngine, ...]]: ...


@overload
def open_engines(
    parameters: SimulationParameters, roles: Sequence[str] = ..., *, engine_type: type[SomeEngine]
) -> contextlib.AbstractContextManager[tuple[SomeEngine, ...]]: ...


@contextlib.contextmanager
def open_engines(
    parameters: SimulationParameters,
    roles: Sequence[str] = (USER, RECOMMENDER),
    *,
    engine_type: type[llama.LlamaEngine] = llama.LlamaEngine,
) -> Iterator[tuple[Any, ...]]:
    """The engines of `roles`; they are closed at the end.

    Adapters are merged into the weights (once, cached) unless `parameters.weights` is "as they are". Roles that have
    the same GGUF file then share it. Raises `CrsError` when a file cannot be read or does not fit.
    """
    with contextlib.ExitStack() as stack:
        feeder = None
        if n_threads(parameters.threads) > 1 and parameters.width > 1 and roles:
            feeder = stack.enter_context(contextlib.closing(llama.Feeder()))
        models: dict[Path, llama.Model] = {}
        yield tuple(
            _open(
                stack,
                parameters,
                parameters.model(role),
                parameters.adapter(role),
                sampling(parameters),
                models,
                feeder,
                engine_type,
            )
            for role in roles
        )


@contextlib.contextmanager
def open_engine(
    parameters: SimulationParameters, model: str, adapter: str, drawing: Sampling | None = None
) -> Iterator[llama.LlamaEngine]:
    """One engine: GGUF `model` with `adapter` ("" for none), closed at the end.

    Size and form of the weights are those of `parameters`; so is the sampling unless `drawing` is given. Raises
    `CrsError` when a file cannot be read or does not fit.
    """
    with contextlib.ExitStack() as stack:
        yield _open(stack, parameters, model, adapter, drawing or sampling(parameters), {}, None, llama.LlamaEngine)


def sampling(parameters: SimulationParameters) -> Sampling:
    """The sampling that `parameters` ask for."""
    guard: Scope = "utterance" if parameters.guard else "off"
    return Sampling(parameters.temperature, parameters.top_p, parameters.min_p, parameters.max_tokens, guard)


def engine_files(
    parameters: SimulationParameters, model: str, adapter: str
) -> tuple[Path, Path | None, dict[str, Any]]:
    """The files of an engine of GGUF `model` with `adapter`; merged weights are written if they are missing.

    Returns the weights, the adapter if it is not merged into them, and what the weights were made from
    (`llama.source`). Raises `CrsError` when a file cannot be read or does not fit, or an adapter is not whole.
    """
    model_path, adapter_path = llama.model_path(model), llama.adapter_path(adapter)
    form = weights_form(parameters, model_path, adapter_path)
    source = llama.source(model_path, adapter_path, form)
    if adapter_path:
        weights.check_adapter(adapter_path)
    if adapter_path and form != llama.AS_THEY_ARE:
        return weights.merged(model_path, adapter_path, form, CACHE), None, source
    return model_path, adapter_path, source


def weights_form(
    parameters: SimulationParameters,
    model: Path,
    adapter: Path | None,
    report: Callable[[str], None] = lambda what: None,
) -> weights.Format | Literal["as they are"]:
    """The form of the weights for these files on this machine: a format to merge the adapter into, or "as they are".

    `parameters.weights` = "fastest" is measured once (a minute or so, announced by `report`) and cached. Raises
    `CrsError` when a file cannot be read or does not fit.
    """
    if adapter is None:
        return llama.AS_THEY_ARE
    if parameters.weights != "fastest":
        return parameters.weights
    return preparation.best(model, adapter, CACHE, report)


def _open(
    stack: contextlib.ExitStack,
    parameters: SimulationParameters,
    model: str,
    adapter: str,
    drawing: Sampling,
    models: dict[Path, llama.Model],
    feeder: llama.Feeder | None,
    engine_type: type[SomeEngine],
) -> SomeEngine:
    """Opens an engine until `stack` closes, with a model of `models` (by file) or a new one, which is added."""
    path, unmerged, source = engine_files(parameters, model, adapter)
    if path not in models:
        try:
            opened = llama.Model(path, source, n_gpu_layers=parameters.n_gpu_layers)
        except CrsError:
            if path.parent != CACHE or not weights.is_damaged(path):
                raise
            weights.remove(path)  # it is ours, so it is made anew
            engine_files(parameters, model, adapter)
            opened = llama.Model(path, source, n_gpu_layers=parameters.n_gpu_layers)
        models[path] = stack.enter_context(contextlib.closing(opened))
        if not opened.chat_template[0]:
            warnings.warn(
                f"the model {model} has no chat template in its file: it is talked to in ChatML", stacklevel=2
            )
    engine = engine_type(
        models[path],
        unmerged,
        drawing,
        n_ctx=parameters.context,
        width=parameters.width,
        threads=n_threads(parameters.threads),
        feeder=feeder,
    )
    stack.enter_context(contextlib.closing(engine))
    if engine.identity.get("parking") == "none":
        warnings.warn(f"what the model {model} has read cannot be kept: each utterance reads all again", stacklevel=2)
    return engine
