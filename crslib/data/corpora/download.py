"""The official files of the corpora, from where their authors keep them. Knows where they are, not what is in them.

A file is named by what cannot change: its SHA-256, or the commit it is of. What came in of a file is kept when the
connection ends, and the next call goes on from there (HTTP ranges).
"""

import contextlib
import http.client
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crslib import store
from crslib.errors import CrsError
from crslib.identity import file_sha256
from crslib.store import Progress, no_progress

TIMEOUT = 30  # seconds without a byte
_CHUNK = 1 << 16


@dataclass(frozen=True)
class File:
    """One file. `sha256` or `size` (bytes) is None where nobody has published it; then the commit in `url` stands."""

    name: str
    url: str
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Corpus:
    """What a corpus is made of, its licence and its paper."""

    files: tuple[File, ...]
    licence: str
    cite: str


_INSPIRED = "https://raw.githubusercontent.com/sweetpeach/Inspired/99ee04ae170eccd0a4cd0f8d38136ce4b9c88708"
_CCPE = "https://raw.githubusercontent.com/google-research-datasets/ccpe/2c9cd30f33f3a154b5a27d015333679262ff36f5"
CORPORA: Mapping[str, Corpus] = {
    "redial": Corpus(
        (
            File(
                "redial_dataset.zip",
                "https://github.com/ReDialData/website/raw/data/redial_dataset.zip",
                "b48756681ec6f84e0af36979c5e9baa21ea8d9e7036b8764ea9b787bb0baf69b",
                5_765_261,
            ),
        ),
        "CC BY 4.0",
        "Li et al., Towards Deep Conversational Recommendations, NeurIPS 2018",
    ),
    "inspired": Corpus(
        tuple(File(f"{split}.tsv", f"{_INSPIRED}/data/dialog_data/{split}.tsv") for split in ("train", "dev", "test")),
        "none stated: for your own research, not to be passed on",
        "Hayati et al., INSPIRED: Toward Sociable Recommendation Dialog Systems, EMNLP 2020",
    ),
    "ccpe": Corpus(
        (
            File(
                "data.json",
                f"{_CCPE}/data.json",
                "4ff051ea7ea60cf0f480c911c7e2cfed56434e2e2c9ea8965ac5e26365773f0a",
            ),
        ),
        "CC BY 4.0",
        "Radlinski et al., Coached Conversational Preference Elicitation, SIGDIAL 2019",
    ),
}


def fetch(name: str, to: Path, path: Path | None = None, progress: Progress = no_progress) -> Path:
    """Puts the files of corpus `name` (of `CORPORA`) into the folder `to`/`name` and returns what its reader takes.

    That is the file, or the folder where there are several. A file that is there already is checked and kept. `path`: a
    copy at hand, the file or the folder of the files; nothing is downloaded then. `progress(done, total)`: bytes of the
    file that comes in; `total` 0 where it is not known. Raises `CrsError` offline, for a file that is not the official
    one, and when `to` cannot be written.
    """
    if name not in CORPORA:
        raise CrsError(f"unknown corpus {name!r}; known are {', '.join(CORPORA)}")
    files, folder = CORPORA[name].files, to / name
    for file in files:
        if path is not None:
            _copy(file, path / file.name if path.is_dir() else path, folder / file.name, alone=len(files) == 1)
        elif not _is_there(file, folder / file.name):
            download(file, folder / file.name, progress)
    return folder / files[0].name if len(files) == 1 else folder


def download(file: File, to: Path, progress: Progress = no_progress) -> None:
    """Downloads one file to `to`, checked; what an earlier call got of it lies beside as `.part` and is gone on with.

    Raises `CrsError`: offline, refused, broken off (what came in is kept), of another size or SHA-256 (it is not).
    """
    part = to.with_name(f"{to.name}.part")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        have = part.stat().st_size if part.exists() else 0
    except OSError as error:
        raise store.unwritable(to, error) from None
    with contextlib.closing(_open(file, have)) as answer:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0  # the server sends all of it, or what lies here is all of it or more
        if answer.status != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            _receive(file, answer, part, have, progress)
    if wrong := _difference(file, part):
        part.unlink(missing_ok=True)
        raise CrsError(f"what came from {file.url} {wrong}; run the same again, or give the file with --path")
    part.replace(to)


def _open(file: File, have: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": "crslib", "Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        return urllib.request.urlopen(urllib.request.Request(file.url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return error  # type: ignore[return-value]  # an answer like any other
        raise CrsError(f"{file.url} answers {error.code} {error.reason}; give the file at hand with --path") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise CrsError(f"cannot reach {file.url} ({reason}); go online, or give the file at hand with --path") from None


def _receive(file: File, answer: http.client.HTTPResponse, part: Path, have: int, progress: Progress) -> None:
    length = answer.headers.get("Content-Length")
    total = have + int(length) if length else file.size or 0
    try:
        with part.open("r+b" if have else "wb") as out:
            out.seek(have)
            out.truncate()
            progress(have, total)
            while block := _block(file, answer, have, total):
                out.write(block)
                have += len(block)
                progress(have, total)
    except OSError as error:
        raise store.unwritable(part, error) from None
    if have < total:
        raise _broken(file, have, total)


def _block(file: File, answer: http.client.HTTPResponse, have: int, total: int) -> bytes:
    try:
        return answer.read(_CHUNK)
    except (OSError, http.client.HTTPException):
        raise _broken(file, have, total) from None


def _broken(file: File, have: int, total: int) -> CrsError:
    of = f" of {total:,}" if total else ""
    return CrsError(f"the download of {file.url} broke off after {have:,}{of} bytes; run the same again to go on")


def _copy(file: File, given: Path, to: Path, *, alone: bool) -> None:
    if not given.is_file():
        what = f"{file.name}, a file" if alone else f"the folder that holds {file.name}"
        raise CrsError(f"{given} is no file; --path takes {what}")
    if wrong := _difference(file, given):
        raise CrsError(f"{given} {wrong}; give the official {file.name} from {file.url}")
    if to.exists() and given.samefile(to):
        return
    with store.writing(to) as temporary:
        shutil.copyfile(given, temporary)


def _is_there(file: File, path: Path) -> bool:
    return path.is_file() and not _difference(file, path)


def _difference(file: File, path: Path) -> str:
    """What tells the file at `path` from the official one; empty when nothing does."""
    size = path.stat().st_size
    if file.size not in (None, size):
        return f"has {size:,} bytes instead of {file.size:,}"
    if file.sha256 is not None and (found := file_sha256(path)) != file.sha256:
        return f"has SHA-256 {found} instead of {file.sha256}"
    return "" if size else "is empty"
