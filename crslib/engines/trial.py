"""Whether llama.cpp computes on this processor: tried in a process of its own, because it may end the process.

A library that was compiled for one processor ends with SIGILL on another that lacks an instruction: in an environment
that was copied, or that the nodes of a cluster share.
"""

import shlex
import signal
import subprocess
import sys

from crslib.config import BUILT_IN, ROOT

_PIP = (sys.executable, "-m", "pip", "install", "--force-reinstall", "--no-cache-dir", "--no-deps")
REINSTALL = shlex.join([*_PIP, "--constraint", str(ROOT / "constraints.txt"), "llama-cpp-python"])
"""The command that compiles the library again, here."""
_TRIAL = """
import sys
from crslib.engines import llama
model = llama.Model(llama.model_path(sys.argv[1]))
llama.all_logits(model, None, model.encode("a few words that are long enough for a batch " * 8), threads=2)
"""


def fault(model: str = BUILT_IN) -> str:
    """What ended the process in which `model` (as `llama.model_path` takes it) read a text; empty where nothing did,
    or what did is an error with a sentence of its own."""
    ended = subprocess.run([sys.executable, "-c", _TRIAL, model], capture_output=True, stdin=subprocess.DEVNULL)
    if ended.returncode >= 0:
        return ""
    return (
        f"llama.cpp ends with {signal.Signals(-ended.returncode).name} on this processor, for which it was perhaps not "
        "compiled"
    )
