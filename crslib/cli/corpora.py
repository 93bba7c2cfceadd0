"""`crs data import-dialogues`, and what is measured of human dialogues: `reference`, `styles` and `embeddings`."""

from collections.abc import Callable
from pathlib import Path

import click

from crslib.cli.terminal import console, counting, fail
from crslib.config import ROOT
from crslib.data.corpora import importing, redial
from crslib.data.corpora.folder import Corpus
from crslib.data.corpora.opening import open_corpus


@click.command("import-dialogues")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--as",
    "form",
    type=click.Choice(importing.FORMS),
    required=True,
    help="redial: its zip, folder or JSON lines, also the hub's; pearl: its JSON; opendialkg: its CSV; inspired: its "
    "TSV; ccpe: CCPE-M's JSON; cikm: JSON lines of Reddit-Movie and others; dialoguekit, crslab, trl, dataset: as "
    "for `crs evaluate`.",
)
@click.option("--to", type=click.Path(path_type=Path), required=True, help="Folder for the corpus.")
@click.option("--domain", default="", help="What the dialogues are about. Default: what the catalogue is about.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder with items.parquet, the catalogue that titles are linked to. Default: ReDial's movies for ReDial, "
    "else the built-in movies; for another domain none.",
)
@click.option(
    "--titles",
    type=click.Choice(["auto", "marked", "all"]),
    default="auto",
    show_default=True,
    help="Titles that are linked: those that FILE marks, or all that are named; auto: all where FILE marks only some.",
)
@click.option(
    "--part",
    type=click.Choice(["train", "validation", "test"]),
    help="Which part of the corpus FILE is; a test part is for evaluation only. Default: as its name begins.",
)
@click.option("--name", default="", help="Name of the corpus, where --as does not say it.")
@click.option("--url", default="", help="Its address.")
@click.option("--licence", default="", help="Its licence.")
@click.option("--citation", default="", help="Its paper.")
def import_dialogues(
    file: Path,
    form: str,
    to: Path,
    domain: str,
    data: Path | None,
    titles: str,
    part: str | None,
    name: str,
    url: str,
    licence: str,
    citation: str,
) -> None:
    """Imports human dialogues, for `crs train ROLE --corpus TO` and `crs data reference --corpus TO`.

    Prints what was understood, which titles are items of the catalogue, and what was left out. What a corpus does not
    say (answers, who the seeker is) is in no view.
    """
    stated = {"name": name, "url": url, "licence": licence, "citation": citation}
    corpus = importing.import_dialogues(
        file, form, to, domain=domain, data=data, titles=titles, part=part or "", stated=stated
    )
    for line in (*corpus.about.lines, corpus.credit, f"{to}: a corpus about {corpus.source.domain}"):
        console.print(line, markup=False, soft_wrap=True)


# ── what people do ──────────────────────────────────────────────────────────────────────────────────────────────────


Measure = Callable[[Corpus, Path], None]
"""What a command does with human dialogues and the folder for its results."""


def _of_people(part: redial.Split) -> Callable[[Measure], Callable[..., None]]:
    """Options of a command on ReDial's `part` or on an imported corpus."""

    def decorate(command: Measure) -> Callable[..., None]:
        @click.option(
            "--redial", "path", type=click.Path(path_type=Path), help=f"ReDial's zip, folder or {part} .jsonl."
        )
        @click.option(
            "--corpus", type=click.Path(path_type=Path), help="Folder of `crs data import-dialogues`, instead."
        )
        @click.option(
            "--to", type=click.Path(path_type=Path), help="Default: data/human; of a corpus its folder human."
        )
        def run(path: Path | None, corpus: Path | None, to: Path | None) -> None:
            if bool(path) == bool(corpus):
                fail("give either --redial PATH or --corpus FOLDER")
            command(open_corpus(path, corpus, part), to or (corpus / "human" if corpus else ROOT / "data/human"))

        run.__doc__ = command.__doc__
        return run

    return decorate


def _credited(people: Corpus, to: Path) -> None:
    """Writes whose dialogues were measured, and says what the folder is for."""
    people.source.write(to)
    console.print(f"{to}: people to compare with, `crs run -p human={to}`", markup=False, soft_wrap=True)


@click.command("reference")
@_of_people("test")
def reference(people: Corpus, to: Path) -> None:
    """Writes the statistics of human dialogues that runs are compared with (ReDial's test set, or a corpus; numbers
    only)."""
    from crslib.metrics.reference import measure, write
    from crslib.training.knowledge import Seekers

    seekers = Seekers(people.items, people.domain)
    wanted = [seekers.wishes(dialogue) for dialogue in people.dialogues]
    items = None if people.named else people.items  # of ReDial itself the facts that the built-in catalogue adds count
    write(measure(people.dialogues, people.domain, wanted, items), to)
    _credited(people, to)


@click.command("styles")
@_of_people("train")
def styles_(people: Corpus, to: Path) -> None:
    """Writes how often people write in which style (ReDial's training set, or a corpus; numbers only)."""
    from crslib.files import write_parquet
    from crslib.training.knowledge import styles_of

    table = styles_of(people.dialogues)
    write_parquet(table, to / "styles.parquet")
    console.print(f"{to / 'styles.parquet'}: {table.height} styles", soft_wrap=True)


@click.command("embeddings")
@_of_people("test")
def embeddings(people: Corpus, to: Path) -> None:
    """Writes the embeddings of human dialogues by the built-in model (ReDial's test set, or a corpus; numbers only)."""
    from crslib.data.corpora import frames
    from crslib.metrics import embedding
    from crslib.metrics.reference import anonymous

    _, turns = frames(anonymous(people.dialogues))
    with embedding.reader() as reader, counting("texts") as progress:
        embedded = embedding.embed(turns, reader, people.domain.mask, progress)
    embedding.write(embedding.measure(embedded, embedding.source()), to)
    _credited(people, to)


of_people = (reference, styles_, embeddings)
