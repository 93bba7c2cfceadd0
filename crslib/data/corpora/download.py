"""The official file of a corpus, downloaded from its authors or copied from a local file, and checked by its SHA-256.

Knows nothing of the content of the file.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

from crslib import files
from crslib.data.corpora import redial
from crslib.errors import CrsError
from crslib.identity import file_sha256


@dataclass(frozen=True)
class Corpus:
    """A corpus that is one file of `size` bytes, with its licence and its paper."""

    file: str
    url: str
    sha256: str
    size: int
    licence: str
    cite: str


CORPORA: Mapping[str, Corpus] = {
    "redial": Corpus(
        file="redial_dataset.zip",
        url="https://github.com/ReDialData/website/raw/data/redial_dataset.zip",
        sha256="b48756681ec6f84e0af36979c5e9baa21ea8d9e7036b8764ea9b787bb0baf69b",
        size=5_765_261,
        licence=redial.SOURCE.licence,
        cite=redial.SOURCE.citation,
    ),
}


def fetch(name: str, folder: Path, path: Path | None = None, *, progressbar: bool = False) -> Path:
    """Puts the file of corpus `name` (of `CORPORA`) into `folder`/`name` and returns its path.

    An official file that is already there is not downloaded again. `path`: a local copy, or the folder that holds it;
    nothing is downloaded then. Raises `CrsError` offline, for a file that is not the official one, and when `folder`
    cannot be written.
    """
    if name not in CORPORA:
        raise CrsError(f"unknown corpus {name!r}; known are {', '.join(CORPORA)}")
    corpus = CORPORA[name]
    to = folder / name / corpus.file
    if path is None:
        _download(corpus, to, progressbar)
    else:
        _copy(corpus, path / corpus.file if path.is_dir() else path, to)
    return to


def _download(corpus: Corpus, to: Path, progressbar: bool) -> None:
    try:
        pooch.retrieve(corpus.url, corpus.sha256, to.name, to.parent, progressbar=progressbar)
        to.chmod(0o644)  # pooch leaves it readable by its owner only
    except requests.HTTPError as error:
        answer = str(error).split(" for url")[0]  # "404 Client Error: Not Found for url: https://…"
        raise CrsError(f"{corpus.url} answers {answer}; give the file at hand with --path") from None
    except requests.RequestException as error:
        raise CrsError(
            f"cannot download {corpus.url} ({type(error).__name__}); go online, or give the file at hand with --path"
        ) from None
    except ValueError:
        raise CrsError(
            f"the download of {corpus.url} does not have SHA-256 {corpus.sha256} and was deleted; try again, "
            "or give the file at hand with --path"
        ) from None
    except OSError as error:
        raise files.unwritable(to, error) from None


def _copy(corpus: Corpus, given: Path, to: Path) -> None:
    if not given.is_file():
        raise CrsError(f"{given} is no file; --path takes {corpus.file} or the folder that holds it")
    if file_sha256(given) != corpus.sha256:
        raise CrsError(
            f"{given} ({given.stat().st_size:,} bytes) is not the official {corpus.file} ({corpus.size:,} bytes, "
            f"SHA-256 {corpus.sha256}); download it from {corpus.url}"
        )
    if to.exists() and given.samefile(to):
        return
    with files.writing(to) as temporary:
        shutil.copyfile(given, temporary)
