"""`crs chat`: a dialogue with a simulator on the terminal."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import click

from crslib.cli.parameters import read_assignments
from crslib.cli.terminal import PARAMETERS, REPORTS, console
from crslib.config import RunParameters


@click.command()
@click.option(
    "--as",
    "role",
    type=click.Choice(["user", "recommender"]),
    default="user",
    show_default=True,
    help="The role that you take.",
)
@click.option("--profile", default="", help="profile_id of the simulated user; if empty, the seed chooses one.")
@PARAMETERS
@REPORTS
def chat(role: str, profile: str, assignments: Sequence[str], reports: Path) -> None:
    """Talk with a simulator: as the user with the recommender, or as the recommender with a simulated user.

    An empty line or Ctrl-C ends the dialogue. Titles are linked as you type them. The dialogue is stored below
    REPORTS/chats as a run.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  makes typed lines editable, and lets Ctrl-C interrupt `input`

    from crslib.dialogue.utterances import plain
    from crslib.simulation import conversation

    other = "recommender" if role == "user" else "user"
    parameters = RunParameters.parse(read_assignments(assignments)).located()
    run = conversation.new_run(reports.resolve())

    def ask() -> str | None:
        busy.stop()
        try:
            return input("you: ").strip() or None
        except (EOFError, KeyboardInterrupt):
            console.print()
            return None
        finally:
            busy.start()

    def show(speaker: str, text: str) -> None:
        if speaker == other:
            shown = plain(text) or ("(leaves)" if speaker == "user" else "(says nothing)")
            console.print(f"{speaker}: {shown}", markup=False, soft_wrap=True)

    def begin() -> None:
        console.print(f"You are the {role}. An empty line ends the dialogue.", soft_wrap=True)
        busy.update(f"the {other} is thinking …")

    with console.status("profiles are built and models opened …") as busy:
        ending = conversation.converse(role, parameters, run, ask, show, profile, begin)
    console.print(ending.why, soft_wrap=True)
    if other == "user":
        private = {"summary": ending.summary, "attributes": ending.attributes, "notes": " ".join(ending.notes)}
        for name, text in private.items():
            if text:
                console.print(f"its {name}: {text}", markup=False, soft_wrap=True)
    console.print(str(run.path), soft_wrap=True)
