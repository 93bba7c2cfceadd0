"""JupyterLab for browser tests, without the settings of this machine, without questions and without autosaving."""

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

PATIENCE = 300_000  # milliseconds until a test fails; long, because the machine may be busy


@contextlib.contextmanager
def serving(notebook: nbformat.NotebookNode, folder: Path) -> Iterator[str]:
    """A JupyterLab in `folder`, with the notebook; yields the notebook's address."""
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
    nbformat.write(notebook, folder / "notebook.ipynb")
    words = ["--no-browser", "--allow-root", "--ServerApp.token=t", "--ServerApp.port=0"]
    words += [f"--ServerApp.root_dir={folder}", "--LabApp.extension_manager=readonly"]
    words += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    folders = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    settings = folder / "CONFIG" / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    quiet = {
        "apputils-extension:notification": {"fetchNews": "false"},
        "docmanager-extension:plugin": {"autosave": False},
    }
    settings.write_text(json.dumps({f"@jupyterlab/{plugin}": values for plugin, values in quiet.items()}))
    environment = os.environ | folders | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jupyterlab", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment)
    try:
        address = next(match[1] for line in process.stderr if (match := re.search(r"(http://127\S+:\d+)/", line)))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would block it
        _wait_until_ready(address, process)
        yield f"{address}/lab/tree/notebook.ipynb?token=t"
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(address: str, process: subprocess.Popen[str]) -> None:
    """Waits until the server answers; its log says so too early."""
    while process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/api?token=t").close()
            return
        time.sleep(0.1)
    raise AssertionError("JupyterLab ended")


def run_all(page: Any, address: str) -> None:
    """Opens the notebook and runs all its cells from the menu."""
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    # Cells that run before the kernel is connected are lost; only the status bar shows the connection.
    page.get_by_text("(ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
