"""`crs lab`: the notebooks in JupyterLab, as copies: what a person saves is not the notebooks of the package."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter

from crslib import json_files
from crslib.cli.terminal import REPORTS, console, fail
from crslib.config import ROOT, install
from crslib.errors import CrsError
from crslib.files import writing
from crslib.identity import digest

_KEPT = ".copied.json"  # notebook → hash of its cells as they were copied
_HASHES = TypeAdapter(dict[str, str])


@click.command()
@click.option("--open/--no-open", "opened", default=True, show_default=True, help="Start JupyterLab.")
@REPORTS
def lab(opened: bool, reports: Path) -> None:
    """Opens copies of the notebooks in JupyterLab, in the folder `lab` of --reports.

    A copy that somebody changed is kept; the others are made anew from the notebooks of this version.
    """
    folder = reports / "lab"
    for name in copied(folder):
        console.print(
            f"{name} was changed here and is kept; a newer one is in notebooks/: rename yours to get it too",
            soft_wrap=True,
        )
    console.print(str(folder), soft_wrap=True)
    if opened:
        if find_spec("jupyterlab") is None:
            fail(f"JupyterLab is not installed; {install('lab')}")
        sys.exit(subprocess.call([sys.executable, "-m", "jupyterlab", "--notebook-dir", str(folder)]))


def copied(folder: Path, source: Path = ROOT / "notebooks") -> list[str]:
    """Copies the notebooks of `source` into `folder`, but for copies whose cells somebody changed. Returns the names of
    these of which there is a newer notebook."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / _KEPT
    try:
        known = json_files.read_as(record, _HASHES, "it is written again") if record.exists() else {}
    except CrsError:
        known = {}  # nobody knows what was copied: every copy that is not the newest is somebody's
    behind = []
    for path in sorted(source.glob("*.ipynb")):
        copy, own = folder / path.name, _cells(path)
        if copy.exists() and _cells(copy) not in (known.get(path.name), own):
            if known.get(path.name) != own:
                behind.append(path.name)
            continue
        if known.get(path.name) != own or not copy.exists():  # else outputs stay
            copy.write_bytes(path.read_bytes())
        known[path.name] = own
    with writing(record) as temporary:
        temporary.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return behind


def _cells(path: Path) -> str:
    """The hash of a notebook's cells, without outputs and what JupyterLab adds; empty where it is no notebook."""
    try:
        cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return digest([[cell["cell_type"], "".join(cell["source"])] for cell in cells], "notebook")
    except (OSError, ValueError, KeyError, TypeError):
        return ""
