"""No password of an address and no key is printed or stored, whichever command gets it."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from crslib.cli.main import main
from crslib.config import RunParameters
from crslib.errors import CrsError

ADDRESSES = [
    "http://me:hush@127.0.0.1:9/v1",
    "HTTP://me:hush@h/",
    "ftp://hush@h/",
    "http://h/v1?key=hush",
    "http://h/#hush",
    "openai:m@http://me:hush@h/v1",
    "openai:m@HTTPS://me:hush@h/v1",
    "openai:m@https://h/v1?key=hush",
    "openai:http://me:hush@h",
    "python:http://me:hush@h",
    "dialoguekit:http://me:hush@h",
]
COMMANDS = [
    ["run", "-p", "user_model={}"],
    ["run", "--dry-run", "-p", "recommender_model={}"],
    ["run", "-p", "summary_style=model", "-p", "summary_model={}"],
    ["run", "-p", "data={}"],
    ["run", "--params", "{folder}/parameters.yaml"],
    ["sweep", "{folder}/parameters.yaml"],
    ["compare", "--conditions", "{folder}/conditions.yaml"],
    ["chat", "--as", "recommender", "-p", "user_model={}"],
    ["chat", "--as", "user", "-p", "user_model={}"],
    ["judge", "a", "b", "--model", "openai:m@{}", "--json", "{folder}/reports/figures.json"],
]


def unseen(words: list[str], address: str, folder: Path) -> None:
    (folder / "parameters.yaml").write_text(f"user_model: '{address}'\n")
    (folder / "conditions.yaml").write_text(f"a: {{user_model: '{address}'}}\nb: {{seed: 1}}\n")
    given = [word.replace("{folder}", str(folder)).replace("{}", address) for word in words]
    done = CliRunner().invoke(main, [*given, "--reports", str(folder / "reports")])
    assert (done.exit_code, type(done.exception)) == (1, SystemExit), done.output
    assert done.stderr.startswith("crs: ") and done.stderr.count("\n") == 1
    assert "hush" not in done.output
    assert not [path for path in folder.rglob("reports/**/*") if path.is_file()]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_command_shows_or_stores_a_password(words: list[str], tmp_path: Path) -> None:
    unseen(words, ADDRESSES[0], tmp_path)


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_form_of_an_address_is_stored_with_its_password(address: str, tmp_path: Path) -> None:
    unseen(COMMANDS[0], address, tmp_path)
    with pytest.raises(CrsError, match="user_model holds an address with a name, a password or a query") as caught:
        RunParameters.parse({"user_model": address})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("address", ["openai:org/m:7b@q4@https://a.b/v1/", "http://h:80/reply", "a@b#c.gguf"])
def test_other_names_are_taken(address: str) -> None:
    assert RunParameters.parse({"user_model": address}).user_model == address


def test_no_sentence_shows_a_password() -> None:
    """Whoever quotes an address, also one of a proxy in an error of a library."""
    assert str(CrsError("proxy http://me:hush@p:3128 and 'https://hush@h/v1' are away")) == (
        "proxy http://…@p:3128 and 'https://…@h/v1' are away"
    )
    assert str(CrsError("write to a@b.org, see http://h/v1 or openai:m@http://h")) == (
        "write to a@b.org, see http://h/v1 or openai:m@http://h"
    )


def test_the_help_says_where_keys_go() -> None:
    text = " ".join(CliRunner().invoke(main, ["run", "--help"]).output.split())
    assert "CRS_API_KEY for a server on this machine" in text
    assert "CRS_API_KEY_HOST" in text
