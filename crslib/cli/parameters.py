"""Parameters in their written forms: `name=value` on a command line, YAML files, grids and named conditions; and their
part of `--help`."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import click
from pydantic.fields import FieldInfo

from crslib import yaml_files
from crslib.config import (
    EvaluationParameters,
    Parameters,
    ProfileParameters,
    RunParameters,
    SimulationParameters,
)
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


def in_all(conditions: Sequence[Mapping[str, Any]], fixed: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """The `conditions` of the file `path` with the parameters `fixed` in each; what a condition sets itself stands.

    Raises `CrsError` for a parameter that all of them set, because it would do nothing.
    """
    for name in fixed:
        if all(name in condition for condition in conditions):
            raise CrsError(f"-p {name} would do nothing: all conditions of {path} set {name}; give it in one place")
    return [{**fixed, **condition} for condition in conditions]


# ── help ─────────────────────────────────────────────────────────────────────────────────────────────

_STAGES: Mapping[str, type[Parameters]] = {
    "all stages": Parameters,
    "the profiles": ProfileParameters,
    "the simulation": SimulationParameters,
    "the evaluation": EvaluationParameters,
}


def choices(field: FieldInfo) -> list[str]:
    """The values that a parameter can have, where they are few; else none."""
    if field.annotation is bool:
        return ["true", "false"]
    return [str(value) for value in get_args(field.annotation)]


class WithParameters(click.Command):
    """A command with `-p`: its help ends with `parameters`, by stage, each with its default, choices and meaning."""

    parameters: type[Parameters] = RunParameters
    hidden_parameters: tuple[str, ...] = ()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        left = {
            name: field for name, field in self.parameters.model_fields.items() if name not in self.hidden_parameters
        }
        stages = {title: [name for name in kind.model_fields if name in left] for title, kind in _STAGES.items()}
        for title, names in {**stages, "baselines": list(left)}.items():
            if rows := [(f"{name}={_default(left[name])}", _meaning(left.pop(name))) for name in names if name in left]:
                with formatter.section(f"Parameters of {title}"):
                    formatter.write_dl(rows, col_max=28)


def _default(field: FieldInfo) -> str:
    return str(field.default).lower() if isinstance(field.default, bool) else str(field.default)


def _meaning(field: FieldInfo) -> str:
    known = [choice or "empty" for choice in choices(field)]
    return (field.description or "") + (f" [{', '.join(known)}]" if known else "")
