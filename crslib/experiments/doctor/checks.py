"""All checks of `crs doctor`. Each stands alone and imports what it needs itself: what cannot be imported or read is a
finding, and the other checks go on.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from crslib.config import BUILT_IN, ROOT, resolve
from crslib.errors import CrsError
from crslib.experiments.doctor import installed, models, places
from crslib.experiments.doctor.base import Area, Finding, line


def examine(reports: Path) -> Iterator[Finding]:
    """Looks at this machine, at the project's folder and at the runs below `reports`, a few seconds long."""
    checks: list[tuple[Area, str, bool, Callable[[], Iterator[Finding]]]] = [
        ("installed", "packages", True, lambda: installed.packages(ROOT / "pyproject.toml")),
        ("installed", "llama.cpp", True, installed.llama_cpp),
        ("installed", "browser", False, installed.browser),
        ("installed", "Ray", False, installed.ray),
        ("installed", "compiler", False, installed.compiler),
        ("weights", BUILT_IN, True, models.built_in_model),
        ("weights", "adapters", True, lambda: models.adapters(resolve("data/adapters"))),
        ("weights", "measured", False, lambda: models.measured(cache())),
        ("weights", "prepared", False, lambda: models.prepared(cache())),
        ("caches", "sizes", False, lambda: places.sizes([cache(), resolve("data/raw"), reports])),
        ("machine", "disk", True, lambda: places.disk(cache(), [reports, Path(tempfile.gettempdir())])),
        ("machine", "memory", True, lambda: places.memory(places.available())),
        ("machine", "folders", False, places.folders),
        ("data", "data", True, lambda: places.tables(resolve("data"))),
        ("data", "notebooks", True, places.notebooks),
        ("reports", "reports", True, lambda: places.writable(reports)),
        ("reports", "runs", False, lambda: places.runs(reports)),
    ]
    for area, name, needed, check in checks:
        try:
            yield from check()
        except Exception as error:  # what is examined may be broken in any way
            reason = str(error) if isinstance(error, CrsError) else f"{type(error).__name__}: {error}"
            yield Finding(area, name, "broken", f"cannot be examined ({line(reason)})", needed=needed)


def cache() -> Path:
    """The folder of merged weights and of measurements."""
    from crslib.engines.loading import CACHE

    return CACHE
