"""From the parameters of a simulation to open engines: which weights, which adapter, merged or not.

Knows files and parameters, nothing of dialogues.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from crslib.config import SimulationParameters, n_threads, resolve
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.engines import llama, preparation, weights
from crslib.engines.base import Engine, Sampling

CACHE = resolve(".cache/weights")


def weights_form(
    parameters: SimulationParameters,
    model: Path,
    adapter: Path | None,
    tell: Callable[[str], None] = lambda what: None,
) -> str:
    """The form of the weights that `parameters.weights` means for these files here; `tell` hears of a measurement."""
    if parameters.weights != "fastest" or adapter is None:
        return parameters.weights if adapter else llama.AS_THEY_ARE
    return preparation.best(model, adapter, CACHE, tell)


@contextlib.contextmanager
def open_engines(parameters: SimulationParameters) -> Iterator[tuple[llama.LlamaEngine, llama.LlamaEngine]]:
    """The user's and the recommender's engine. Adapters are merged into the weights (once, cached) unless told not to;
    roles that then have the same GGUF file share it. Raises `CrsError` when a file is unfit."""
    sampling = Sampling(parameters.temperature, parameters.top_p, parameters.min_p, parameters.max_tokens)
    with contextlib.ExitStack() as stack:
        models: dict[Path, llama.Model] = {}
        stack.callback(lambda: [model.close() for model in models.values()])
        feeder = llama.Feeder() if n_threads(parameters.threads) > 1 and parameters.width > 1 else None
        if feeder:
            stack.callback(feeder.close)
        engines = []
        for model, adapter in (
            (parameters.user_model, parameters.user_adapter),
            (parameters.recommender_model, parameters.recommender_adapter),
        ):
            engines.append(open_engine(parameters, model, adapter, sampling, models, feeder))
            stack.callback(engines[-1].close)
        yield engines[0], engines[1]


def open_engine(
    parameters: SimulationParameters,
    model: str,
    adapter: str,
    sampling: Sampling,
    models: dict[Path, llama.Model],
    feeder: llama.Feeder | None = None,
) -> llama.LlamaEngine:
    """The engine of GGUF `model` with `adapter`, the size that `parameters` say; the caller closes it, and the models.

    `models`: those open already, by file, to be shared; a new one is added. `feeder`: feeds prompts beside it. Raises
    `CrsError` when a file is unfit.
    """
    path, beside, source = prepared(parameters, model, adapter)
    if path not in models:
        models[path] = llama.Model(path, source)
    size = {"n_ctx": parameters.n_ctx, "width": parameters.width, "threads": n_threads(parameters.threads)}
    return llama.LlamaEngine(models[path], beside, sampling, **size, feeder=feeder)


def prepared(parameters: SimulationParameters, model: str, adapter: str) -> tuple[Path, Path | None, dict[str, Any]]:
    """The files that an engine of GGUF `model` with `adapter` speaks with: the weights, the adapter beside them if it
    is not merged into them, and what they were made of. Raises `CrsError` when a file is unfit."""
    path, beside = llama.model_path(model), llama.adapter_path(adapter)
    form = weights_form(parameters, path, beside)
    source = llama.source(path, beside, form)
    if beside and form != llama.AS_THEY_ARE:
        return weights.merged(path, beside, form, CACHE), None, source
    return path, beside, source


def engine_record(user: Engine, recommender: Engine) -> dict[str, dict[str, Any]]:
    """What `run.json` says of the two engines: identity and the hash of the chat template, per role."""
    return {
        role: {**engine.identity, "chat_template_sha256": hashlib.sha256(engine.chat_template[0].encode()).hexdigest()}
        for role, engine in ((USER, user), (RECOMMENDER, recommender))
    }
