"""What tests with random inputs share: each input gives a right value or one sentence."""

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import settings

from crslib.errors import CrsError


def tries(n: int) -> int:
    """`n` examples of a test in the ordinary suite; in `make fuzz` as many times more as other tests have."""
    return max(n * settings().max_examples // _ORDINARY, 1)


_ORDINARY = 100  # hypothesis's own default, which the suite keeps
SLOW = settings(max_examples=tries(25))
"""For tests of which an example takes long."""


def sentence(call: Callable[[], Any]) -> Any:
    """What `call` gives, or None where it raises one sentence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call()
        except CrsError as error:
            assert str(error).strip()
            assert "\n" not in str(error), str(error)
            return None


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder of its own for one example."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
