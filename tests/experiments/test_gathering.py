"""Runs and sweeps on a cluster that loses workers, without one: Ray's answers are scripted."""

import contextlib
import weakref
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from crslib.cli.main import main
from crslib.config import SimulationParameters
from crslib.errors import CrsError
from crslib.experiments import cluster, pipeline, sweep
from crslib.experiments.cluster import Taken, Worker
from crslib.files import no_progress
from crslib.simulation import opening
from crslib.store import Run

LIGHT = {"n_profiles": 6, "max_turns": 6, "resample": 1, "user_model": "agenda"}
NEWEST = "python:data/protocol/newest.py:reply"
SIMULATION = SimulationParameters(user_model="agenda", recommender_model=NEWEST, threads=1)
TABLES = SimpleNamespace(profiles=0, items=0, training=0, domain=0, source=0)


LARGE = ({"CPU": 64.0},)


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class Failing(int):
    """So many dialogues that fail."""


class ScriptedRay:
    """Ray whose workers do what `script` says, by their place (0, 1 …): an error, which loses the worker, or how many
    of the dialogues in its hand end (`Failing`: fail); after it they make all. Before any dialogue a worker says that
    its agents are open, and that it can have `most` in hand. Places in `never` get no worker once they have lost one.
    `dealt`: what each place was dealt."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(
        self,
        script: dict[int, list[int | Exception]],
        *nodes: dict[str, float],
        most: int = 4,
        key: str = "k",
        never: tuple[int, ...] = (),
    ) -> None:
        self.script, self._nodes, self.most, self.key, self._never = script, nodes or LARGE, most, key, never
        self._places = iter(range(99))
        self._lost: list[int] = []
        self.dealt: dict[int, list[str]] = defaultdict(list)
        self.killed = 0
        self.alive = weakref.WeakSet[_Actor]()

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": node} for node in self._nodes] + [
            {"Alive": False, "Resources": {"CPU": 99}}
        ]

    def put(self, value: Any) -> Any:
        return value

    def remote(self, **options: Any) -> Any:
        def started(parameters: Any, tables: Any, expected: Any) -> Any:
            place = self._lost.pop() if self._lost else next(self._places)
            worker = _Actor(self, place)
            self.alive.add(worker)
            return worker

        return lambda worker: SimpleNamespace(remote=started)

    def wait(self, futures: list[Any]) -> tuple[list[Any], list[Any]]:
        assert len(self.alive) == len(futures)  # who is done has given its place to those that wait for one
        ready = next(one for one in futures if not one.waits_for_ever)
        return [ready], [one for one in futures if one is not ready]

    def get(self, future: Any) -> Taken:
        return future.get()

    def kill(self, worker: Any) -> None:
        self.killed += 1
        self.alive.discard(worker)

    def lose(self, place: int) -> None:
        self._lost.append(place)

    def waits_for_ever(self, place: int) -> bool:
        return place in self._never and not self.script[place]


class _Actor:
    def __init__(self, ray: ScriptedRay, place: int) -> None:
        self._ray, self._place = ray, place
        self._hand: list[str] = []
        self._is_open = self._is_last = False

    @property
    def take(self) -> Any:
        return SimpleNamespace(remote=self._take)

    def _take(self, dealt: list[str], is_last: bool) -> Any:
        assert not (self._is_last and dealt)  # it has been told that no more will come
        self._hand += dealt
        self._is_last |= is_last
        self._ray.dealt[self._place] += dealt
        assert len(self._hand) <= self._ray.most
        do = weakref.WeakMethod(self._do)  # who waits for an answer does not keep the worker
        return _Future(lambda: do()(), self._ray.waits_for_ever(self._place))  # type: ignore[misc]

    def _do(self) -> Taken:
        script = self._ray.script.get(self._place, [])
        if script and isinstance(script[0], Exception):
            error = script.pop(0)
            if not isinstance(error, RayTaskError):
                self._ray.lose(self._place)
            raise error  # type: ignore[misc]
        if not self._is_open:
            self._is_open = True
            return Taken([], [], False, self._ray.most)
        n = script.pop(0) if script else len(self._hand)
        assert isinstance(n, int)
        now, self._hand = self._hand[:n], self._hand[n:]
        done = self._is_last and not self._hand
        if isinstance(n, Failing):
            return Taken([], [{"dialogue_id": one, "error": f"no {one}"} for one in now], done, self._ray.most)
        return Taken([record(one, self._ray.key) for one in now], [], done, self._ray.most)


class _Future:
    def __init__(self, get: Callable[[], Taken], waits_for_ever: bool = False) -> None:
        self.get, self.waits_for_ever = get, waits_for_ever


def record(dialogue_id: str, key: str = "k") -> dict[str, Any]:
    return {"key": key, "dialogue": {"dialogue_id": dialogue_id}}


def ids(n: int) -> set[str]:
    return {f"u{number:02}" for number in range(n)}


def gathered(
    folder: Path, ray: ScriptedRay, n: int, n_workers: int, before: tuple[str, ...] = (), told: list[int] | None = None
) -> set[str]:
    """The ids in the journal after dialogues u00, u01 … were gathered."""
    progress = no_progress if told is None else lambda done, total: told.append(done)
    with Run(folder).journal() as journal:
        for one in before:
            journal.append(record(one))
        cluster.gather(ray, TABLES, SIMULATION, ids(n), n_workers, journal, progress, n)  # type: ignore[arg-type]
        return set(journal.dialogue_ids)


def test_dialogues_are_dealt_as_they_are_made(tmp_path: Path) -> None:
    """A worker with a slower machine makes fewer, and one that opens first does not get all."""
    ray, told = ScriptedRay({0: [1] * 40, 1: [0] * 40}), list[int]()
    assert gathered(tmp_path, ray, 20, 2, told=told) == ids(20)
    assert len(ray.dealt[0]) == 16 and len(ray.dealt[1]) == 4
    assert (told[0], told[1], told[-1]) == (0, 0, 20)  # before all, and when the first agents are open
    few = ScriptedRay({})
    assert gathered(tmp_path / "few", few, 6, 2) == ids(6)
    assert few.dealt[0][:3] == ["u00", "u01", "u02"] and len(few.dealt[1]) >= 2


def test_what_comes_back_from_a_lost_worker_is_not_dealt_to_one_that_was_told_to_end(tmp_path: Path) -> None:
    ray = ScriptedRay({0: [1] * 9, 1: [0, RayError("gone")]})
    assert gathered(tmp_path, ray, 6, 2) == ids(6)
    assert len(ray.dealt[0]) == 4 and ray.dealt[1][:2] == ray.dealt[1][2:]


def test_what_is_there_is_not_dealt(tmp_path: Path) -> None:
    ray = ScriptedRay({})
    assert gathered(tmp_path, ray, 3, 1, before=("u01",)) == ids(3)
    assert ray.dealt[0] == ["u00", "u02"]


@given(
    st.lists(
        st.lists(st.sampled_from([0, 1, 2, 3, "lost", "fails"]), max_size=8),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 30),
    st.integers(1, 6),
)
def test_every_dialogue_is_made_once_or_fails_whoever_is_lost(
    tmp_path_factory: pytest.TempPathFactory, told: list[list[int | str]], n: int, most: int
) -> None:
    words: dict[Any, int | Exception] = {"lost": RayError("gone"), "fails": Failing(1)}
    script = {place: [words.get(one, one) for one in each] for place, each in enumerate(told)}
    ray = ScriptedRay(script, most=most)  # type: ignore[arg-type]
    folder = tmp_path_factory.mktemp("run")
    try:
        made = gathered(folder, ray, n, len(told))
    except CrsError as error:
        assert "lost in a row" in str(error) or "failed and none ended" in str(error)
        return
    with Run(folder).journal() as journal:
        assert len(journal.records) == len(made)
    dealt = [one for each in ray.dealt.values() for one in each]
    assert set(dealt) == ids(n)
    assert len(ids(n) - made) <= sum(each.count("fails") for each in told)
    if not ray.killed:
        assert len(dealt) == n


def test_each_worker_may_be_lost_and_a_record_forgives_its_losses(tmp_path: Path) -> None:
    """A lost node with three workers is three losses at once; a place that goes on may lose another two."""
    lost = RayError("gone")
    ray = ScriptedRay({0: [lost, lost, 1, lost, lost, 1], 1: [lost, 1], 2: [lost, lost, 1]}, most=1)
    assert gathered(tmp_path, ray, 9, 3) == ids(9)
    assert ray.killed == 7
    dealt = [one for each in ray.dealt.values() for one in each]
    assert set(dealt) == ids(9) and len(dealt) <= 9 + 7


def test_what_was_handed_over_by_a_lost_worker_is_not_made_again(tmp_path: Path) -> None:
    ray = ScriptedRay({0: [2, RayError("gone")]})
    assert gathered(tmp_path, ray, 4, 1) == ids(4)
    assert ray.dealt[0] == ["u00", "u01", "u02", "u03", "u02", "u03"]


def test_a_lost_node_without_which_there_is_no_room_is_said_and_waited_for(tmp_path: Path) -> None:
    ray = ScriptedRay({0: [RayError("gone"), 1]}, {"CPU": 0.0})
    with pytest.warns(UserWarning, match="a worker was lost, and no node .* --num-cpus; its dialogues wait for such"):
        assert gathered(tmp_path, ray, 1, 1) == ids(1)


def test_a_place_without_a_node_is_not_waited_for_when_others_make_its_dialogues(tmp_path: Path) -> None:
    ray = ScriptedRay({0: [1] * 9, 1: [1, RayError("gone")]}, never=(1,))
    assert gathered(tmp_path, ray, 12, 2) == ids(12)


def test_a_place_that_always_loses_its_worker_ends_the_run_with_the_cause(tmp_path: Path) -> None:
    printed = (
        "The actor died because of an error\n\x1b[36mray::Worker()\x1b[0m\nModuleNotFoundError: No module named 'x'"
    )
    ray = ScriptedRay({0: [1, *[RayError(printed)] * 3]})
    sentence = r"3 workers were lost in a row .* \(ModuleNotFoundError: No module named 'x'\); look at their memory"
    with pytest.raises(CrsError, match=sentence):
        gathered(tmp_path, ray, 2, 1)
    with Run(tmp_path).journal() as journal:
        assert journal.dialogue_ids == {"u00"}


def test_the_cause_of_a_loss_without_an_exception_is_its_first_line() -> None:
    assert cluster.reason(RayError("\nThe node ran low on memory.\nMore")) == "The node ran low on memory."
    assert cluster.reason(RayError()) == "RayError"


def test_a_worker_of_which_all_fail_ends_no_run(tmp_path: Path) -> None:
    """Not even when it is lost; what failed counts as done there, and is left to `02_simulate`."""
    ray = ScriptedRay({0: [1], 1: [Failing(9), RayError("gone"), Failing(9)]}, most=9)
    made = gathered(tmp_path, ray, 18, 2)
    assert made and made < ids(18)
    failed = set(ray.dealt[1][:8])  # at least
    assert not failed & set(ray.dealt[1][9:])
    again = ScriptedRay({0: [Failing(9), Failing(9)]}, most=9)
    assert gathered(tmp_path, again, 18, 1) == made  # a retry: the run has dialogues


def test_a_run_of_which_all_fail_is_given_up_after_a_few(tmp_path: Path) -> None:
    ray = ScriptedRay({0: [Failing(4)] * 2, 1: [Failing(4)] * 2})
    with pytest.raises(CrsError, match=r"^8 dialogues failed and none ended: no u0[0-9]$"):
        gathered(tmp_path, ray, 10, 2)


def test_workers_of_other_words_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match="two machines would say different words; give -p weights=Q8_0"):
        gathered(tmp_path, ScriptedRay({}, key="other"), 1, 1, before=("z",))


def test_a_worker_whose_machine_would_say_other_words_says_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "open_agents", lambda *given: pytest.fail("it simulates"))
    forms = {"weights": "merged in float64, Q8_0", "llama_cpp_python": "1"}
    monkeypatch.setattr(opening, "planned", lambda role, parameters: {**forms})
    expected = cluster.decided(SIMULATION)
    assert expected["weights of the user"] == "merged in float64, Q8_0"
    forms["weights"] = "merged in float64, BF16"
    people = pl.DataFrame({"profile_id": ["u"]})
    worker = Worker(SIMULATION, (people, people, people, None, None), {**expected, "sources": "0"})
    sentence = r"\(sources, weights of the recommender, weights of the user\); give -p weights=Q8_0 .* same packages"
    with pytest.raises(CrsError, match=sentence):
        worker.take([], False)


# ── room ──

NODES = {"CPU": 4.0}, {"CPU": 7.0, "GPU": 2.0}, {"memory": 1.0}


@pytest.mark.parametrize(("threads", "gpus", "n"), [(1, 0, 11), (2, 0, 5), (5, 0, 1), (1, 1, 2), (4, 1, 1)])
def test_room_is_what_each_live_node_holds(threads: int, gpus: int, n: int) -> None:
    assert cluster.room(ScriptedRay({}, *NODES), threads, gpus) == n


@pytest.mark.parametrize(
    ("nodes", "threads", "gpus", "sentence"),
    [
        (NODES, 8, 0, "threads = 8, and no node of the Ray cluster has more than 7 CPUs; give less"),
        (NODES[:1], 2, 1, "n_gpu_layers needs a GPU, and no node of the Ray cluster with 2 CPUs has one"),
        (NODES[2:], 1, 0, "no node of the Ray cluster gives a CPU"),
    ],
)
def test_what_no_node_has_room_for_is_refused(nodes: Any, threads: int, gpus: int, sentence: str) -> None:
    with pytest.raises(CrsError, match=sentence):
        cluster.room(ScriptedRay({}, *nodes), threads, gpus)


def test_there_are_no_more_workers_than_may_ask_a_server() -> None:
    local = SimulationParameters(max_concurrency=3, requests_per_minute=2)
    assert cluster.number_of_workers(local, 100, 8, 11) == 8
    assert cluster.number_of_workers(local, 5, 8, 11) == 5
    served = local.model_copy(update={"user_model": "openai:m@http://localhost:1/v1"})
    assert cluster.number_of_workers(served, 100, 8, 11) == 2


# ── a sweep ──


@pytest.fixture
def condition(tmp_path: Path) -> sweep.Condition:
    return sweep.Condition({}, pipeline.plan({**LIGHT, "recommender_model": NEWEST}, tmp_path))


def end(condition: sweep.Condition, failure: Exception) -> None:
    def fail() -> Taken:
        raise failure

    cluster._end(ScriptedRay({}), _Future(fail), condition)


def test_what_went_wrong_on_a_node_before_the_run_began_is_recorded(condition: sweep.Condition) -> None:
    condition.plan.run.update(status="success", stages={})
    end(condition, RayTaskError(CrsError("no file there")))
    assert (condition.state, condition.error) == ("error", "no file there")
    assert condition.plan.run.info["error"] == "no file there"
    end(condition, RayError("The node is gone.\nx"))
    assert condition.error == "the process of this condition was lost (The node is gone.); run the same again"


def test_a_run_that_another_process_has_keeps_its_record(condition: sweep.Condition) -> None:
    with condition.plan.run.lock():
        condition.plan.run.update(status="started", error=None)
        end(condition, RayTaskError(CrsError("in use")))
        assert condition.plan.run.info["status"] == "started"
    assert condition.error.startswith("in use by another process")


def test_a_condition_whose_folder_is_gone_says_so(condition: sweep.Condition) -> None:
    end(condition, RayTaskError(CrsError("x")))
    assert (condition.state, condition.gone) == ("error", True)
    assert condition.error.endswith("was renamed or removed; put it back and run the same again")


def test_a_sweep_without_anything_to_compute_starts_no_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "connected", lambda *given: pytest.fail("Ray is started"))
    cluster.compute_on_ray("", [], tmp_path, lambda: None)


class Tasks(ScriptedRay):
    """Ray whose tasks end one after the other. `at_once`: how many were under way at each wait."""

    def __init__(self) -> None:
        super().__init__({}, {"CPU": 8.0, "GPU": 1.0})
        self.at_once: list[int] = []
        self.needs: list[dict[str, int]] = []

    def remote(self, **options: Any) -> Any:
        def with_needs(**needs: int) -> Any:
            self.needs.append(needs)
            return SimpleNamespace(remote=lambda given, reports: _Future(lambda: Taken([], [], True, 1)))

        return lambda function: SimpleNamespace(options=with_needs)

    def wait(self, futures: list[Any], **given: Any) -> tuple[list[Any], list[Any]]:
        self.at_once.append(len(futures))
        return (futures[:1], futures[1:]) if len(self.at_once) % 2 == 0 else ([], futures)


@pytest.mark.parametrize(("workers", "at_once"), [(0, [3, 3, 2, 2, 1, 1]), (2, [2, 2, 2, 2, 1, 1])])
def test_a_sweep_computes_so_many_at_a_time_and_says_how_long_they_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, at_once: list[int]
) -> None:
    ray = Tasks()
    monkeypatch.setattr(cluster, "connected", lambda *given: contextlib.nullcontext(ray))
    light = {**LIGHT, "recommender_model": NEWEST, "threads": 2}
    points = [light, {**light, "seed": 1}, {**light, "seed": 2, "n_gpu_layers": 1}]
    conditions = sweep.conditions(points, tmp_path)
    for one in conditions:
        one.plan.run.update(status="started")
    cluster.compute_on_ray("", conditions, tmp_path, lambda: None, workers=workers)
    assert ray.at_once == at_once
    assert ray.needs == [{"num_cpus": 2, "num_gpus": gpus} for gpus in (0, 0, 1)]
    assert all(one.seconds > 0 for one in conditions[1:])
    assert [one.state for one in conditions] == ["error"] * 3  # they made nothing here
    assert "its node made another run" in conditions[0].error


@pytest.mark.parametrize(("words", "workers"), [((), 0), (("--workers", "3"), 3)])
def test_a_sweep_on_a_cluster_heeds_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], workers: int
) -> None:
    asked: list[tuple[str, int]] = []

    def compute(address: str, *given: Any, workers: int) -> None:
        asked.append((address, workers))
        raise CrsError("enough")

    monkeypatch.setattr(cluster, "compute_on_ray", compute)
    grid = tmp_path / "grid.yaml"
    grid.write_text(f"user_model: [agenda]\nrecommender_model: ['{NEWEST}']\nseed: [1, 2]\n")
    CliRunner().invoke(main, ["sweep", str(grid), "--on", "auto", *words, "--reports", str(tmp_path / "r")])
    assert asked == [("auto", workers)]
