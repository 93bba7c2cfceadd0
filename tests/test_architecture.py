"""The shape of the project: imports point one way, notebooks only call and show."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from crslib.config import NOTEBOOKS, ROOT, PeopleParameters, QuickstartParameters, TrainingParameters

# From the foundations up: a module may import from rows above its own and from its own package, never from below.
LAYERS = [
    ["errors", "identity", "wording"],
    ["config", "schemas"],
    ["store"],
    ["chat"],
    ["baselines", "spoilt"],
    ["acts", "catalog", "histories", "corpora", "crslab"],
    ["datasets", "opinions", "engines", "stats", "ranking", "grounding"],
    ["profiles", "builtin", "judges", "verdicts"],
    ["judging"],
    ["rewording"],
    ["simulate", "metrics"],
    ["exports"],
    ["training"],
    ["informed"],
    ["charts", "benchmarks", "conversation", "inside"],
    ["report"],
    ["comparison"],
    ["people"],
    ["pipeline"],
    ["sweep", "terminal"],
    ["bench"],
    ["cli"],
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
MODULES = sorted((ROOT / "crslib").rglob("*.py"))


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    own = path.relative_to(ROOT / "crslib").parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for name in imports(path):
        if name.startswith("crslib.") and (other := part(name)) in RANK and other != own:
            assert RANK[other] < RANK[own], f"{own} imports {other}"


def test_every_module_has_a_layer() -> None:
    names = {path.relative_to(ROOT / "crslib").parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}
    assert names == set(RANK)


def test_one_package_imports_llama_cpp_and_none_pandas() -> None:
    users = {path.parent for path in MODULES if any(name.split(".")[0] == "llama_cpp" for name in imports(path))}
    assert users == {ROOT / "crslib/engines/llama"}
    assert not [path for path in MODULES if any(name.split(".")[0] == "pandas" for name in imports(path))]


NOTEBOOK_FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOK_FILES, ids=lambda path: path.stem)
def test_notebook_grammar(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    first, *_ = notebook.cells
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert "?" in first.source, "a notebook says which question it answers"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert ["parameters" in cell.metadata.get("tags", []) for cell in code].count(True) == 1
    assert "parameters" in code[0].metadata.tags
    for cell in code:
        assert not cell.outputs
        assert cell.execution_count is None
        assert not re.search(r"^\s*(def|class|for|while) ", cell.source, re.M), "logic belongs in crslib"


PARAMETERS = {
    "00_quickstart": QuickstartParameters,
    **NOTEBOOKS,
    "05_people": PeopleParameters,
    "06_train": TrainingParameters,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_cell_repeats_the_typed_parameters(name: str) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    namespace: dict[str, object] = {}
    exec(cell.source, namespace)
    fields = PARAMETERS[name].model_fields
    assert set(namespace["__annotations__"]) - {"run_dir"} == set(fields)
    assert ("run_dir" in namespace) == (name not in ("05_people", "06_train"))
    for field, info in fields.items():
        assert namespace[field] == info.default
        assert re.search(rf"^{field}: \w+ = .+  # {re.escape(info.description or '')}$", cell.source, re.M), field


def test_simulation_notebook_never_names_the_holdouts() -> None:
    assert "holdout" not in (ROOT / "notebooks" / "02_simulate.ipynb").read_text(encoding="utf-8")
