"""The parameters of the notebooks, as their typed classes say: `notebooks/README.md`, and the parameters cells.

`python -m crslib.experiments.notebooks` writes both again; a test holds them against the classes.
"""

import json
from collections.abc import Mapping
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from crslib.config import NOTEBOOKS, ROOT, OwnParameters, Parameters, PeopleParameters, QuickstartParameters
from crslib.files import writing
from crslib.reporting import text
from crslib.training.parameters import TrainingParameters

PARAMETERS: Mapping[str, type[Parameters]] = {
    "00_quickstart": QuickstartParameters,
    **NOTEBOOKS,
    "05_people": PeopleParameters,
    "06_train": TrainingParameters,
    "07_your_own": OwnParameters,
}
"""All notebooks with typed parameters. `04_compare` and `04_sweep` have one, the folder of the sweep."""
FOLDER = "notebooks"
_RUN_DIR = 'run_dir: str = ""  # the run\'s folder; empty: reports/by-hand'
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_WITHOUT_RUN = ("05_people", "06_train")
_INTRO = """# Notebooks

Each notebook answers the question in its title; its cells only call the library and show. `crs run`, `crs sweep` and
`crs compare` execute them with papermill and leave the executed copies in the run's folder. `make lab` opens copies in
JupyterLab, in `reports/lab`. By hand, with any of the parameters below:

    papermill notebooks/03_evaluate.ipynb out.ipynb -p run_dir ../reports/latest -p n_bootstrap 500 --cwd notebooks

`run_dir` is the run's folder (empty: `reports/by-hand`), `sweep_dir` that of a sweep (empty: the newest below
`reports/sweeps`). `crs run -p name=value` takes the parameters of 01, 02 and 03 together; `crs run --help` lists them.

"""
_END = """
This table is made from the classes in `crslib/config.py` and `crslib/training/parameters.py` by
`python -m crslib.experiments.notebooks`.
"""


def parameters_cell(name: str) -> str:
    """The parameters cell of notebook `name`."""
    lines = [] if name in _WITHOUT_RUN else [_RUN_DIR]
    for field, info in _fields(name).items():
        lines.append(f"{field}: {_plain_type(info)} = {_default(info)}  # {info.description}")
    return "\n".join(lines)


def documented() -> str:
    """The contents of `notebooks/README.md`: a row per parameter, with the notebooks that have it."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name in PARAMETERS:
        for field, info in _fields(name).items():
            row = f"`{field}`", f"`{_default(info)}`", _values(info), info.description or ""
            rows.setdefault(row, []).append(name)
    heads = ("parameter", "default", "values", "meaning", "notebooks")
    numbers = [(*row, ", ".join(names)) for row, names in rows.items()]
    return _INTRO + text.markdown(heads, numbers) + "\n" + _END


def _fields(name: str) -> dict[str, FieldInfo]:
    """The parameters of a notebook, the seed last."""
    return dict(sorted(PARAMETERS[name].model_fields.items(), key=lambda field: field[0] == "seed"))


def _plain_type(info: FieldInfo) -> str:
    """The type of a parameter as a notebook writes it: the choices of one are texts, the items of a list any."""
    if get_origin(info.annotation) is Literal:
        return type(get_args(info.annotation)[0]).__name__
    return getattr(get_origin(info.annotation) or info.annotation, "__name__", "str")


def _default(info: FieldInfo) -> str:
    return json.dumps(info.default, ensure_ascii=False) if isinstance(info.default, str) else repr(info.default)


def _values(info: FieldInfo) -> str:
    """The values of a parameter: its choices, or its type with its bounds."""
    if get_origin(info.annotation) is Literal:
        return ", ".join(f"`{choice}`" if choice != "" else "empty" for choice in get_args(info.annotation))
    bounds = [
        f"{sign} {bound:,}"
        for rule in info.metadata
        for name, sign in _SIGNS.items()
        if (bound := getattr(rule, name, None)) is not None and bound < 1 << 31
    ]
    return " ".join([_plain_type(info), *bounds])


def write() -> None:
    """Writes `notebooks/README.md` and the parameters cells of the notebooks."""
    with writing(ROOT / FOLDER / "README.md") as temporary:
        temporary.write_text(documented(), encoding="utf-8")
    for name in PARAMETERS:
        path = ROOT / FOLDER / f"{name}.ipynb"
        notebook = json.loads(path.read_text(encoding="utf-8"))
        (cell,) = (cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", []))
        cell["source"] = parameters_cell(name).replace("\n", "\n\0").split("\0")
        with writing(path) as temporary:
            temporary.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
