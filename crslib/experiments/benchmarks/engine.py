"""How fast dialogues are made here: the engine against a plain loop, and against what llama.cpp can do at all.

All figures of one call come from one machine, one set of people and one quarter of an hour: only their ratios mean
something elsewhere. Knows nothing of what is said.
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

from crslib.config import ProfileParameters, SimulationParameters, n_threads, resolve
from crslib.data import tables
from crslib.dialogue.utterances import RECOMMENDER
from crslib.engines import llama
from crslib.engines.base import Engine, Sampling
from crslib.engines.loading import open_engines
from crslib.engines.scripted import ScriptedEngine
from crslib.errors import CrsError
from crslib.simulation.loop import simulate
from crslib.simulation.population import Population
from crslib.store import Progress, Run, no_progress
from crslib.users import profiles

_STOPS = 16  # how often the engine stops for the other two
_PHASES = ("prefill", "decode", "sampling", "parking", "waiting")


def measure(
    parameters: SimulationParameters,
    n: int,
    n_plain: int,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """One call's figures: `n` people's dialogues by the engine and the first `n_plain` of them by a plain loop.

    The plain loop is two high-level `Llama` objects with their adapters, dialogue after dialogue. The ceiling is
    `LlamaEngine.rehearse`: the same prefills, and the drawn tokens in steps with every row busy, without drawing. Each
    has a process of its own; the engine stops now and then and waits while the plain loop makes its next dialogues and
    the ceiling catches up, so that a machine that slows down does so for all three.
    `python_share` is all the time that the loop's thread is neither inside `llama_decode` nor copying KV cells nor
    waiting for the feeder. Seconds of phases are those of both threads; `feeder_s` of them are the feeder's.
    """
    people = _population(n)
    with (
        _process(_plain, parameters, n) as plain,
        _process(_rehearse, parameters) as llama_alone,
        open_engines(parameters) as engines,
    ):
        _talk(people, 0, 1, engines, parameters)  # what is made once: the catalogue's index, a first decode
        for engine in engines:
            engine.begin_work()
        beside = _Beside(plain, llama_alone, engines)

        def stop(done: int, total: int) -> None:
            progress(done, total)
            if done == total or (done and done % max(n // _STOPS, 1) == 0):
                with ExitStack() as rest:
                    for engine in engines:
                        rest.enter_context(engine.resting())
                    beside.catch_up(n_plain * done // total)

        seconds = _talk(people, 0, n, engines, parameters, stop) - beside.waited
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        works = [engine.work for engine in engines]
    parts = [part for work in works for part in work]
    fed, drawn = sum(n for part in parts for _, n in part.fed), sum(part.drawn for part in parts)
    decoded = drawn - sum(len(part.fed) for part in parts)
    phases = {name: sum(getattr(part, name) for part in parts) for name in _PHASES}
    busy = sum(getattr(work[0], name) for work in works for name in ("prefill", "decode", "parking", "waiting"))
    plain, ours = 60 * n_plain / beside.plain, 60 * n / seconds
    most = (fed + drawn) / beside.alone
    return {
        "naive_dialogues_per_min": plain,
        "engine_dialogues_per_min": ours,
        "speedup": ours / plain,
        "engine_tokens_per_s": (fed + drawn) / seconds,
        "ceiling_tokens_per_s": most,
        "ceiling_share": (fed + drawn) / seconds / most,
        "python_share": 1 - busy / seconds,
        "peak_rss_mb": peak,
        "dialogues": n,
        "seconds": seconds,
        "tokens_fed": fed,
        "tokens_drawn": drawn,
        "row_fill": decoded / sum(part.steps for part in parts) / parameters.width,
        **{f"{name}_s": value for name, value in phases.items()},
        "feeder_s": sum(part.prefill + part.parking for work in works for part in work[1:]),
        "ceiling_s": beside.alone,
        "ceiling_prefill_s": beside.prefill,
        "ceiling_decode_s": beside.decode,
        "weights": engines[0].identity["weights"],
        "grounding": parameters.grounding,
    }


def scaling(
    parameters: SimulationParameters,
    counts: Sequence[int],
    models: bool = False,
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """Cost per dialogue: `dialogues`, `seconds`, `ms_per_dialogue`, `peak_rss_mb`, a row per count, rounded up to 64s.

    With `models` as in a simulation with `parameters`. Without them scripted parties talk at human length, so journal,
    views, links, opinions and tables are real and the models free.
    """
    people, rows = _population(64), []
    with ExitStack() as stack:
        engines: Sequence[Engine] = stack.enter_context(open_engines(parameters)) if models else ()
        for count in counts:
            copies = parameters.model_copy(update={"dialogues_per_profile": -(-count // 64)})
            if not models:
                engines = ScriptedEngine(_small_talk, 16), ScriptedEngine(_small_talk, 16)
                copies = copies.model_copy(update={"grounding": "off"})
            seconds = _talk(people, 0, 64, engines, copies, progress)
            made = 64 * copies.dialogues_per_profile
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            rows.append((made, seconds, 1000 * seconds / made, peak))
    return pl.DataFrame(rows, schema=["dialogues", "seconds", "ms_per_dialogue", "peak_rss_mb"], orient="row")


def lines(found: dict[str, Any]) -> list[str]:
    """`measure`'s figures as lines to read."""
    seconds, ours = found["seconds"], found["engine_dialogues_per_min"]
    shares = [f"{name} {found[name + '_s'] / seconds:.0%}" for name in _PHASES]
    most, share = found["ceiling_tokens_per_s"], found["ceiling_share"]
    return [
        f"plain loop   {found['naive_dialogues_per_min']:6.1f} dialogues/min",
        f"this engine  {ours:6.1f} dialogues/min: {found['speedup']:.2f} times the plain loop",
        f"             {found['engine_tokens_per_s']:6.0f} tokens/s fed and drawn",
        f"             weights {found['weights']}; grounding {found['grounding']}",
        f"ceiling      {most:6.0f} tokens/s by llama.cpp alone: {share:.0%} reached",
        f"time         {', '.join(shares)} (the feeder's thread: {found['feeder_s'] / seconds:.0%})",
        f"rows busy    {found['row_fill']:6.0%}",
        f"Python       {found['python_share']:6.1%} of the time",
        f"memory       {found['peak_rss_mb']:6.0f} MiB at most",
    ]


def _population(n: int) -> Population:
    """`n` profiles of the built-in data; what a simulation of them needs is computed once, before any timing."""
    built = profiles.build(*tables.load(resolve("data")), ProfileParameters(n_profiles=n))
    population = Population(built.profiles, built.items, built.training)
    _ = population.catalog, population.opinions, population.prior, population.sha256
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
    _ = chosen.sha256
    with tempfile.TemporaryDirectory() as folder, Run(Path(folder)).journal() as journal:
        started = perf_counter()
        simulate(chosen, *engines, parameters, journal, progress)
        return perf_counter() - started


class _Beside:
    """What the plain loop and llama.cpp alone need, in seconds, asked for while two engines work."""

    def __init__(self, plain: Connection, llama_alone: Connection, engines: Sequence[llama.LlamaEngine]) -> None:
        self.plain, self.prefill, self.decode, self.alone = 0.0, 0.0, 0.0, 0.0
        self.waited = 0.0
        self._ask_plain, self._ask_llama, self._engines = plain, llama_alone, engines
        self._made = 0  # plain dialogues
        self._known = [((0,) * len(engine.work), 0) for engine in engines]  # prefills and tokens rehearsed

    def catch_up(self, n_plain: int) -> None:
        """Has the plain loop make its dialogues up to the `n_plain`-th, and rehearses what the engines did lately."""
        begun, new, now = perf_counter(), [], []
        for engine, (known, n_drawn) in zip(self._engines, self._known, strict=True):
            fed = [piece for part, start in zip(engine.work, known, strict=True) for piece in part.fed[start:]]
            total = sum(part.drawn for part in engine.work)
            context = sum(before + n for before, n in fed) // max(len(fed), 1)
            new.append((fed, context, max(round((total - n_drawn - len(fed)) / engine.width), 0)))
            now.append((tuple(len(part.fed) for part in engine.work), total))
        self._known = now
        self._ask_llama.send(new)
        for prefill, decode, together in self._ask_llama.recv():
            self.prefill += prefill
            self.decode += decode
            self.alone += together
        self._ask_plain.send((self._made, n_plain))
        self.plain += self._ask_plain.recv()
        self._made = n_plain
        self.waited += perf_counter() - begun


@contextmanager
def _process(work: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """Another process that answers what it is sent; yields when it is ready, and ends it."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=work, args=(*arguments, there), daemon=True)
    process.start()
    there.close()
    try:
        here.recv()
        yield here
    except (EOFError, BrokenPipeError):
        raise CrsError("a process of the benchmark died; free some memory or choose a smaller width") from None
    finally:
        here.close()
        process.join()


def _rehearse(parameters: SimulationParameters, pipe: Connection) -> None:
    """Gets the work of every engine, answers with the seconds that llama.cpp alone needs for it."""
    with open_engines(parameters) as engines, suppress(EOFError):
        for engine in engines:
            engine.rehearse([(0, 1)], 1, 1)  # what is made once
        pipe.send("ready")
        while True:
            pipe.send([engine.rehearse(*work) for engine, work in zip(engines, pipe.recv(), strict=True)])


def _plain(parameters: SimulationParameters, n: int, pipe: Connection) -> None:
    """Gets a range of people, answers with the seconds that a plain loop takes for them, one after the other."""
    people = _population(n)
    threads = n_threads(parameters.threads)
    sampling = Sampling(parameters.temperature, parameters.top_p, parameters.min_p, parameters.max_tokens)
    free = parameters.model_copy(update={"grounding": "off"})
    with closing(llama.Model(llama.model_path(parameters.user_model))) as model, suppress(EOFError):
        engines = [
            llama.PlainEngine(model, llama.adapter_path(name), sampling, n_ctx=parameters.n_ctx, threads=threads)
            for name in (parameters.user_adapter, parameters.recommender_adapter)
        ]
        _talk(people, 0, 1, engines, free.model_copy(update={"max_turns": 2}))  # the first words are not counted
        pipe.send("ready")
        while True:
            begin, end = pipe.recv()
            pipe.send(sum(_talk(people, person, person + 1, engines, free) for person in range(begin, end)))


def _small_talk(prompt: str, seed: int) -> str:
    turn = prompt.count("assistant")
    if turn > 6:
        return ""
    name = f"[[Film {seed % 50} ({1950 + seed % 70})]]"
    return (
        f"I would say {name} is worth a try, number {seed % 1000}." if RECOMMENDER in prompt else "Not for me, sorry."
    )
