"""What the rating page costs with many raters at the same time: `crs people serve` in a process of its own, asked by as
many clients as wanted, each without a pause. People read for a minute between two answers, so this is the worst case.
"""

import asyncio
import contextlib
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import numpy as np
import polars as pl

from crslib import schemas
from crslib.config import ROOT
from crslib.errors import CrsError
from crslib.files import Progress, no_progress
from crslib.judging.criteria import read_questions
from crslib.judging.study import Study

_PAIRS, _TURNS = 40, 12
_ALONE = 50  # requests that one client makes before the others come


def measure(
    n_votes: int, n_clients: int, n_requests: int, progress: Progress = no_progress, *, pause: float = 0
) -> dict[str, float]:
    """Seconds of requests to the page of a study that has `n_votes` votes: `alone_p50` of one client; `p50`, `p99` and
    `longest` of `n_clients` together, which make `n_requests`, each with `pause` seconds before an answer (the clients
    begin one after the other within the first pause); how many failed (`errors`), how many votes were lost or
    doubled (`lost`), and `requests_per_second`.

    `progress` counts votes and requests. Raises `CrsError` where the server does not begin.
    """
    with tempfile.TemporaryDirectory() as folder:
        study = _study(Path(folder) / "study")
        total = n_votes + n_requests
        with study.together():
            for number, _ in enumerate(zip(range(n_votes), _answers(study), strict=False), 1):
                progress(number, total)
        with _serving(study) as address:
            alone, _, _ = asyncio.run(_ask(address, 1, _ALONE, "alone"))
            begun = perf_counter()
            seconds, errors, voted = asyncio.run(
                _ask(address, n_clients, n_requests, "client", lambda done: progress(n_votes + done, total), pause)
            )
            whole = perf_counter() - begun
        lost = n_votes + _ALONE - 1 + voted - Study(study.path).votes().height
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return {
        **{"votes": n_votes, "clients": n_clients, "requests": len(seconds), "errors": errors, "lost": lost},
        **{"alone_p50": float(np.median(alone)), "p50": float(p50), "p99": float(p99), "longest": max(seconds)},
        "requests_per_second": len(seconds) / whole,
    }


def lines(figures: dict[str, float]) -> list[str]:
    """The figures as text."""
    one = {name: f"{1000 * figures[name]:,.0f} ms" for name in ("alone_p50", "p50", "p99", "longest")}
    return [
        f"a study with {figures['votes']:,.0f} votes; one client alone: {one['alone_p50']} (median)",
        f"{figures['clients']:.0f} clients at once: {figures['requests']:,.0f} requests, "
        f"{figures['requests_per_second']:,.0f} a second, {figures['errors']:.0f} failed, "
        f"{figures['lost']:.0f} votes lost",
        f"median {one['p50']}, p99 {one['p99']}, longest {one['longest']}",
    ]


def _study(path: Path) -> Study:
    """A study of made-up dialogues that are as long as usual ones."""
    turns = [
        {"role": ("user", "recommender")[turn % 2], "text": f"Have you seen [[Heat (1995)]], or another one? {turn}"}
        for turn in range(_TURNS)
    ]
    sides = {f"{side}_{what}": f"{side} {what}" for side in ("left", "right") for what in schemas.TABLES["pairs"]}
    common = {
        "summary": "You enjoy crime stories.",
        "attributes": "crime story",
        "left_turns": turns,
        "right_turns": turns,
    }
    rows = [
        {
            **{name: sides.get(name, name) for name in schemas.TABLES["pairs"]},
            **common,
            **{name: f"{number}" for name in ("pair_id", "profile_id", "left_dialogue", "right_dialogue")},
        }
        for number in range(_PAIRS)
    ]
    pairs = pl.DataFrame(rows, schema=dict(schemas.TABLES["pairs"]))
    runs = {name: {"run_id": name, "path": name} for name in sides.values() if name.endswith("condition")}
    facts = {"study_id": "bench", "redial": None, "runs": runs}
    return Study.create(path, pairs, [question.model_dump() for question in read_questions()], 0, facts)


def _answers(study: Study) -> Iterator[None]:
    """Gives one answer after another, of one rater after another."""
    rater = 0
    while True:
        state = study.state(f"earlier {rater}")
        while not state["done"]:
            key = f"{rater} {state['order']} {state['step']}"
            state = study.vote(state["rater"], key, state["order"], state["criterion"], "left", 1.0)
            yield
        rater += 1


@contextlib.contextmanager
def _serving(study: Study) -> Iterator[str]:
    """The address of `crs people serve` for this study. Raises `CrsError` when it prints none."""
    command = [sys.executable, "-m", "crslib", "people", "serve", str(study.path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            printed = iter(process.stdout or ())
            address = next((line.strip() for line in printed if line.startswith("http")), "")
            if not address:
                raise CrsError("the rating page was not served; try `crs people serve` alone, which says why")
            yield address
        finally:
            process.terminate()


async def _ask(
    address: str, n_clients: int, n_requests: int, name: str, report: Any = lambda done: None, pause: float = 0
) -> tuple[list[float], int, int]:
    """The seconds of each request, how many failed, and how many votes were taken."""
    seconds: list[float] = []
    errors = voted = 0

    async def rate(rater: str, n: int, wait: float) -> None:
        nonlocal errors, voted
        await asyncio.sleep(wait)
        action, content = "state", dict[str, Any](rater=rater)
        # one client each: a pool of many connections costs more than the requests
        async with httpx.AsyncClient(base_url=address, timeout=60, trust_env=False, verify=no_tls) as client:
            for number in range(n):
                await asyncio.sleep(pause if number else 0)
                begun = perf_counter()
                try:
                    reply = await client.post(f"api/{action}", json=content)
                    state = reply.raise_for_status().json()["state"]
                except (httpx.HTTPError, KeyError):
                    errors += 1
                    continue
                finally:
                    seconds.append(perf_counter() - begun)
                    report(len(seconds))
                voted += action == "vote"
                vote = {"key": f"{rater} {number}", "choice": "left", "seconds": 1.0}
                action, content = (
                    "vote",
                    {"rater": rater, **vote, **{key: state[key] for key in ("order", "criterion")}},
                )

    no_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    share = [n_requests // n_clients + (number < n_requests % n_clients) for number in range(n_clients)]
    waits = [pause * number / n_clients for number in range(n_clients)]
    await asyncio.gather(*(rate(f"{name} {number}", n, waits[number]) for number, n in enumerate(share)))
    return seconds, errors, voted
