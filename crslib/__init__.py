"""Reference-free conversational-recommendation simulation (arXiv 2603.18573) on a laptop."""

import importlib
import os
import sys
from typing import Any

# Polars 2 collects lazily with the streaming engine, whose row order and last bits change from run to run. It reads
# this when it is imported, which takes as long as all else that `crs --help` needs.
os.environ["POLARS_ENGINE_AFFINITY"] = "in-memory"
if "polars" in sys.modules:
    sys.modules["polars"].Config.set_engine_affinity("in-memory")

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`crslib.talk`, imported when it is first used: importing the library loads no model and no catalogue."""
    if name == "talk":
        return importlib.import_module("crslib.simulation.talk").talk
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
