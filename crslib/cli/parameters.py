"""Parameters as people write them: `name=value` on a command line, YAML files, grids and lists of conditions."""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from crslib.errors import CrsError


class _Words(yaml.SafeLoader):
    """YAML in which only true and false are truth values: `off`, `on`, `yes` and `no` are words, as in YAML 1.2."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Words.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def read_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`name=value` words of a command line; values are read as YAML scalars (`0.9`, `true`, `user`)."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise CrsError(f"{assignment!r} is not a parameter; write name=value")
        try:
            values[name.strip()] = yaml.load(value, _Words) if value else ""
        except yaml.YAMLError:
            raise CrsError(f"{value!r} is not a value of {name}; write a number, true, false or a word") from None
    return values


def read_parameter_file(path: Path) -> dict[str, Any]:
    """A YAML or JSON file of `name: value`. Raises `CrsError` when it is missing or not a mapping."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Words)
    except OSError as error:
        raise CrsError(f"cannot read the parameter file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CrsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise CrsError(f"{path} must hold lines of the form name: value")
    return {str(name): value for name, value in values.items()}


def read_conditions(path: Path) -> list[dict[str, Any]]:
    """The named conditions of a comparison: a YAML mapping of names to parameters, each with its name as `condition`.

    Raises `CrsError` for fewer than two, or parameters that are no mapping.
    """
    values = read_parameter_file(path)
    if len(values) < 2 or not all(isinstance(given, dict) for given in values.values()):
        raise CrsError(f"{path} must hold two or more lines of the form name: {{parameter: value, …}}")
    return [{**given, "condition": name} for name, given in values.items()]


def read_grid(path: Path) -> list[dict[str, Any]]:
    """The conditions of a sweep: a YAML mapping in which a list means one condition per value (their product).

    Raises `CrsError` for an empty list.
    """
    values = read_parameter_file(path)
    axes = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    for name, choices in axes.items():
        if not choices:
            raise CrsError(f"{path}: {name} has no values; give at least one")
    return [dict(zip(axes, combination, strict=True)) for combination in itertools.product(*axes.values())]
