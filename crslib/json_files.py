"""JSON that programs wrote, read back strictly: what is not as it should be is said in one sentence.

`yaml_files` is the same for files that people write.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from crslib.errors import CrsError

T = TypeVar("T")


def parse(text: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Raises `ValueError` with the reason for anything else, also for what JSON can spell and no file can hold: numbers
    that are infinite, half of a surrogate pair, nesting more than 200 deep.
    """
    value = from_json(text, allow_inf_nan=False)
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:  # 1e999
        raise ValueError("a number is infinite") from None
    return value


def read_as(path: Path, kind: TypeAdapter[T], remedy: str) -> T:
    """The content of a JSON file as `kind`; `remedy` ends the sentence of an error: how to get the file anew.

    Raises `CrsError` when it cannot be read, is not JSON, or for the first part that is not of its type.
    """
    try:
        text = path.read_bytes()
        parse(text)
        return kind.validate_json(text)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except ValidationError as error:
        reason = fault(error)
    except ValueError as error:
        reason = f"it is not JSON: {error}"
    raise CrsError(f"{path} is not readable ({reason}); {remedy}")


def fault(error: ValidationError) -> str:
    """The first fault that a validation found: where it is and what is wrong."""
    first = error.errors(include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "its content"
    return f"{where} is not valid: {first['msg'][:1].lower()}{first['msg'][1:]}"
