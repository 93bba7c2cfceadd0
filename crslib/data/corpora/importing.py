"""Human dialogues of any known form as a corpus: which reader, which catalogue, and who is to be credited."""

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import polars as pl

from crslib import schemas, store
from crslib.config import resolve
from crslib.data import tables
from crslib.data.corpora import ccpe, cikm, folder, forms, inspired, opendialkg, pearl, redial
from crslib.data.corpora.base import Contents, Dialogue, Item, conversation
from crslib.data.corpora.stored import Stored
from crslib.data.source import NOT_STATED, Source
from crslib.dialogue import domain as domains
from crslib.dialogue import utterances
from crslib.dialogue.domain import Domain
from crslib.errors import CrsError
from crslib.identity import file_sha256

SOURCES: Mapping[str, Source] = {
    "redial": Source(
        name="ReDial",
        url="https://redialdata.github.io/website/",
        licence="CC BY 4.0",
        citation="Li et al., Towards Deep Conversational Recommendations, NeurIPS 2018",
    ),
    "pearl": Source(
        name="PEARL",
        url="https://huggingface.co/datasets/LangAGI-Lab/pearl",
        licence="CC BY 4.0",
        citation="Kim et al., Pearl: A Review-driven Persona-Knowledge Grounded Conversational Recommendation Dataset, "
        "Findings of ACL 2024",
    ),
    "opendialkg": Source(
        name="OpenDialKG",
        url="https://github.com/facebookresearch/opendialkg",
        licence="CC BY-NC 4.0",
        citation="Moon et al., OpenDialKG: Explainable Conversational Reasoning with Attention-based Walks over "
        "Knowledge Graphs, ACL 2019",
    ),
    "inspired": Source(
        name="INSPIRED",
        url="https://github.com/sweetpeach/Inspired",
        citation="Hayati et al., INSPIRED: Toward Sociable Recommendation Dialog Systems, EMNLP 2020",
    ),
    "ccpe": Source(
        name="CCPE-M",
        url="https://github.com/google-research-datasets/ccpe",
        licence="CC BY 4.0",
        citation="Radlinski et al., Coached Conversational Preference Elicitation: A Case Study in Understanding Movie "
        "Preferences, SIGDIAL 2019",
    ),
    "cikm": Source(
        name="Reddit-Movie and others, as in the CIKM 2023 paper",
        url="https://github.com/AaronHeee/LLMs-as-Zero-Shot-Conversational-RecSys",
        licence="for research only",
        citation="He et al., Large Language Models as Zero-Shot Conversational Recommenders, CIKM 2023",
    ),
}
FORMS = (*SOURCES, *(form for form in forms.FORMS if form not in SOURCES))
_PARTS = {"train": "train", "test": folder.TEST, "valid": "validation", "dev": "validation"}


def import_dialogues(
    path: Path,
    form: str,
    to: Path,
    *,
    domain: str = "",
    data: Path | None = None,
    titles: str = "auto",
    part: str = "",
    stated: Mapping[str, str] | None = None,
) -> folder.Corpus:
    """Writes the dialogues of a file in one of `FORMS` as the folder `to`, and returns them.

    `domain`: what they are about; empty: what the catalogue is about. `data`: the folder of the catalogue that titles
    are linked to; None: ReDial's own movies for ReDial, else the built-in catalogue, or none for another domain.
    `titles`: as in `folder.made`. `part`: train, validation or test; empty: as the name of the file begins, of ReDial's
    zip or folder train. `stated`: fields of `Source` to be changed.

    Raises `CrsError` for a file that is not of the form, holds no dialogue, and for a catalogue of another domain.
    """
    if not path.exists():
        raise CrsError(f"{path} does not exist; give a file of dialogues")
    own = form == "redial" and data is None
    items, about = _catalogue(data, domain, own)
    spoken_of = tables.domain_of(data, domain or "auto") if data else domains.read(domain or about)
    domain = domain or about
    if not part and _one_file(path):
        part = next((kind for start, kind in _PARTS.items() if path.name.lower().startswith(start)), "")
    elif not part:
        part = "train"
    contents = _contents(path, form, spoken_of, part)
    given = {name: value for name, value in (stated or {}).items() if value}
    source = SOURCES.get(form, Source()).model_copy(update={**given, "domain": domain})
    hashed = file_sha256(path) if path.is_file() else NOT_STATED
    made = folder.About(form=form, file=path.name, sha256=hashed, part=part)
    corpus = folder.made(contents, items, "own" if own else titles, source, made, spoken_of)
    folder.write(corpus, to)
    return corpus


def _catalogue(data: Path | None, domain: str, own: bool) -> tuple[pl.DataFrame, str]:
    """Table `items` that titles are linked to, and its domain."""
    if own:
        found = "movies"
        items = redial.items()
    elif data is None and domain not in ("", "movies"):
        return schemas.empty("items"), domain
    else:
        place = data or resolve("data")
        found = Source.read(place).domain
        items = store.read_parquet(place / "items.parquet", "items")
    if domain and domain != found:
        raise CrsError(f"the catalogue is about {found}, not {domain}; give a folder of {domain} with --data")
    return items, found


def _one_file(path: Path) -> bool:
    """Whether it is a file with dialogues; else it is ReDial's zip, or a folder, with files of all parts."""
    return path.is_file() and path.suffix != ".zip"


def _contents(path: Path, form: str, domain: Domain, part: str) -> Contents:
    if form == "redial":
        if _one_file(path):
            return Contents(tuple(redial.read_file(path)), True)
        if part not in get_args(redial.Split):
            raise CrsError(f"ReDial has no part {part!r}; give --part train or test")
        return Contents(tuple(redial.read(path, part)), True)  # type: ignore[arg-type]
    if form == "opendialkg":
        return opendialkg.read(path, domain.name)
    if form in SOURCES:
        if domain.name != redial.DOMAIN:
            raise CrsError(f"{SOURCES[form].name} is about movies; leave --domain out")
        return {"pearl": pearl, "inspired": inspired, "ccpe": ccpe, "cikm": cikm}[form].read(path)
    stored = forms.read(path, form, domain)
    marked = any(utterances.mentions(said.text) for one in stored for said in one.said)
    return Contents(tuple(map(_dialogue, stored)), marked)


def _dialogue(stored: Stored) -> Dialogue:
    """A dialogue of `forms`: what is noted of an item is the seeker's answer."""
    messages = [(said.role, utterances.clean(said.text)) for said in stored.said]
    answers = {
        utterances.mention(note.name)[2:-2]: Item(note.name, None, note.seen, note.liked, "user")
        for said in stored.said
        for note in said.notes
    }
    return conversation(
        stored.dialogue_id,
        messages,
        user=stored.user,
        items=answers,
        counted=False,
        summary=stored.summary or None,
        attributes=stored.attributes or None,
    )
