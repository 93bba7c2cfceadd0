"""The shape of the project: imports point one way, notebooks only call and show."""

import ast
import graphlib
import importlib
import re
from pathlib import Path

import nbformat
import pytest

from crslib.config import ROOT
from crslib.experiments.notebooks import PARAMETERS

# From the foundations up: a part may import from rows above its own, never from its own row or from below. So the
# information barrier is a wall of the house: nothing in `users` can reach `recommender`, nor the other way round.
ROWS = [
    ["errors", "identity"],
    ["config", "files", "json_files", "schemas", "stats", "yaml_files"],
    ["journal"],
    ["store"],
    ["dialogue", "runs"],
    ["data", "engines"],
    ["users", "recommender", "judging"],
    ["agents"],
    ["simulation", "training", "metrics"],
    ["reporting"],
    ["experiments", "web"],
    ["cli"],
    ["__main__"],
]
ROW = {name: number for number, row in enumerate(ROWS) for name in row}
MODULES = sorted((ROOT / "crslib").rglob("*.py"))


def part(path: Path) -> str:
    """The package, or the module at the root, that a file of crslib belongs to."""
    return path.relative_to(ROOT / "crslib").parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The modules that a file imports, and the names that it takes from them. No import may be relative."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    own = part(path)
    if own == "__init__":
        assert not [name for name in imports(path) if name.startswith("crslib.")]
        return
    for name in imports(path):
        other = name.split(".")[1] if name.startswith("crslib.") else own
        if other != own and other in ROW:
            assert ROW[other] < ROW[own], f"{own} imports {other}"


def test_every_part_has_a_row() -> None:
    assert {part(path) for path in MODULES} - {"__init__"} == set(ROW)


@pytest.mark.parametrize("name", ["population", "loop", "opening", "dialogues"])
def test_what_simulates_can_be_given_no_table_of_hidden_items(name: str) -> None:
    """`ProfileTables` holds them; it is only for those who build profiles and write a run's tables."""
    path = ROOT / f"crslib/simulation/{name}.py"
    assert not {one for one in imports(path) if one.startswith("crslib.users.profiles")}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert "holdouts" not in {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}


def test_modules_import_each_other_in_no_circle() -> None:
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES}
    names = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    # An import from the own package also names the package; that is no arrow to the package's face.
    arrows = {
        name: {other for other in imports(path) & names.keys() if not f"{name}.".startswith(f"{other}.")}
        for name, path in names.items()
    }
    try:
        list(graphlib.TopologicalSorter(arrows).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' → '.join(error.args[1])}")


def test_one_package_imports_llama_cpp_and_none_pandas() -> None:
    users = {path.parent for path in MODULES if any(name.split(".")[0] == "llama_cpp" for name in imports(path))}
    assert users == {ROOT / "crslib/engines/llama"}
    assert not [path for path in MODULES if any(name.split(".")[0] == "pandas" for name in imports(path))]


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.stem == "__init__"], ids=lambda path: path.parent.name
)
def test_a_package_offers_what_is_there(path: Path) -> None:
    name = ".".join(path.parent.relative_to(ROOT).parts)
    package = importlib.import_module(name)
    for offered in getattr(package, "__all__", ()):
        assert hasattr(package, offered) or importlib.import_module(f"{name}.{offered}")


NOTEBOOK_FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOK_FILES, ids=lambda path: path.stem)
def test_notebook_grammar(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    first, *_ = notebook.cells
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert "?" in first.source, "a notebook says which question it answers"
    assert len(notebook.cells) <= 14
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert ["parameters" in cell.metadata.get("tags", []) for cell in code].count(True) == 1
    assert "parameters" in code[0].metadata.tags
    for cell in code:
        assert not cell.outputs
        assert cell.execution_count is None
        assert not re.search(r"^\s*(def|class|for|while) ", cell.source, re.M), "logic belongs in crslib"


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


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_is_cut_at_what_stands_inside_of_texts(path: Path) -> None:
    """`str.splitlines` ends a line at U+2028, U+0085 and six others."""
    assert "splitlines" not in path.read_text(encoding="utf-8") or "`str.splitlines` would cut" in path.read_text()


# What the library says of its items is in data/domains. The files that are about films, and why:
FILM_WORDS = re.compile(
    r"\b(movies?|films?|flicks?|cinemas?|actors?|actress(?:es)?|directors?|starring|watch(?:ed|es|ing)?|genres?)\b",
    re.I,
)
ABOUT_FILMS = {
    "crslib/cli/bench.py": "names and texts of benchmarks on ReDial",
    "crslib/cli/corpora.py": "names of corpora, and the domain of the built-in data",
    "crslib/cli/data.py": "the domain of data that names none",
    "crslib/data/builtin.py": "the built-in films",
    "crslib/data/cells.py": "words in cells of people's files",
    "crslib/data/columns.py": "names that columns have in people's files",
    "crslib/data/movielens.py": "MovieLens",
    "crslib/data/source.py": "the domain of data that names none",
    "crslib/data/spotting.py": "statistics of ReDial's words",
    "crslib/data/titles.py": "a part that titles have",
    "crslib/dialogue/domain.py": "the name of the first domain",
    "crslib/engines/preparation.py": "the text on which the loss of the shipped adapters' weights is measured",
    "crslib/experiments/benchmarks/imports.py": "a file like MovieLens'",
    "crslib/experiments/benchmarks/linking.py": "ReDial's titles",
    "crslib/experiments/benchmarks/mixture.py": "ReDial's titles",
    "crslib/experiments/benchmarks/prompts.py": "phrases of talk about the built-in films",
    "crslib/experiments/benchmarks/recommender.py": "ReDial's titles",
    "crslib/experiments/benchmarks/usefulness.py": "ReDial's titles",
}


def test_no_word_of_films_stands_outside_their_domain() -> None:
    files = [path for folder in ("crslib", "notebooks", "data/prompts") for path in (ROOT / folder).rglob("*")]
    texts = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for path in files
        if path.suffix in (".py", ".html", ".js", ".css", ".ipynb", ".md", ".yaml")
    }
    found = {
        name: sorted({match[0] for match in FILM_WORDS.finditer(text.replace("working directory", ""))})
        for name, text in texts.items()
        if not name.startswith("crslib/data/corpora/")
    }
    assert {name: words for name, words in found.items() if words and name not in ABOUT_FILMS} == {}
    assert [name for name in ABOUT_FILMS if not found.get(name)] == []
