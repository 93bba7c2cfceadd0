"""How fast dialogues are made here: the engine against a plain loop, and against what llama.cpp can do at all.

All figures of one call come from one machine, one set of people and one quarter of an hour: only their ratios mean
something elsewhere. Knows nothing of what is said.
"""

import multiprocessing
import os
import resource
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Any

import polars as pl

from crslib import datasets, profiles
from crslib.catalog import Catalog
from crslib.chat import RECOMMENDER
from crslib.config import ProfileParameters, SimulationParameters, resolve
from crslib.engines import llama
from crslib.engines.base import Engine, Sampling
from crslib.engines.scripted import ScriptedEngine
from crslib.opinions import Opinions
from crslib.simulate import open_engines, open_grounding, simulate
from crslib.store import Run


def measure(parameters: SimulationParameters, n: int, n_plain: int) -> dict[str, Any]:
    """One call's figures: `n` people's dialogues by the engine and the first `n_plain` of them by a plain loop.

    The plain loop is two high-level `Llama` objects with their adapters, dialogue after dialogue, in a process of its
    own: half before the engine runs and half after, so that a machine that slows down does so for both. The ceiling is
    `LlamaEngine.rehearse`: the same prefills, and the drawn tokens in steps with every row busy, without drawing.
    `python_share` is all the time that is neither inside `llama_decode` nor copying KV cells.
    """
    people = _People(n)
    spawn = multiprocessing.get_context("spawn")
    half = (n_plain + 1) // 2
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        plain_seconds = pool.submit(_plain, parameters, n, 0, half).result()
        with open_engines(parameters) as engines:
            _talk(people, 0, 1, engines, parameters)  # what is made once: the catalogue's index, a first decode
            for engine in engines:
                engine.work = llama.Work()
            seconds = _talk(people, 0, n, engines, parameters)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            works = [engine.work for engine in engines]
            ceiling = [_ceiling(engine) for engine in engines]
        if n_plain > half:
            plain_seconds += pool.submit(_plain, parameters, n, half, n_plain).result()
    fed, drawn = sum(t for work in works for _, t in work.fed), sum(work.drawn for work in works)
    decoded = sum(work.drawn - len(work.fed) for work in works)
    phases = {name: sum(getattr(work, name) for work in works) for name in ("prefill", "decode", "sampling", "parking")}
    inside = phases["prefill"] + phases["decode"] + phases["parking"]
    plain, ours = 60 * n_plain / plain_seconds, 60 * n / seconds
    most = (fed + drawn) / sum(a + b for a, b in ceiling)
    return {
        "naive_dialogues_per_min": plain,
        "engine_dialogues_per_min": ours,
        "speedup": ours / plain,
        "engine_tokens_per_s": (fed + drawn) / seconds,
        "ceiling_tokens_per_s": most,
        "ceiling_share": (fed + drawn) / seconds / most,
        "python_share": 1 - inside / seconds,
        "peak_rss_mb": peak,
        "dialogues": n,
        "seconds": seconds,
        "tokens_fed": fed,
        "tokens_drawn": drawn,
        "row_fill": decoded / sum(work.steps for work in works) / parameters.width,
        **{f"{name}_s": value for name, value in phases.items()},
        "ceiling_prefill_s": sum(a for a, _ in ceiling),
        "ceiling_decode_s": sum(b for _, b in ceiling),
        "weights": engines[0].identity["weights"],
    }


def scaling(parameters: SimulationParameters, counts: Sequence[int]) -> pl.DataFrame:
    """Cost of everything but the models: `dialogues`, `seconds`, `ms_per_dialogue`, `peak_rss_mb`, a row per count.

    Scripted parties talk at human length, so journal, views, links, opinions and tables are real and the models free.
    """
    people, rows = _People(64), []
    for count in counts:
        copies = parameters.model_copy(update={"dialogues_per_profile": -(-count // 64), "grounding": "off"})
        parties = ScriptedEngine(_small_talk, 16), ScriptedEngine(_small_talk, 16)
        seconds = _talk(people, 0, 64, parties, copies)
        made = 64 * copies.dialogues_per_profile
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append((made, seconds, 1000 * seconds / made, peak))
    return pl.DataFrame(rows, schema=["dialogues", "seconds", "ms_per_dialogue", "peak_rss_mb"], orient="row")


def lines(found: dict[str, Any]) -> list[str]:
    """`measure`'s figures as lines to read."""
    seconds, ours = found["seconds"], found["engine_dialogues_per_min"]
    shares = [f"{name} {found[name + '_s'] / seconds:.0%}" for name in ("prefill", "decode", "sampling", "parking")]
    most, share = found["ceiling_tokens_per_s"], found["ceiling_share"]
    return [
        f"plain loop   {found['naive_dialogues_per_min']:6.1f} dialogues/min",
        f"this engine  {ours:6.1f} dialogues/min: {found['speedup']:.2f} times the plain loop",
        f"             {found['engine_tokens_per_s']:6.0f} tokens/s fed and drawn; weights {found['weights']}",
        f"ceiling      {most:6.0f} tokens/s by llama.cpp alone: {share:.0%} reached",
        f"time         {', '.join(shares)}; rows busy {found['row_fill']:.0%}",
        f"Python       {found['python_share']:6.1%} of the time",
        f"memory       {found['peak_rss_mb']:6.0f} MB at most",
    ]


class _People:
    """Profiles of the built-in data and what a simulation of them needs."""

    def __init__(self, n: int) -> None:
        built = profiles.build(*datasets.load(resolve("data")), ProfileParameters(n_profiles=n))
        self.profiles, self.training = built.profiles.sort("profile_id"), built.training
        self.items = built.items
        self.opinions = Opinions(built.profiles, built.training, built.items)
        self.catalog = Catalog(built.items)


def _talk(people: _People, begin: int, end: int, engines: Sequence[Engine], parameters: SimulationParameters) -> float:
    chosen = people.profiles[begin:end]
    grounding = open_grounding(people.items, people.training, engines[1], parameters)
    with tempfile.TemporaryDirectory() as folder, Run(Path(folder)).journal() as journal:
        begun = perf_counter()
        simulate(chosen, people.opinions, people.catalog, *engines, parameters, "bench", journal, grounding)
        return perf_counter() - begun


def _plain(parameters: SimulationParameters, n: int, begin: int, end: int) -> float:
    """Seconds that the plain loop takes for some people, one after the other; the first words are not counted."""
    people = _People(n)
    threads = parameters.threads or os.cpu_count() or 1
    sampling = Sampling(parameters.temperature, parameters.top_p, parameters.min_p, parameters.max_tokens)
    free = parameters.model_copy(update={"grounding": "off"})
    with closing(llama.Model(llama.model_path(parameters.user_model))) as model:
        engines = [
            llama.PlainEngine(model, llama.adapter_path(name), sampling, n_ctx=parameters.n_ctx, threads=threads)
            for name in (parameters.user_adapter, parameters.recommender_adapter)
        ]
        _talk(people, begin, begin + 1, engines, free.model_copy(update={"max_turns": 2}))
        seconds = sum(_talk(people, person, person + 1, engines, free) for person in range(begin, end))
        for engine in engines:
            engine.close()
    return seconds


def _ceiling(engine: llama.LlamaEngine) -> tuple[float, float]:
    work = engine.work
    context = sum(before + n for before, n in work.fed) // max(len(work.fed), 1)
    return engine.rehearse(work.fed, context, round((work.drawn - len(work.fed)) / engine.width))


def _small_talk(prompt: str, seed: int) -> str:
    turn = prompt.count("assistant")
    if turn > 6:
        return ""
    name = f"[[Film {seed % 50} ({1950 + seed % 70})]]"
    return (
        f"I would say {name} is worth a try, number {seed % 1000}." if RECOMMENDER in prompt else "Not for me, sorry."
    )
