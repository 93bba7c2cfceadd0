"""Parameters: strict types, helpful refusals, and notebooks that repeat them faithfully."""

from pathlib import Path

import polars as pl
import pytest

from crslib import schemas
from crslib.cli.parameters import in_all, read_assignments, read_grid, read_parameter_file
from crslib.config import RunParameters, SimulationParameters, n_threads
from crslib.errors import CrsError


def test_a_misspelt_name_gets_a_suggestion() -> None:
    with pytest.raises(CrsError, match="unknown parameter 'temperatur': did you mean 'temperature'"):
        RunParameters.parse({"temperatur": 0.5})
    with pytest.raises(CrsError, match="unknown parameter 'zzz': known are baseline, condition, data"):
        RunParameters.parse({"zzz": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", "hot"), ("temperature", -1), ("n_profiles", 0), ("n_profiles", 2.5), ("n_profiles", "7"),
     ("memory", "no idea"), ("memory", 1), ("opener", "nobody"), ("holdout_share", 1.0), ("width", 0),
     ("seed", -1), ("seed", 1 << 63)],
)  # fmt: skip
def test_wrong_values_are_named(name: str, value: object) -> None:
    with pytest.raises(CrsError, match=f"^parameter {name} = {value!r} is not valid: ") as caught:
        RunParameters.parse({name: value})
    assert "\n" not in str(caught.value)


def test_choices_are_named_as_they_must_be_written() -> None:
    sentence = "parameter weights = 'q8_0' is not valid: input should be 'fastest', 'Q8_0', 'BF16', 'F16', 'Q4_0' or"
    with pytest.raises(CrsError) as caught:
        RunParameters.parse({"weights": "q8_0"})
    assert str(caught.value) == f"{sentence} 'as they are'"


def test_the_widest_seed_is_stored() -> None:
    seed = RunParameters.parse({"seed": (1 << 63) - 1}).seed
    assert pl.Series([seed], dtype=schemas.TABLES["dialogues"]["seed"]).to_list() == [seed]


def test_an_integer_will_do_for_a_float() -> None:
    assert RunParameters.parse({"temperature": 1}).temperature == 1.0
    assert RunParameters.parse({"temperature": 1}).identity() == RunParameters.parse({"temperature": 1.0}).identity()


def test_words_of_a_command_line() -> None:
    words = ["temperature=0.9", "memory=false", "opener=user", "user_adapter=", "condition=a=b"]
    expected = {"temperature": 0.9, "memory": False, "opener": "user", "user_adapter": "", "condition": "a=b"}
    assert read_assignments(words) == expected
    with pytest.raises(CrsError, match="'temperature' is not a parameter; write name=value"):
        read_assignments(["temperature"])
    with pytest.raises(CrsError, match="parameter seed is given twice"):
        read_assignments(["seed=1", "seed=2"])


def test_texts_of_a_command_line_are_taken_as_they_stand() -> None:
    words = ["data=D/set #2", "condition=010", "styles=a: [b", "human='q'", "user_model=1:30", "redial=~"]
    expected = {"data": "D/set #2", "condition": "010", "styles": "a: [b", "human": "'q'", "user_model": "1:30"}
    assert read_assignments(words) == {**expected, "redial": "~"}


def test_numbers_of_a_command_line_are_as_people_mean_them() -> None:
    words = ["seed=010", "max_turns=1:30", "temperature=2e-1", "top_p=.5", "min_p=1_0", "width=0x10", "n_ctx=+900"]
    expected = {"seed": 10, "max_turns": "1:30", "temperature": 0.2, "top_p": 0.5, "min_p": "1_0", "width": "0x10"}
    assert read_assignments(words) == {**expected, "n_ctx": 900}


def test_off_is_a_word(tmp_path: Path) -> None:
    """YAML 1.1 reads it as false."""
    assert read_assignments(["grounding=off", "memory=true"]) == {"grounding": "off", "memory": True}
    grid = tmp_path / "grid.yaml"
    grid.write_text("grounding: [prior, off]\nmemory: [false]\n", encoding="utf-8")
    assert [point["grounding"] for point in read_grid(grid)] == ["prior", "off"]
    assert {point["memory"] for point in read_grid(grid)} == {False}
    assert SimulationParameters.parse(read_assignments(["grounding=off"])).grounding == "off"


def test_parameter_files(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("temperature: 0.5\nopener: user\n")
    assert read_parameter_file(file) == {"temperature": 0.5, "opener": "user"}
    file.write_text("just words")
    with pytest.raises(CrsError, match="must hold lines of the form name: value"):
        read_parameter_file(file)
    file.write_text("a: [1,\nb: }")
    with pytest.raises(CrsError, match="is not YAML") as caught:
        read_parameter_file(file)
    assert "\n" not in str(caught.value)
    with pytest.raises(CrsError, match="cannot read the parameter file"):
        read_parameter_file(tmp_path / "none.yaml")


def test_a_grid_is_the_product_of_its_lists(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text("temperature: [0.5, 1.0]\nmemory: [true, false]\nn_profiles: 8\n")
    points = read_grid(file)
    assert len(points) == 4
    assert points[1] == {"temperature": 0.5, "memory": False, "n_profiles": 8}
    file.write_text("temperature: []\n")
    with pytest.raises(CrsError, match="temperature has no values"):
        read_grid(file)


def test_what_a_condition_sets_itself_is_not_overwritten_by_what_all_have() -> None:
    """It would make the condition another one under its name, in silence."""
    points = [{"condition": "a"}, {"condition": "b", "user_adapter": ""}, {"condition": "c", "n_profiles": 4}]
    fixed = {"user_adapter": "mine.gguf", "n_profiles": 64}
    assert in_all(points, fixed, Path("c.yaml")) == [
        {"condition": "a", "user_adapter": "mine.gguf", "n_profiles": 64},
        {"condition": "b", "user_adapter": "", "n_profiles": 64},
        {"condition": "c", "user_adapter": "mine.gguf", "n_profiles": 4},
    ]
    with pytest.raises(CrsError, match=r"-p seed would do nothing: all conditions of g.yaml set seed; give it in one"):
        in_all([{"seed": 0}, {"seed": 1}], {"seed": 7}, Path("g.yaml"))


def test_identity_leaves_out_what_does_not_change_the_text() -> None:
    one, other = SimulationParameters(threads=1), SimulationParameters(threads=2)
    assert one.identity() == other.identity()
    assert SimulationParameters(width=4).identity() != SimulationParameters(width=8).identity()
    assert "user_model" not in one.identity()  # its hash is in the engine's identity instead


def test_paths_are_meant_from_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.gguf").touch()
    located = RunParameters.parse({"user_model": "mine.gguf", "user_adapter": ""}).located()
    assert located.user_model == str(tmp_path / "mine.gguf")
    assert (located.user_adapter, located.recommender_model, located.data) == ("", "smollm2", "data")


def test_a_baseline_has_its_own_name_unless_given_another() -> None:
    assert RunParameters.parse({}).condition == "interplay"
    assert RunParameters.parse({"baseline": "user-target"}).condition == "user-target"
    assert RunParameters.parse({"baseline": "scripted", "grounding": "off"}).condition == "scripted"
    assert RunParameters.parse({"baseline": "scripted"}).condition == "scripted-grounded"
    assert RunParameters.parse({"baseline": "scripted", "condition": "mine"}).condition == "mine"
    assert list(RunParameters.parse({"baseline": "scripted"}).stages) == ["01_profiles", "02_baselines", "03_evaluate"]


def test_no_threads_means_all_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {3, 5, 7}, raising=False)
    assert (n_threads(0), n_threads(2)) == (3, 2)
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert n_threads(0) == 6
    monkeypatch.setattr("os.cpu_count", lambda: None)  # where the system does not say
    assert n_threads(0) == 1
