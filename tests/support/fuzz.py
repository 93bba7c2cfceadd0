"""What tests with random inputs share: each input gives a right value or one sentence."""

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import settings

from crslib.errors import CrsError

SLOW = settings(max_examples=max(settings().max_examples // 4, 1))
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
