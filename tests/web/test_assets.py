"""Page scripts as one module."""

import re

import pytest

from crslib.web import assets


@pytest.mark.parametrize("name", sorted(path.name for path in assets.PAGE.glob("*.js") if path.name != "element.js"))
def test_a_joined_module_needs_no_other_file(name: str) -> None:
    joined = assets.module("element.js", name)
    assert not re.search(r"^import\b", joined, re.M)
    assert {line[:14] for line in re.findall(r"^export .*", joined, re.M)} <= {"export default"}
    assert "\nfunction element(" in joined
