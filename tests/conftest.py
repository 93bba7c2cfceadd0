"""Data of tests: a tiny catalogue, profiles, and the folder of larger data sets where there is one."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, settings

from crslib import schemas
from crslib.config import ROOT

# A slow machine is no failure. The suite tries the same inputs each time; `make fuzz` tries others, five times as many.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.register_profile("fuzz", deadline=None, max_examples=500, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("CRS_HYPOTHESIS", "tests"))


def pytest_configure(config: pytest.Config) -> None:
    """Gives each of pytest-xdist's workers cores of its own: models whose threads wait for a core of another worker are
    several times as slow."""
    worker = getattr(config, "workerinput", None)
    if worker and hasattr(os, "sched_setaffinity"):
        cores, n_workers = sorted(os.sched_getaffinity(0)), worker["workercount"]
        own = cores[int(worker["workerid"].removeprefix("gw")) :: n_workers]
        os.sched_setaffinity(0, own or cores)


@pytest.fixture
def expect() -> Any:
    """What a page shows in the end (Playwright's `expect`): keys and clicks may begin what ends after them."""
    return pytest.importorskip("playwright.sync_api").expect


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the ReDial and MovieLens files; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("CRS_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set CRS_DATA to the folder that holds redial/ and ml-latest-small/")
    return folder


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """SIGHUP, SIGTERM and SIGINT end the process, also where the tests run behind `nohup` or in the background."""
    usual = {signal.SIGHUP: signal.SIG_DFL, signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def items() -> pl.DataFrame:
    """Six films, two of the same title."""
    rows = [
        ("1", "Heat", 1995, ["action", "crime"], ["Michael Mann"], ["Al Pacino", "Robert De Niro"], 40, 4.0),
        ("2", "The Matrix", 1999, ["action", "sci-fi"], ["Lana Wachowski"], ["Keanu Reeves"], 90, 4.2),
        ("3", "Notting Hill", 1999, ["comedy", "romance"], ["Roger Michell"], ["Hugh Grant"], 30, 3.5),
        ("4", "King Kong", 1933, ["adventure"], [], [], 10, 3.6),
        ("5", "King Kong", 2005, ["adventure"], ["Peter Jackson"], ["Naomi Watts"], 20, 3.1),
        ("6", "Up", 2009, ["animation", "family"], ["Pete Docter"], [], 50, 4.1),
    ]
    return pl.DataFrame(
        [
            dict(zip(schemas.TABLES["items"], (i, t, y, g, d, c, [], f"tt{i}", n, m), strict=True))
            for i, t, y, g, d, c, n, m in rows
        ],
        schema=dict(schemas.TABLES["items"]),
    )


def make_profiles(ids: list[str]) -> pl.DataFrame:
    """Profiles with given ids; each has words of its own, by which a test recognises it."""
    schema = dict(schemas.TABLES["profiles"])
    rows = []
    for number, profile_id in enumerate(ids):
        row: dict[str, object] = dict.fromkeys(schema)
        row |= {name: [] for name, dtype in schema.items() if dtype == pl.List(pl.String)}
        row |= {
            "profile_id": profile_id,
            "user_id": profile_id,
            "summary": f"You enjoy western movies, secret{number}secret.",
            "attributes": f"comedy movie hush{number}hush",
            "target_mode": "heldout",
            "k_anonymity": 30,
            "n_visible": 20,
        }
        rows.append(row)
    return pl.DataFrame(rows, schema=schema)
