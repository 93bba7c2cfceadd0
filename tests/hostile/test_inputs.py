"""Hostile inputs: each of `inputs.yaml` gives its sentence or value, and every kind of the campaign has its tests."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel, ConfigDict, TypeAdapter

from crslib.cli.main import main
from crslib.cli.parameters import read_assignments
from crslib.config import ROOT, RunParameters
from crslib.data.corpora import redial
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.views import Message
from crslib.engines import preparation, weights
from crslib.engines.scripted import ScriptedEngine
from crslib.errors import CrsError
from crslib.experiments import pipeline
from crslib.metrics import reference

HERE = Path(__file__).parent
BOMB = "a0: &a0 [" + "x," * 9 + "]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]\n" for n in range(1, 9))
FILLED = {"{long}": "x" * 5000, "{digits}": "9" * 5000, "{nest}": "[" * 5000, "{bomb}": BOMB}


class Input(BaseModel):
    """One entry of `inputs.yaml`."""

    model_config = ConfigDict(extra="forbid", strict=True)
    n: int
    files: Mapping[str, str] = {}
    words: list[str] = []
    status: int = 1
    says: str = ""
    never: list[str] = []
    given: list[str] = []
    value: Mapping[str, Any] = {}

    def __str__(self) -> str:
        return f"{self.n}: {' '.join([*self.words, *self.given, *self.files.values()])[:80]!r}"


INPUTS = TypeAdapter(list[Input]).validate_python(yaml.safe_load((HERE / "inputs.yaml").read_text(encoding="utf-8")))


@pytest.fixture(scope="session")
def cases() -> Path:
    """Folder of inputs that are no part of the project; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("CRS_CASES", ROOT.parent / "shared" / "cases"))
    if not folder.is_dir():
        pytest.skip(f"no inputs at {folder}; set CRS_CASES to the folder that holds them")
    return folder


def filled(text: str) -> str:
    for name, by in FILLED.items():
        text = text.replace(name, by)
    return text


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that could start says so, and no weights are measured."""

    def stop(*given: Any) -> None:
        raise CrsError("PLANNED")

    monkeypatch.setattr(pipeline, "execute", stop)
    monkeypatch.setattr(preparation, "best", lambda *given: "Q8_0")


@pytest.mark.parametrize("case", [one for one in INPUTS if one.words], ids=str)
def test_an_input_gives_its_sentence(
    case: Input, stopped: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    words = [filled(word) for word in case.words]
    if any("{cases}" in word for word in words):
        words = [word.replace("{cases}", str(request.getfixturevalue("cases"))) for word in words]
    monkeypatch.chdir(tmp_path)
    for name, text in case.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(filled(text), encoding="utf-8")
    result = CliRunner().invoke(main, words)
    assert result.exit_code == case.status, result.output
    assert isinstance(result.exception, SystemExit | None)
    assert case.says in result.output
    assert not [text for text in case.never if text in result.output]
    if case.status == 1:
        assert result.stderr.startswith("crs: ")
        assert result.stderr.count("\n") == 1
        assert len(result.stderr) < 1500
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")} - {"out"} == {
        Path(name).parts[0] for name in case.files
    }, "nothing is left behind"


@pytest.mark.parametrize("case", [one for one in INPUTS if one.given], ids=str)
def test_a_value_is_read_as_people_mean_it(case: Input) -> None:
    parameters = RunParameters.parse(read_assignments(case.given))
    read = {name: getattr(parameters, name) for name in case.value}
    assert read == case.value
    assert [type(one) for one in read.values()] == [type(one) for one in case.value.values()]


# ── inputs that are no words of a command ───────────────────────────────────────────────────────────────────────


def test_1_templates_without_a_system_role_or_with_lists_of_parts(cases: Path) -> None:
    script = (cases / "06-system-role-dropped/make.sh").read_text(encoding="utf-8")
    sources = dict(re.findall(r'make "\$tool" "(.*?)" "\$base" "\$2/([\w-]+)\.gguf"', script, re.DOTALL))
    prompts = {}
    engine = ScriptedEngine(lambda prompt, seed: "")
    view = [Message("system", "You enjoy westerns."), Message("user", "Hi"), Message("assistant", "Yo")]
    for source, name in sources.items():
        prompts[name] = engine.decode(ChatTemplate(source).encode([*view, Message("user", "Ok")], engine))
    said = "<|im_start|>assistant\nYo<|im_end|>\n"
    begun = "<|im_start|>assistant\n"
    system = "<|im_start|>system\nYou enjoy westerns.<|im_end|>\n"
    first = "<|im_start|>user\n"
    assert {name: prompt.replace("\n\n", "\n") for name, prompt in prompts.items()} == {
        "no-system": f"{first}You enjoy westerns.\nHi<|im_end|>\n{said}{first}Ok<|im_end|>\n{begun}",
        "content-parts": f"{system}{first}Hi<|im_end|>\n{said}{first}Ok<|im_end|>\n{begun}",
        "system-last": f"{first}Hi<|im_end|>\n{said}{first}You enjoy westerns.\nOk<|im_end|>\n{begun}",
    }


def test_2_redial_as_on_the_hub(cases: Path) -> None:
    folder = cases / "05-redial-from-huggingface"
    (one,) = redial.read_file(folder / "train_no_questions.jsonl")
    assert [turn.text for turn in one.turns] == [
        "Hi, I liked [[Quiet Harbour (1996)]] a lot",
        "Then try [[A Long Winter (1997)]]",
        "Thanks, bye",
    ]
    assert {item.name for item in one.items.values()} == {"Quiet Harbour (1996)", "A Long Winter (1997)"}
    (other,) = redial.read_file(folder / "train_with_questions.jsonl")
    assert {item.name: (item.suggested, item.seen, item.liked) for item in other.items.values()} == {
        "Quiet Harbour (1996)": (False, True, True),
        "A Long Winter (1997)": (True, False, None),  # 2: did not say
    }


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("x_nan", "has values in blk.0.attn_q.weight that are no numbers"),
        ("x_only_a", "has no blk.0.attn_q.weight.lora_b: half of a pair is missing"),
        ("x_rank", "has matrices of blk.0.attn_q.weight that cannot be multiplied"),
    ],
)
def test_41_adapters_that_are_not_whole(name: str, fault: str, cases: Path) -> None:
    with pytest.raises(CrsError, match=re.escape(fault)):
        weights.check_adapter(cases / f"h15-adapter-files/{name}.gguf")


def test_18_the_folder_of_human_statistics_is_no_pattern(tmp_path: Path) -> None:
    for name, rows in (("set1", 1), ("set[12]", 3)):
        (tmp_path / name).mkdir()
        for path in (ROOT / "data/human").iterdir():
            if path.suffix == ".parquet" and path.stem == "acts":
                pl.read_parquet(path).head(rows).write_parquet(tmp_path / name / path.name)
            elif path.is_file():
                (tmp_path / name / path.name).symlink_to(path)
    assert reference.read(tmp_path / "set[12]").acts.height == 3


# ── the map ─────────────────────────────────────────────────────────────────────────────────────────────────────

ROWS = re.findall(
    r"^\| (\d+)\w? \| (.+?) \| (.+) \|$", (HERE / "CAMPAIGN.md").read_text(encoding="utf-8"), re.MULTILINE
)
NODES = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", " ".join(tests for *_, tests in ROWS))


def test_every_kind_has_a_row() -> None:
    assert {int(number) for number, *_ in ROWS} == set(range(1, 56))


@pytest.mark.parametrize(("file", "name"), sorted(set(NODES)), ids="::".join)
def test_every_test_of_the_map_exists(file: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_input_is_in_the_map() -> None:
    mapped = {int(number) for number, _, tests in ROWS if "inputs.yaml" in tests}
    assert {one.n for one in INPUTS} == mapped
