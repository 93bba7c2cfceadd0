"""The speed of simulation on this machine: the engine against a plain loop, and against llama.cpp alone.

All figures of one call are of the same machine, profiles and quarter of an hour; only their ratios say something about
other machines. Knows nothing of the dialogues' content.
"""

import multiprocessing
import resource
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

import polars as pl

from crslib.config import ProfileParameters, SimulationParameters, n_threads
from crslib.dialogue.utterances import RECOMMENDER
from crslib.engines import llama
from crslib.engines.base import Engine
from crslib.engines.loading import open_engines, sampling
from crslib.engines.scripted import ScriptedEngine
from crslib.errors import CrsError
from crslib.files import Progress, no_progress
from crslib.simulation.loop import simulate
from crslib.simulation.opening import ROLES, local_agent
from crslib.simulation.population import Population
from crslib.store import Run
from crslib.users import profiles

_STOPS = 16  # how often the engine pauses for the other two
_PHASES = ("prefill", "decode", "sampling", "parking", "waiting")


def measure(
    parameters: SimulationParameters,
    n: int,
    n_plain: int,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Simulates the dialogues of `n` profiles with the engine, and the first `n_plain` of them with a plain loop.

    The plain loop is two high-level `Llama` objects with their adapters, one dialogue after the other. The ceiling is
    `MeasuredEngine.measure_ceiling`: the same prefills, and the drawn tokens in steps with every row busy, without
    drawing. Each has a process of its own. The engine pauses now and then while the plain loop makes its next dialogues
    and the ceiling is measured for the engine's last work, so that a machine that slows down does so for all three.

    Returns figures by name. `python_share` is the share of time in which the loop's thread is not inside
    `llama_decode`, not copying KV cells and not waiting for the feeder. Seconds of phases (`*_s`) are the sum over both
    threads; `feeder_s` is the feeder's part. Raises `CrsError` when a file is unfit or a process ends early.
    """
    population = population_of(n)
    with (
        _process(_plain_loop, parameters, n) as plain_loop,
        _process(_ceiling, parameters) as ceiling,
        open_engines(parameters, engine_type=llama.MeasuredEngine) as engines,
    ):
        _talk(population, 0, 1, engines, parameters)  # not measured: the catalogue's index, a first decode
        for engine in engines:
            engine.reset_work()
        others = _Others(plain_loop, ceiling, engines)

        def pause(done: int, total: int) -> None:
            progress(done, total)
            if done == total or (done and done % max(n // _STOPS, 1) == 0):
                with ExitStack() as paused:
                    for engine in engines:
                        paused.enter_context(engine.paused())
                    others.catch_up(n_plain * done // total)

        seconds = _talk(population, 0, n, engines, parameters, pause) - others.seconds
        peak = _peak_rss_mb()
        works = [engine.work for engine in engines]
    parts = [part for work in works for part in work]
    fed, drawn = sum(n for part in parts for _, n in part.fed), sum(part.drawn for part in parts)
    decoded = drawn - sum(len(part.fed) for part in parts)
    phases = {name: sum(getattr(part, name) for part in parts) for name in _PHASES}
    busy = sum(getattr(work[0], name) for work in works for name in ("prefill", "decode", "parking", "waiting"))
    plain_per_min, engine_per_min = 60 * n_plain / others.plain, 60 * n / seconds
    tokens_per_s, ceiling_per_s = (fed + drawn) / seconds, (fed + drawn) / others.ceiling
    return {
        "naive_dialogues_per_min": plain_per_min,
        "engine_dialogues_per_min": engine_per_min,
        "speedup": engine_per_min / plain_per_min,
        "engine_tokens_per_s": tokens_per_s,
        "ceiling_tokens_per_s": ceiling_per_s,
        "ceiling_share": tokens_per_s / ceiling_per_s,
        "python_share": 1 - busy / seconds,
        "peak_rss_mb": peak,
        "dialogues": n,
        "seconds": seconds,
        "tokens_fed": fed,
        "tokens_drawn": drawn,
        "row_fill": decoded / sum(part.rows for part in parts),
        **{f"{name}_s": value for name, value in phases.items()},
        "feeder_s": sum(part.prefill + part.parking for work in works for part in work[1:]),
        "ceiling_s": others.ceiling,
        "ceiling_prefill_s": others.prefill,
        "ceiling_decode_s": others.decode,
        "weights": engines[0].identity["weights"],
        "grounding": parameters.grounding,
    }


def scaling(
    parameters: SimulationParameters,
    counts: Sequence[int],
    models: bool = False,
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """Cost per dialogue, a row per count: `dialogues`, `seconds`, `ms_per_dialogue`, `peak_rss_mb`.

    Counts are rounded up to multiples of 64. With `models` as in a simulation with `parameters`. Without, scripted
    engines write utterances of human length: journal, views, links, opinions and tables cost what they do in a
    simulation, and the models nothing.
    """
    population, rows = population_of(64), []
    with ExitStack() as stack:
        engines: Sequence[Engine] = stack.enter_context(open_engines(parameters)) if models else ()
        for count in counts:
            copies = parameters.model_copy(update={"dialogues_per_profile": -(-count // 64)})
            if not models:
                engines = ScriptedEngine(_small_talk, 16), ScriptedEngine(_small_talk, 16)
                copies = copies.model_copy(update={"grounding": "off"})
            seconds = _talk(population, 0, 64, engines, copies, progress)
            n = 64 * copies.dialogues_per_profile
            rows.append((n, seconds, 1000 * seconds / n, _peak_rss_mb()))
    return pl.DataFrame(rows, schema=["dialogues", "seconds", "ms_per_dialogue", "peak_rss_mb"], orient="row")


def lines(figures: dict[str, Any]) -> list[str]:
    """The figures of `measure` as lines of text."""
    seconds, speedup = figures["seconds"], figures["speedup"]
    shares = [f"{name} {figures[name + '_s'] / seconds:.0%}" for name in _PHASES]
    return [
        f"plain loop   {figures['naive_dialogues_per_min']:6.1f} dialogues/min",
        f"this engine  {figures['engine_dialogues_per_min']:6.1f} dialogues/min: {speedup:.2f} times the plain loop",
        f"             {figures['engine_tokens_per_s']:6.0f} tokens/s fed and drawn",
        f"             weights {figures['weights']}; grounding {figures['grounding']}",
        f"ceiling      {figures['ceiling_tokens_per_s']:6.0f} tokens/s by llama.cpp alone: "
        f"{figures['ceiling_share']:.0%} reached",
        f"time         {', '.join(shares)} (the feeder's thread: {figures['feeder_s'] / seconds:.0%})",
        f"rows busy    {figures['row_fill']:6.0%}",
        f"Python       {figures['python_share']:6.1%} of the time",
        f"memory       {figures['peak_rss_mb']:6.0f} MiB at most",
    ]


def _peak_rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def population_of(n: int) -> Population:
    """`n` profiles of the built-in data; what a simulation of them needs is computed once, before any timing."""
    population = Population(**profiles.of_data(ProfileParameters(n_profiles=n)).visible)
    population.prepare(SimulationParameters())
    return population


def _talk(
    population: Population,
    begin: int,
    end: int,
    engines: Sequence[Engine],
    parameters: SimulationParameters,
    progress: Progress = no_progress,
) -> float:
    """Seconds that the dialogues of the profiles from `begin` to before `end` take."""
    chosen = population.with_profiles(population.profiles[begin:end])
    with tempfile.TemporaryDirectory() as folder, Run(Path(folder)).journal() as journal:
        started = perf_counter()
        titles = chosen.catalog_titles(engines[-1], parameters)
        user, recommender = (
            local_agent(engine, role, chosen, parameters, titles) for role, engine in zip(ROLES, engines, strict=True)
        )
        simulate(chosen, user, recommender, parameters, journal, progress)
        return perf_counter() - started


class _Others:
    """The seconds of the plain loop and of llama.cpp alone, which are asked for while two engines pause."""

    def __init__(self, plain_loop: Connection, ceiling: Connection, engines: Sequence[llama.MeasuredEngine]) -> None:
        self.plain, self.prefill, self.decode, self.ceiling = 0.0, 0.0, 0.0, 0.0
        self.seconds = 0.0  # that the engines have paused
        self._ask_plain, self._ask_ceiling, self._engines = plain_loop, ceiling, engines
        self._n_plain = 0  # dialogues of the plain loop so far
        self._measured = [((0,) * len(engine.work), 0) for engine in engines]  # prefills by thread, tokens drawn

    def catch_up(self, n_plain: int) -> None:
        """Has the plain loop continue up to `n_plain` dialogues, and llama.cpp do what the engines did since last."""
        begun, new, measured = perf_counter(), [], []
        for engine, (n_fed, n_drawn) in zip(self._engines, self._measured, strict=True):
            fed = [piece for part, start in zip(engine.work, n_fed, strict=True) for piece in part.fed[start:]]
            drawn = sum(part.drawn for part in engine.work)
            context = sum(before + n for before, n in fed) // max(len(fed), 1)
            new.append((fed, context, max(round((drawn - n_drawn - len(fed)) / engine.width), 0)))
            measured.append((tuple(len(part.fed) for part in engine.work), drawn))
        self._measured = measured
        self._ask_ceiling.send(new)
        for prefill, decode, together in self._ask_ceiling.recv():
            self.prefill += prefill
            self.decode += decode
            self.ceiling += together
        self._ask_plain.send((self._n_plain, n_plain))
        self.plain += self._ask_plain.recv()
        self._n_plain = n_plain
        self.seconds += perf_counter() - begun


@contextmanager
def _process(work: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """Another process that answers what is sent to it: yields the pipe when it is ready, and ends it at the end."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=work, args=(*arguments, there), daemon=True)
    process.start()
    there.close()
    try:
        here.recv()
        yield here
    except (EOFError, BrokenPipeError):
        raise CrsError("a process of the benchmark ended early; free some memory or choose a smaller width") from None
    finally:
        here.close()
        process.join()


def _ceiling(parameters: SimulationParameters, pipe: Connection) -> None:
    """Receives the work of every engine, answers with the seconds that llama.cpp alone needs for it."""
    with open_engines(parameters, engine_type=llama.MeasuredEngine) as engines, suppress(EOFError):
        for engine in engines:
            engine.measure_ceiling([(0, 1)], 1, 1)  # not measured: the cells of the filler, a first decode
        pipe.send("ready")
        while True:
            pipe.send([engine.measure_ceiling(*work) for engine, work in zip(engines, pipe.recv(), strict=True)])


def _plain_loop(parameters: SimulationParameters, n: int, pipe: Connection) -> None:
    """Receives a range of profiles, answers with the seconds that a plain loop takes for them, one after the other."""
    population = population_of(n)
    threads = n_threads(parameters.threads)
    free = parameters.model_copy(update={"grounding": "off"})
    with closing(llama.Model(llama.model_path(parameters.user_model))) as model, suppress(EOFError):
        engines = [
            llama.PlainEngine(
                model, llama.adapter_path(name), sampling(parameters), n_ctx=parameters.n_ctx, threads=threads
            )
            for name in map(parameters.adapter, ROLES)
        ]
        _talk(population, 0, 1, engines, free.model_copy(update={"max_turns": 2}))  # not measured
        pipe.send("ready")
        while True:
            begin, end = pipe.recv()
            pipe.send(sum(_talk(population, index, index + 1, engines, free) for index in range(begin, end)))


def _small_talk(prompt: str, seed: int) -> str:
    turn = prompt.count("assistant")
    if turn > 6:
        return ""
    name = f"[[Item {seed % 50} ({1950 + seed % 70})]]"
    return (
        f"I would say {name} is worth a try, number {seed % 1000}." if RECOMMENDER in prompt else "Not for me, sorry."
    )
