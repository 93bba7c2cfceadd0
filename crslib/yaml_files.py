"""YAML files as people mean them (YAML 1.2), read within limits and without silent losses.

Only `true` and `false` are truth values (`off` and `no` are words), `010` is ten, and `1:30` is a text. A key that
stands twice is an error, and so are files that would grow beyond measure.
"""

import re
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from crslib.errors import CrsError

MAX_BYTES, MAX_DEPTH, MAX_NODES = 1 << 18, 32, 100_000
_MERGE = "tag:yaml.org,2002:merge"
T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """The core schema of YAML 1.2, which has no dates and no numbers to bases of 8 and 60 in disguise."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in ("null", "merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


INTEGER = re.compile(r"[-+]?[0-9]+")
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
TRUTH = re.compile("true|True|TRUE|false|False|FALSE")
for _name, _pattern, _first in (
    ("bool", TRUTH, "tTfF"),
    ("int", INTEGER, "-+0123456789"),
    ("float", NUMBER, "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern.pattern})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: _integer(loader.construct_scalar(node)))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(loader.construct_scalar(node)))


def _integer(text: str) -> int:
    if len(text) > 100:
        raise ValueError(f"{text[:20]}… is a number of {len(text)} digits; at most 100 are read")
    return int(text)


def read(path: Path, what: str = "file") -> Any:
    """The content of a YAML (or JSON) file; `what` names its kind in errors.

    Raises `CrsError` when it cannot be read, is not YAML, has a key twice in one mapping, or exceeds the limits of
    size (`MAX_BYTES`), depth and, with all aliases followed, number of nodes.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise CrsError(f"the {what} {path} is larger than {MAX_BYTES >> 10} KiB; split it or shorten it")
        text = raw.decode("utf-8-sig")
        _check_depth(text, path)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(node, path, {})
        return loader.construct_document(node)
    except OSError as error:
        raise CrsError(f"cannot read the {what} {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise CrsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def read_as(path: Path, kind: TypeAdapter[T], what: str = "file") -> T:
    """The content of a YAML file as `kind`. Raises `CrsError` as `read` does, and for the first part that is not."""
    try:
        return kind.validate_python(read(path, what))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its content"
        message = first["msg"].removeprefix("Value error, ")
        raise CrsError(f"in {path} {where} is not valid: {message[:1].lower()}{message[1:]}") from None


def _check_depth(text: str, path: Path) -> None:
    depth = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1
            raise CrsError(f"{path} is nested more than {MAX_DEPTH} deep in line {line}; write it flatter")


def _check_node(node: yaml.Node, path: Path, sizes: dict[int, int]) -> int:
    """How many nodes `node` stands for. `sizes`: those of nodes seen before, by identity; 0 while one is counted."""
    if (known := sizes.get(id(node))) is not None:
        if known == 0:
            raise CrsError(f"{path} has an alias of something that contains it; write it out")
        return known
    sizes[id(node)] = 0
    size = 1
    if isinstance(node, yaml.MappingNode):
        _check_keys(node, path)
        size += sum(_check_node(part, path, sizes) for pair in node.value for part in pair)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_check_node(part, path, sizes) for part in node.value)
    if size > MAX_NODES:
        raise CrsError(f"{path} stands for more than {MAX_NODES:,} values, aliases followed; write fewer")
    sizes[id(node)] = size
    return size


def _check_keys(node: yaml.MappingNode, path: Path) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
            line = key.start_mark.line + 1
            if key.value in lines:
                where = f"in lines {lines[key.value]} and {line}" if lines[key.value] != line else f"in line {line}"
                raise CrsError(f"{path} has {key.value!r} twice, {where}; remove or rename one")
            lines[key.value] = line
