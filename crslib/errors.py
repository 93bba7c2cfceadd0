"""The one exception users meet: a sentence that names the value, the rule it breaks and the remedy."""

import re

_NAME_IN_ADDRESS = re.compile(r"://[^\s/@'\"]*@")


class CrsError(Exception):
    """Bad input or an impossible request. `str(error)` is one sentence for the person at the keyboard. A name and a
    password in an address that it quotes are not shown."""

    def __init__(self, sentence: str = "") -> None:
        super().__init__(_NAME_IN_ADDRESS.sub("://…@", sentence))
