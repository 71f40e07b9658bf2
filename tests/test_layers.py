"""Who may import whom: the layers of the design, held by reading the imports."""

from __future__ import annotations

import ast
import json
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cifarlib"

# Module -> the modules of ours it may import. A new module gets its line here, on purpose.
LIBRARY = {
    "_torchvision": set(),
    "progress": set(),
    "text": set(),
    "recipes": set(),
    "documented": set(),
    "synthetic": {"progress"},
    "locks": {"text"},
    "parallel": set(),
    "downloads": {"locks", "progress"},
    "decoding": {"text", "progress"},
    "data": {"recipes", "synthetic", "text", "downloads", "progress", "decoding"},
    "models": {"recipes", "_torchvision", "downloads"},
    "runs": {"recipes", "locks"},
    "probe": {"progress"},
    "training": {"data", "models", "parallel", "probe", "runs", "recipes", "progress"},
    "robustness": {"recipes", "_torchvision"},
    "evaluation": {"progress"},
    "explain": {"evaluation", "_torchvision", "progress"},
    "plotting": {"evaluation", "explain"},
    "tables": {"recipes", "documented", "data", "models", "runs", "evaluation", "judging", "progress"},
    "judging": {"recipes", "documented", "robustness", "evaluation", "runs"},
    "claims": {"recipes", "documented", "evaluation", "judging"},
}
ALLOWED: dict[str, set[str]] = LIBRARY | {
    "study": set(LIBRARY),
    "reports": {*LIBRARY, "study", "__init__"},
    "predicting": {
        *("recipes", "data", "decoding", "models", "training", "runs"),
        *("evaluation", "explain", "plotting", "text"),
    },
    "exporting": {"recipes", "data", "models", "runs", "evaluation", "predicting", "text"},
    "doctor": {"recipes", "text", "data", "downloads", "models", "training", "runs", "progress"},
    "__main__": {*LIBRARY, "study", "reports", "predicting", "exporting", "doctor", "__init__"},
    "__init__": {"recipes", "study"},
}
STDLIB_ONLY = {"recipes", "documented", "text"}
# The library does the work: a notebook has no torch, scikit-learn or downloads of its own.
NOTEBOOK_PACKAGES = {"cifarlib", "IPython", "matplotlib", "numpy", "pandas", "seaborn"}


def imports(source: str, modules: set[str]) -> tuple[set[str], set[str]]:
    """Our modules and the outside packages that `source`, a file of the package, imports anywhere in it.

    A name taken from the package itself that is not a module counts as an import of `__init__`.
    """
    ours: set[str] = set()
    outside: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ["cifarlib" if node.level else "", node.module]))
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, *rest = name.split(".")
            if package != "cifarlib":
                outside.add(package)
            else:
                ours.add(rest[0] if rest and rest[0] in modules else "__init__")
    return ours, outside


def violations(module: str, source: str) -> list[str]:
    """Every import in `module` that its layer does not allow, one sentence each."""
    if module not in ALLOWED:
        return [f"{module} has no line in tests/test_layers.py: say what it may import"]
    ours, outside = imports(source, set(ALLOWED))
    found = [f"{module} imports {name}" for name in sorted(ours - ALLOWED[module])]
    if "torchvision" in outside and module != "_torchvision":
        found.append(f"{module} imports torchvision, not through _torchvision")
    if module in STDLIB_ONLY:
        foreign = sorted(outside - sys.stdlib_module_names)
        found += [f"{module} imports {name}, not stdlib" for name in foreign]
    return found


def notebook_imports(notebook: dict) -> set[str]:
    """Packages that a notebook's code cells import, magics and shell lines understood."""
    transform = TransformerManager().transform_cell
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    tree = ast.parse("\n".join(transform(cell) for cell in cells))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def sources() -> dict[str, str]:
    """Module name -> source, of the whole package."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.glob("*.py"))}


def test_modules_import_only_what_their_layer_allows() -> None:
    found = [line for module, source in sources().items() for line in violations(module, source)]
    assert not found, "\n".join(found)


def test_imports_have_no_cycle() -> None:
    modules = sources()
    graph = {module: imports(source, set(modules))[0] for module, source in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_package_is_flat() -> None:
    """The checks above read `cifarlib/*.py`: a module in a sub-package would escape them."""
    nested = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE]
    assert not nested


def test_notebooks_import_the_library_and_plots_only() -> None:
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        found = notebook_imports(json.loads(path.read_text(encoding="utf-8")))
        assert found <= NOTEBOOK_PACKAGES | sys.stdlib_module_names, path.name


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("models", "from cifarlib import data", ["models imports data"]),
        ("models", "from . import data, recipes", ["models imports data"]),
        ("models", "def f():\n    from .training import fit", ["models imports training"]),
        ("models", "import cifarlib.study as s", ["models imports study"]),
        ("models", "from cifarlib.recipes import LEVEL1\nimport torch", []),
        ("runs", "from cifarlib import __version__", ["runs imports __init__"]),
        ("data", "from cifarlib._torchvision import torchvision", ["data imports _torchvision"]),
        ("models", "import torchvision.models", ["models imports torchvision, not through _torchvision"]),
        ("recipes", "import json\nimport numpy as np", ["recipes imports numpy, not stdlib"]),
        ("helpers", "", ["helpers has no line in tests/test_layers.py: say what it may import"]),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str, expected: list[str]) -> None:
    assert violations(module, source) == expected


def test_a_planted_notebook_import_is_found() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["import this"]},
        {"cell_type": "code", "source": ["%pip install cifarlib\n", "import cifarlib"]},
        {"cell_type": "code", "source": ["from torch import nn"]},
    ]
    assert notebook_imports({"cells": cells}) == {"cifarlib", "torch"}
