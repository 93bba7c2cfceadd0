"""Human dialogues as commands name them: ReDial's own files, or a folder that `crs data import-dialogues` made."""

from pathlib import Path

from crslib.data.corpora import folder, redial
from crslib.errors import CrsError


def open_corpus(
    redial_path: Path | None, corpus: Path | None, part: redial.Split = "train", *, purpose: str = ""
) -> folder.Corpus:
    """The imported corpus in folder `corpus`, else `part` of ReDial (its zip or folder), in file order; without either
    ReDial without a dialogue.

    `purpose`: what a corpus's test part must not be used for, in words before "another part"; empty: any part will do.
    Raises `CrsError` for files that cannot be read and for such a test part.
    """
    if corpus is None:
        dialogues = redial.read(redial_path, part) if redial_path else []
        file = redial_path.name if redial_path else ""
        about = folder.About(form="redial", file=file, sha256="", part=part)
        return folder.Corpus(dialogues, redial.items(), redial.SOURCE, about, redial.domain(), redial.credit(part))
    read = folder.read(corpus)
    if purpose and read.about.part == folder.TEST:
        raise CrsError(f"{corpus} is the test part of {read.source.name}; {purpose} another part of it")
    return read
