"""The one exception users meet: a sentence that names the value, the rule it breaks and the remedy."""


class CrsError(Exception):
    """Bad input or an impossible request. `str(error)` is one sentence for the person at the keyboard."""
