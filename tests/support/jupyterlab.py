"""JupyterLab for tests that drive it in a browser, without this machine's settings; it asks nothing, saves nothing."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from crslib.config import ROOT

PATIENCE = 300_000  # milliseconds: to give up, not to wait; a busy machine is no failure


@contextlib.contextmanager
def serving(notebook: nbformat.NotebookNode, folder: Path) -> Iterator[str]:
    """A JupyterLab that works in `folder`, which gets the notebook; the notebook's address."""
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
    nbformat.write(notebook, folder / "notebook.ipynb")
    words = ["--no-browser", "--allow-root", "--ServerApp.token=t", "--ServerApp.port=0"]
    words += [f"--ServerApp.root_dir={folder}", "--LabApp.extension_manager=readonly"]
    words += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    own = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    settings = folder / "CONFIG" / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    quiet = {
        "apputils-extension:notification": {"fetchNews": "false"},
        "docmanager-extension:plugin": {"autosave": False},
    }
    settings.write_text(json.dumps({f"@jupyterlab/{plugin}": given for plugin, given in quiet.items()}))
    environment = os.environ | own | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jupyterlab", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment)
    try:
        address = next(found[1] for line in process.stderr if (found := re.search(r"(http://127\S+:\d+)/", line)))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
        _answers(address, process)
        yield f"{address}/lab/tree/notebook.ipynb?token=t"
    finally:
        process.terminate()
        process.wait()


def _answers(address: str, process: subprocess.Popen[str]) -> None:
    """Waits until the server does what its log has announced."""
    while process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/api?token=t").close()
            return
        time.sleep(0.1)
    raise AssertionError("JupyterLab ended")


def run_all(page: Any, address: str) -> None:
    """Opens the notebook and starts all its cells, as a person would by the menu."""
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    # The status bar knows of the connection, the notebook's own light does not; what is run without one is lost.
    page.get_by_text("(ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
