"""Parameters in their written forms: `name=value` on a command line, YAML files, grids and named conditions."""

import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from crslib import yaml_files
from crslib.config import RunParameters
from crslib.errors import CrsError

_TEXTS = {name for name, field in RunParameters.model_fields.items() if field.annotation is str}


def read_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """The `name=value` arguments of a command line. The value of a parameter that is a text (`data`, `condition`) is
    taken as it stands, with `#`, `:`, quotes and brackets. Another is a number or true or false where it is written as
    one (`0.9`, `2e-3`; `010` is ten), else a word as it stands.

    Raises `CrsError` for an argument without `=`, and for a name that is given twice.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        name = name.strip()
        if not equals:
            raise CrsError(f"{assignment!r} is not a parameter; write name=value")
        if name in values:
            raise CrsError(f"parameter {' '.join(name.split())} is given twice; give it once")
        values[name] = value if name in _TEXTS else _value(value)
    return values


def _value(text: str) -> Any:
    if yaml_files.TRUTH.fullmatch(text):
        return text.lower() == "true"
    if yaml_files.INTEGER.fullmatch(text) and len(text) < 100:
        return int(text)
    number = float(text) if yaml_files.NUMBER.fullmatch(text) else math.nan
    return number if math.isfinite(number) else text  # one that is too large is shown as it was written


def read_parameter_file(path: Path) -> dict[str, Any]:
    """A YAML or JSON file of `name: value`. Raises `CrsError` when it cannot be read or is not a mapping."""
    values = yaml_files.read(path, "parameter file")
    if not isinstance(values, dict):
        raise CrsError(f"{path} must hold lines of the form name: value")
    return {str(name): value for name, value in values.items()}


def read_conditions(path: Path) -> list[dict[str, Any]]:
    """The named conditions of a comparison: a YAML mapping of names to parameters, each with its name as `condition`.

    Raises `CrsError` for fewer than two conditions, and for parameters that are not a mapping.
    """
    values = read_parameter_file(path)
    if len(values) < 2 or not all(isinstance(given, dict) for given in values.values()):
        raise CrsError(f"{path} must hold two or more lines of the form name: {{parameter: value, …}}")
    return [{**given, "condition": name} for name, given in values.items()]


def read_grid(path: Path) -> list[dict[str, Any]]:
    """The conditions of a sweep: a YAML mapping of names to values or lists; every combination of the listed values is
    one condition.

    Raises `CrsError` for an empty list.
    """
    values = read_parameter_file(path)
    axes = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    for name, choices in axes.items():
        if not choices:
            raise CrsError(f"{path}: {name} has no values; give at least one")
    return [dict(zip(axes, combination, strict=True)) for combination in itertools.product(*axes.values())]
