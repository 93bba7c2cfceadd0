"""Parameters in their written forms: `name=value` on a command line, YAML files, grids and named conditions."""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from crslib.errors import CrsError


class _Yaml12(yaml.SafeLoader):
    """YAML in which only true and false are booleans; `off`, `on`, `yes` and `no` are texts, as in YAML 1.2."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def read_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """The `name=value` arguments of a command line; values are read as YAML scalars (`0.9`, `true`, `user`). Raises
    `CrsError` for an argument without `=`, and for a value that is not YAML."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise CrsError(f"{assignment!r} is not a parameter; write name=value")
        try:
            values[name.strip()] = yaml.load(value, _Yaml12) if value else ""
        except yaml.YAMLError:
            raise CrsError(f"{value!r} is not a value of {name}; write a number, true, false or a word") from None
    return values


def read_parameter_file(path: Path) -> dict[str, Any]:
    """A YAML or JSON file of `name: value`. Raises `CrsError` when it cannot be read or is not a mapping."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Yaml12)
    except OSError as error:
        raise CrsError(f"cannot read the parameter file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CrsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
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
