"""Packages, compiled libraries and programs."""

import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crslib.config import ROOT
from crslib.engines import trial
from crslib.experiments.doctor.base import Finding, State, line

COMPILERS = ("c++", "g++", "clang++")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_PURPOSES = {"": "a run", "train": "training", "test": "tests", "data": "crs data build"}  # else the extra's own name


def packages(project: Path) -> Iterator[Finding]:
    """Python, and the packages of a run and of each extra that the file `project` (pyproject.toml) names."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    named = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    python = ".".join(map(str, sys.version_info[:3]))
    fits = SpecifierSet(named["requires-python"]).contains(python)
    wanted = f"{python} at {sys.executable}"
    remedy = f"make an environment with Python {named['requires-python']}"
    yield Finding("installed", "python", "ok" if fits else "broken", wanted, "" if fits else remedy, needed=True)
    for extra, lines in {"": named["dependencies"], **named["optional-dependencies"]}.items():
        lacks = [lack for line in lines if (lack := _lacking(Requirement(line)))]
        detail = f"lacks {', '.join(lacks)}" if lacks else f"all {len(lines)} packages"
        name = f"packages for {_PURPOSES.get(extra, extra)}"
        yield Finding(
            "installed", name, "missing" if lacks else "ok", detail, _pip(extra) if lacks else "", needed=not extra
        )


def _lacking(requirement: Any) -> str:
    """What is wrong with a package; empty if it is there in a version that will do."""
    try:
        there = version(requirement.name)
    except PackageNotFoundError:
        return str(requirement.name)
    if not there:  # a folder of metadata without any, as a killed pip leaves it
        return f"{requirement.name} (only a part of it is there)"
    fits = requirement.specifier.contains(there, prereleases=True)
    return "" if fits else f"{requirement.name}{requirement.specifier} ({there} is there)"


def _pip(extra: str) -> str:
    words = [sys.executable, "-m", "pip", "install", "--constraint", str(ROOT / "constraints.txt"), "--editable"]
    return shlex.join([*words, f"{ROOT}[{extra}]" if extra else str(ROOT)])


def llama_cpp() -> Iterator[Finding]:
    """Whether the compiled library loads, and computes with the built-in model where that is there: in processes of
    their own, which a broken one may end."""
    words = [sys.executable, "-c", "import llama_cpp; print(llama_cpp.__version__)"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    if ended.returncode != 0:
        said = (ended.stderr.strip() or f"its process ended with {ended.returncode}").split("\n")[-1]
        yield Finding("installed", "llama.cpp", "broken", f"does not load: {line(said)}", trial.REINSTALL, needed=True)
    elif said := trial.fault():
        yield Finding("installed", "llama.cpp", "broken", said, trial.REINSTALL, needed=True)
    else:
        yield Finding("installed", "llama.cpp", "ok", f"llama-cpp-python {ended.stdout.strip()} loads", needed=True)


def browser() -> Iterator[Finding]:
    """Whether a Chromium starts, by which the pages are tested: that of the system, else playwright's own."""
    if find_spec("playwright") is None:
        yield Finding("installed", "browser", "missing", "playwright is not installed", _pip("test"))
        return
    from playwright.sync_api import Error, sync_playwright

    own = next(filter(None, map(shutil.which, BROWSERS)), None)
    install = shlex.join([sys.executable, "-m", "playwright", "install", "chromium"])
    with sync_playwright() as session:
        path = Path(own or session.chromium.executable_path)
        if not path.is_file():
            yield Finding("installed", "browser", "missing", f"playwright has no Chromium at {path}", install)
            return
        try:
            opened = session.chromium.launch(executable_path=path, args=["--no-sandbox"])
            detail = f"Chromium {opened.version} at {path} starts"
            opened.close()
        except Error as error:
            said = f"{path} does not start: {line(str(error))}"
            yield Finding("installed", "browser", "broken", said, f"{install} --with-deps")
            return
    yield Finding("installed", "browser", "ok", detail)


def ray() -> Iterator[Finding]:
    """Whether Ray can be imported."""
    there = find_spec("ray") is not None
    yield Finding("installed", "Ray", "ok" if there else "missing", "is importable" if there else "is not installed")


def compiler() -> Iterator[Finding]:
    """The C++ compiler, which builds llama.cpp when it is installed."""
    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    if found is None:
        detail = f"no {', '.join(COMPILERS)}; needed only to install llama.cpp again"
        yield Finding("installed", "compiler", "missing", detail, "install g++ or clang")
        return
    ended = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60)
    said = (ended.stdout.strip() or f"ended with {ended.returncode}").split("\n")[0]
    state: State = "broken" if ended.returncode else "ok"
    yield Finding(
        "installed", "compiler", state, f"{found}: {said}", "install g++ or clang" if ended.returncode else ""
    )
