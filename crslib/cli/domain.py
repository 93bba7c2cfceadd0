"""`crs domain`: files that say what the talk is about."""

from pathlib import Path

import click

from crslib.cli.terminal import console


@click.group()
def domain() -> None:
    """What the talk is about: a shipped domain, or a file of your own."""


@domain.command()
@click.argument("name")
@click.option("--to", "file", type=click.Path(path_type=Path), help="The file to write. Default: NAME.yaml here.")
def new(name: str, file: Path | None) -> None:
    """Writes a commented file to fill in for the domain NAME, for `crs run -p domain=FILE`."""
    from crslib.dialogue import domain as domains

    path = file or Path(f"{name}.yaml")
    domains.new(name, path)
    console.print(f"{path}: fill it in, then crs domain check {path}", markup=False, soft_wrap=True)


@domain.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Says what is wrong with a domain file, or that nothing is; FILE may also be the name of a shipped one."""
    from crslib.dialogue import domain as domains
    from crslib.users import agenda

    read = domains.read(str(file.resolve()) if file.is_file() else str(file))
    agenda.read_phrases(read)
    kinds = f"{len(read.kinds)} kinds" if read.kinds else "no kinds of its own"
    console.print(f"{read.name}: nothing is wrong; {kinds}, {len(read.wish.shapes)} shapes of wishes", soft_wrap=True)
