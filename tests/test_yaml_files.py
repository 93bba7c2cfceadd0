"""YAML files: what a value is, what is refused, and that nothing is lost in silence."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from crslib.cli.parameters import read_conditions, read_grid, read_parameter_file
from crslib.errors import CrsError
from crslib.yaml_files import MAX_BYTES, MAX_DEPTH, read


def write(folder: Path, text: str) -> Path:
    (folder / "f.yaml").write_text(text, encoding="utf-8")
    return folder / "f.yaml"


@pytest.mark.parametrize(
    ("text", "value"),
    [("off", "off"), ("no", "no"), ("true", True), ("False", False), ("010", 10), ("-7", -7), ("1:30", "1:30"),
     ("2e-3", 0.002), (".5", 0.5), ("1_000", "1_000"), ("0x1f", "0x1f"), ("2001-01-01", "2001-01-01"), ("~", None),
     ("null", None), ("'010'", "010"), ("[1, off]", [1, "off"])],
)  # fmt: skip
def test_values_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: Any) -> None:
    read_back = read(write(tmp_path, text))
    assert (read_back, type(read_back)) == (value, type(value))


def test_two_keys_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match=r"has 'seed' twice, in lines 1 and 2; remove or rename one"):
        read_parameter_file(write(tmp_path, "seed: 1\nseed: 2\n"))
    with pytest.raises(CrsError, match=r"has 'a' twice, in lines 1 and 2"):
        read_conditions(write(tmp_path, "a: {}\na: {temperature: 0.9}\nb: {temperature: 0.1}\n"))
    with pytest.raises(CrsError, match=r"has 'x' twice, in line 1"):
        read_grid(write(tmp_path, "a: {x: 1, x: 1}\n"))
    merged = write(tmp_path, "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert read(merged)["b"] == {"x": 3, "y": 2}  # what a key merged in says may be said anew


def test_aliases_that_grow_beyond_measure_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    with pytest.raises(CrsError, match="stands for more than 100,000 values"):
        read(write(tmp_path, "\n".join(lines)))
    with pytest.raises(CrsError, match="an alias of something that contains it"):
        read(write(tmp_path, "&a [*a]"))


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 5000, "- " * 5000 + "x", "[" * 5000 + "]" * 5000])
def test_deep_nesting_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CrsError, match=f"is nested more than {MAX_DEPTH} deep in line 1; write it flatter"):
        read(write(tmp_path, text))


def test_large_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match="is larger than 256 KiB"):
        read(write(tmp_path, "#" * (MAX_BYTES + 1)))
    (tmp_path / "f.yaml").write_bytes(b"a: \xff")
    with pytest.raises(CrsError, match="is not YAML"):
        read(tmp_path / "f.yaml")
    with pytest.raises(CrsError, match="cannot read the grid"):
        read(tmp_path, "grid")


@given(st.one_of(st.text(max_size=60), st.text("[]{}:,-&*a1!<|>\"'#\n ?", max_size=60)))
def test_any_text_gives_a_value_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        read(file)
    except CrsError as error:
        assert "\n" not in str(error)


@given(st.dictionaries(st.text("abc", min_size=1), st.lists(st.one_of(st.integers(), st.text(), st.booleans()))))
def test_what_yaml_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    file = tmp_path_factory.getbasetemp() / "written.yaml"
    file.write_text(yaml.safe_dump(values, default_style='"'), encoding="utf-8")
    assert read(file) == values
