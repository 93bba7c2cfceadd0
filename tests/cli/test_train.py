"""`crs train` on a few real-model steps: a run can use the adapter."""

import contextlib
import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("safetensors", reason="needs the extra train")

from crslib.cli.main import main
from crslib.data.corpora import redial
from crslib.dialogue.templates import ChatTemplate
from crslib.engines import llama
from crslib.identity import file_sha256
from crslib.store import Run
from crslib.training import examples
from crslib.training.knowledge import Knowledge
from tests.support.domains import MOVIES
from tests.support.tiny_redial import write


@pytest.mark.model
@pytest.mark.notebook
def test_a_run_uses_the_adapter_of_the_command(tmp_path: Path) -> None:
    corpus, to = write(tmp_path / "redial" / "train.jsonl").parent, tmp_path / "user"
    command = ["train", "user", "--redial", str(corpus), "--limit", "5", "--epochs", "2", "--to", str(to)]
    done = CliRunner().invoke(main, [*command, "--validation", "0", "--lr", "0.001", "--without", "notes"])
    assert done.exit_code == 0, done.output
    log = pl.read_parquet(to / "log.parquet")
    assert log["loss"][-1] < log["loss"][0]
    figures = json.loads((to / "figures.json").read_text(encoding="utf-8"))
    assert figures["examples"] == 5
    with contextlib.closing(llama.Model(llama.model_path(llama.BUILT_IN))) as model:
        dialogues, template = redial.read(corpus, "train")[:5], ChatTemplate(*model.chat_template)
        known = Knowledge(redial.items(), redial.read(corpus, "train"), MOVIES)
        whole, bare = (
            examples.examples(dialogues, "user", model, template, known, without=without)
            for without in ((), ("notes",))
        )
    assert figures["tokens"] == 2 * examples.count(bare)["tokens"] < 2 * examples.count(whole)["tokens"]
    card = (to / "README.md").read_text(encoding="utf-8")
    assert "`crs train user --redial redial --limit 5 --epochs 2 --lr 0.001 --validation 0.0 --without notes`" in card
    assert "5 dialogues of ReDial" in card and str(tmp_path) not in card
    short = {"user_adapter": to / "user.gguf", "weights": "Q8_0", "n_profiles": 2, "max_turns": 2, "max_tokens": 8}
    short |= {"n_ctx": 512, "width": 2, "n_bootstrap": 100, "title_model": 0, "title_base": 0}  # no title is read
    given = [word for name, value in short.items() for word in ("-p", f"{name}={value}")]
    simulated = CliRunner().invoke(main, ["run", *given, "--reports", str(tmp_path / "reports")])
    assert simulated.exit_code == 0, simulated.output
    (run_folder,) = (tmp_path / "reports" / "runs").iterdir()
    assert Run(run_folder).info["agents"]["user"]["adapter_sha256"] == file_sha256(to / "user.gguf")
    assert Run(run_folder).read("turns").filter(role="user")["n_tokens"].sum() > 0


def test_a_folder_without_redial_is_refused(tmp_path: Path) -> None:
    refused = CliRunner().invoke(main, ["train", "user", "--redial", str(tmp_path), "--to", str(tmp_path / "to")])
    assert refused.exit_code == 1
    assert "has no file train*.jsonl" in refused.output


def test_an_ablation_of_the_recommender_is_refused() -> None:
    refused = CliRunner().invoke(main, ["train", "recommender", "--without", "notes"])
    assert refused.exit_code == 1
    assert "crs: without = 'notes' is for user and user-target; leave it out" in refused.output
