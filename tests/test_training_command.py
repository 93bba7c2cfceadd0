"""`crs train` and its notebook on a few real-model steps: an adapter comes of it that a simulation runs on."""

import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("safetensors", reason="needs the extra train")

from crslib import pipeline
from crslib.cli import main
from crslib.config import SimulationParameters
from crslib.engines.base import Request, complete
from crslib.simulate import open_engines

pytestmark = pytest.mark.model


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in ReDial's schema with six short dialogues. Without a compiler: compiling would take far longer."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    lines = []
    for number in range(6):
        seeker, other, film = 2 * number, 2 * number + 1, str(100 + number)
        said = [(other, "Hello! What do you like?"), (seeker, f"Something like @{film}"), (other, f"Then try @{film}9")]
        answers = {film: {"suggested": 0, "seen": 1, "liked": 1}, f"{film}9": {"suggested": 1, "seen": 0, "liked": 1}}
        record = {
            "conversationId": str(number),
            "initiatorWorkerId": seeker,
            "respondentWorkerId": other,
            "messages": [
                {"senderWorkerId": who, "text": text, "timeOffset": n, "messageId": n}
                for n, (who, text) in enumerate([*said, (seeker, "I have not seen it. Thank you!")])
            ],
            "movieMentions": {film: f"Quiet Sea {number} (1999)", f"{film}9": f"Loud Sea {number} (2004)"},
            "initiatorQuestions": answers,
            "respondentQuestions": answers,
        }
        lines.append(json.dumps(record))
    (tmp_path / "redial").mkdir()
    (tmp_path / "redial" / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "redial"


def test_an_adapter_of_the_command_speaks(corpus: Path, tmp_path: Path) -> None:
    to = tmp_path / "user"
    command = ["train", "user", "--redial", str(corpus), "--limit", "5", "--epochs", "2", "--to", str(to)]
    done = CliRunner().invoke(main, [*command, "--validation", "0", "--lr", "0.001"])
    assert done.exit_code == 0, done.output
    log = pl.read_parquet(to / "log.parquet")
    assert log["loss"][-1] < log["loss"][0]
    figures = json.loads((to / "figures.json").read_text(encoding="utf-8"))
    assert figures["examples"] == 5
    talk = SimulationParameters(user_adapter=str(to / "user.gguf"), weights="as they are", max_tokens=8, width=2)
    with open_engines(talk) as (user, _):
        (said,) = complete(user, [Request("a", tuple(user.encode("hello")), 1)])
    assert said.ids
    again = CliRunner().invoke(main, ["train", "user", "--redial", str(tmp_path), "--to", str(to)])
    assert again.exit_code == 1
    assert "has no file train*.jsonl" in again.output


def test_the_notebook_trains(corpus: Path, tmp_path: Path) -> None:
    given = {"role": "recommender", "redial": str(corpus), "epochs": 1, "validation": 0.3, "to": str(tmp_path / "to")}
    (tmp_path / "run").mkdir()
    pipeline.execute_notebook("06_train", tmp_path / "run", given)
    assert (tmp_path / "to" / "recommender.gguf").stat().st_size < 8 << 20
    figures = json.loads((tmp_path / "to" / "figures.json").read_text(encoding="utf-8"))
    assert figures["validation_examples"] > 0
    assert set(figures["after"]) == {"all", "text", "title", "end"}
