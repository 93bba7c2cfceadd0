"""One thing that was looked at, and how it is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Area = Literal["installed", "weights", "caches", "machine", "data", "reports"]
State = Literal["ok", "missing", "broken"]
MIB = 1 << 20


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    `state`: ok, missing (not there) or broken (there, and not usable). `detail`: what was found. `remedy`: what to do
    unless it is ok. `needed`: `crs run` cannot work unless it is ok.
    """

    area: Area
    name: str
    state: State
    detail: str
    remedy: str = ""
    needed: bool = False


def works(findings: Sequence[Finding]) -> bool:
    """Whether `crs run` can work."""
    return all(one.state == "ok" for one in findings if one.needed)


def entries(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder that match; names with a dot before them only on request."""
    hidden = pattern.startswith(".")
    return sorted(path for path in folder.glob(pattern) if path.is_file() and path.name.startswith(".") == hidden)


def size(n_bytes: int) -> str:
    """A number of bytes in MiB or GiB."""
    return f"{n_bytes / MIB:,.0f} MiB" if n_bytes < 1024 * MIB else f"{n_bytes / MIB / 1024:,.1f} GiB"


def line(text: str) -> str:
    """A text of somebody else's in one line of at most 300 characters."""
    return " ".join(text.split())[:300]
