"""kill -9 of the kernel, its parent or both at seeded random moments, and after each the same command.

A run is killed again and again until it has finished; then the next one begins, until `KILLS` kills were made. The
moments are seconds of CPU, so that a busy machine draws the same ones: uniform over what the run still has to do.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from crslib.config import ROOT
from tests.hostile.conftest import Whole
from tests.hostile.tiny_runs import STAGES, Attempt, Place, is_sentence

pytestmark = [pytest.mark.hostile, pytest.mark.usefixtures("usual_signals")]
KILLS = int(os.environ.get("KILLS", "100"))
_BEYOND = 1.2  # moments are drawn from so much of the work that is left, so that runs come to an end


def left_to_do(whole: Whole, place: Place) -> float:
    """About how many seconds of CPU the next call needs."""
    done = place.info.get("stages", {})
    return whole.cpu["plan"] + sum(whole.cpu[name] for name in STAGES if name not in done)


def kill(attempt: Attempt, victims: str) -> str:
    """Kills the kernel, its parent or both. What was killed in truth: there may be no kernel."""
    kernels = attempt.kernels() if victims != "parent" else []
    victims = victims if kernels else "parent"
    if victims != "kernel":
        attempt.process.kill()
    for kernel in kernels:
        with contextlib.suppress(psutil.NoSuchProcess):
            kernel.kill()
    return victims


def test_nothing_is_lost_or_doubled_at_any_moment(
    whole: Whole, new_place: Callable[[], Place], outcome: Callable[[str, int, str], None]
) -> None:
    rng = random.Random(f"kills {os.environ.get('SEED', 0)}")
    made: Counter[tuple[str, str]] = Counter()
    finished = went_on = 0
    place = new_place()
    while True:
        attempt = place.start()
        enough = made.total() >= KILLS or place.info.get("status") == "success"
        moment = float("inf") if enough else rng.uniform(0, _BEYOND * left_to_do(whole, place))
        victims = rng.choice(("kernel", "parent", "both"))
        reached = attempt.wait_until(lambda attempt=attempt, moment=moment: attempt.cpu() >= moment)
        stage = next((name for name in STAGES if name not in place.info.get("stages", {})), "end")
        stage = stage if attempt.kernels() else "start"
        if reached:
            victims = kill(attempt, victims)
            made[victims, stage] += 1
        status, errors = attempt.end()
        said = errors.strip() if "Traceback" in errors else errors.strip()[:150]
        print(
            f"{made.total():>3} {victims if reached else '-':<7} {stage:<12} {moment:6.1f} {status:>4} {said}",
            flush=True,
        )
        if not reached or status == 0:  # it had ended, or the kernel had nothing more to do
            assert status == 0, errors
            went_on += reached
            finished += whole.equals(place)
            if made.total() >= KILLS:
                break
            place = new_place()
        elif victims == "kernel":
            assert status == 1
            assert is_sentence(errors), errors
            assert "signal 9 (SIGKILL)" in errors
            assert place.info["status"] == "error"
    by_victim: Counter[str] = Counter()
    by_stage: Counter[str] = Counter()
    for (victim, stage), n in made.items():
        by_victim[victim] += n
        by_stage[stage] += n
    for victim, n in sorted(by_victim.items()):
        outcome(f"kill -9 of {victim}", n, "the same command went on")
    spread = ", ".join(f"{stage} {n}" for stage, n in sorted(by_stage.items()))
    outcome(
        "kills in all",
        made.total(),
        f"{finished} runs ended, {went_on} in spite of it; tables byte-equal; {spread}",
    )


_MERGE = """
import sys
from pathlib import Path
from crslib.engines import llama, weights
print(weights.merged(llama.model_path("smollm2"), Path(sys.argv[2]), "Q8_0", Path(sys.argv[1])), flush=True)
"""


def test_weights_whose_writer_is_killed_are_made_anew(tmp_path: Path, outcome: Callable[[str, int, str], None]) -> None:
    rng = random.Random("weights")
    command = [sys.executable, "-c", _MERGE, str(tmp_path / "cache"), str(ROOT / "data" / "adapters" / "user.gguf")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    (file,) = (tmp_path / "cache").glob("*.gguf")
    content = file.read_bytes()
    kills = max(KILLS // 10, 1)
    for _ in range(kills):
        file.unlink()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        wanted, used = rng.uniform(1, 8), 0.0
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            while process.poll() is None and used < wanted:
                times = psutil.Process(process.pid).cpu_times()
                used = times.user + times.system
                time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        assert file.read_bytes() == content
        assert len(list(file.parent.iterdir())) == 2  # the weights and their notes
    outcome("kill -9 of a writer of weights", kills, "made anew by the next call, nothing left half done")
