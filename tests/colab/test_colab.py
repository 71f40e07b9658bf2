"""The set-up cell and the notebooks beside Colab's versions, in an environment made for it: `make colab`.

What stands in for Colab is its packages, IPython and kernel included, and the module by which the cell knows it.
The rest is real: the notebook's own cell, pip, git, the kernel, papermill. Colab's own %pip, which offers a
restart where a package that is imported was replaced, is not there: that none was is tested instead.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook
from packaging.utils import canonicalize_name
from test_notebooks import FEW, NAMES, OWN, SMOKE, project

ROOT = Path(__file__).resolve().parents[2]
PINS = Path(__file__).with_name("requirements.txt")
FOLDER = ROOT / ".venv-colab"
ADDRESS, _, TAG = project(ROOT)
# cifarlib needs a newer one than Colab has, and nothing in a fresh Colab kernel has imported it.
RAISED = {"filelock"}


@pytest.fixture(scope="session", autouse=True)
def _asked_for(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--colab"):
        pytest.skip("makes an environment of 5 GB and takes minutes: make colab")


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        env=os.environ | environment,
        cwd=FOLDER,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-6000:]}"
    return done.stdout


def python_of(environment: Path) -> Path:
    return environment / "bin" / "python"


def versions(environment: Path) -> dict[str, str]:
    listed = run(python_of(environment), "-m", "pip", "--disable-pip-version-check", "list", "--format=json")
    rows = json.loads(next(line for line in listed.splitlines() if line.startswith("[")))
    return {canonicalize_name(row["name"]): row["version"] for row in rows}


@pytest.fixture(scope="session")
def pristine(_asked_for: None) -> Path:
    """Colab's versions and no cifarlib, made once: kept until the pins or the Python change."""
    environment, stamp = FOLDER / "pristine", FOLDER / "made-of.txt"
    wanted = f"# {sys.version}\n{PINS.read_text()}"
    if not stamp.is_file() or stamp.read_text() != wanted:
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir()
        run(sys.executable, "-m", "venv", environment)
        run(python_of(environment), "-m", "pip", "install", "--quiet", "-r", PINS)
        stamp.write_text(wanted)
    pinned = dict(line.split("==") for line in PINS.read_text().splitlines() if not line.startswith("#"))
    found = versions(environment)
    assert {name: found[name].partition("+")[0] for name in pinned} == pinned  # +cpu, +cu128: the same release
    return environment


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the files of this checkout as they are now at the version's tag, and not after it."""
    git = ["git", "-c", "safe.directory=*"]
    command = [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    folder = tmp_path_factory.mktemp("checkout")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    who = ["-c", "user.name=a test", "-c", "user.email=test@localhost"]
    now = (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "as it is now"], ["tag", TAG])
    later = (["rm", "-q", "pyproject.toml"], [*who, "commit", "-q", "-m", "cannot be installed"])
    for arguments in (*now, *later):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="session")
def tempting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a release of kornia, newer than any, that wants a newer torch than Colab's."""
    folder = tmp_path_factory.mktemp("wheels")
    info = "kornia-99.0.dist-info"
    files = {
        "kornia.py": "raise ImportError('the release that wants another torch')\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: kornia\nVersion: 99.0\nRequires-Dist: torch>=2.12\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / "kornia-99.0-py3-none-any.whl", "w") as wheel:
        for name, text in (files | {f"{info}/RECORD": record}).items():
            wheel.writestr(name, text)
    return folder


def execute(environment: Path, notebook: Path, folder: Path, **parameters: object) -> nbformat.NotebookNode:
    """Run a notebook through papermill in the kernel of `environment`, in `folder`."""
    kernel = folder / "jupyter" / "kernels" / "colab"
    kernel.mkdir(parents=True, exist_ok=True)
    argv = [str(python_of(environment)), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Colab", "language": "python"}))
    out = folder / f"{notebook.stem}_executed.ipynb"
    command = [sys.executable, "-m", "papermill", "--kernel", "colab", "--cwd", folder, "--no-progress-bar"]
    run(*command, notebook, out, "-y", yaml.safe_dump(parameters), JUPYTER_PATH=str(folder / "jupyter"))
    return nbformat.read(out, as_version=4)


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


# Colab's module, by which the cell knows it.
IN_COLAB = 'import sys, types\nsys.modules["google.colab"] = types.ModuleType("google.colab")\nprint(*sys.modules)'


def setup_cell(address: str) -> str:
    """The first notebook's set-up cell, with another place in place of the repository's, and the same tag."""
    source = nbformat.read(ROOT / "notebooks" / f"{NAMES[0]}.ipynb", as_version=4).cells[1].source
    assert source.count(f"git+{ADDRESS}@{TAG}") == 1
    return source.replace(f"git+{ADDRESS}@", f"git+{address}@")


class Session(NamedTuple):
    environment: Path
    before: dict[str, str]
    elsewhere: dict[str, str]  # after the set-up cell ran without Colab's module
    after: dict[str, str]
    loaded: set[str]  # what the kernel had imported before the set-up cell
    said: str  # what the set-up cell printed in Colab
    same_kernel: dict[str, str]  # versions imported after it, without a restart


@pytest.fixture(scope="session")
def session(pristine: Path, checkout: Path, tempting: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """The first notebook's set-up cell, run elsewhere and then in Colab, in a copy of the environment."""
    environment = FOLDER / "used"
    shutil.rmtree(environment, ignore_errors=True)
    # Links: pip and Python replace files and do not write into them, so that the original stays what it is.
    shutil.copytree(pristine, environment, symlinks=True, copy_function=os.link)
    before = versions(environment)
    folder = tmp_path_factory.mktemp("setup")
    setup = setup_cell(f"file://{checkout}")
    nbformat.write(new_notebook(cells=[new_code_cell(setup)]), folder / "elsewhere.ipynb")
    execute(environment, folder / "elsewhere.ipynb", folder)
    elsewhere = versions(environment)

    after = (
        "import json, torch, torchvision, numpy, filelock, kornia, cifarlib\n"
        "found = (torch, torchvision, numpy, filelock, kornia)\n"
        "print(json.dumps({module.__name__: module.__version__ for module in found}))"
    )
    cells = [new_code_cell(source) for source in (IN_COLAB, setup, after)]
    nbformat.write(new_notebook(cells=cells), folder / "setup.ipynb")
    links = f"{os.environ.get('PIP_FIND_LINKS', '')} {tempting}".strip()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_FIND_LINKS", links)
        *_, first, second, third = execute(environment, folder / "setup.ipynb", folder).cells
    return Session(
        environment,
        before,
        elsewhere,
        versions(environment),
        {name.partition(".")[0] for name in printed(first).split()},
        printed(second),
        json.loads(printed(third).splitlines()[-1]),
    )


def test_outside_colab_the_setup_cell_does_nothing(session: Session) -> None:
    assert "cifarlib" not in session.before
    assert session.elsewhere == session.before


def test_the_setup_cell_changes_nothing_that_is_there(session: Session) -> None:
    changed = {name for name, version in session.before.items() if session.after.get(name) != version}
    assert changed <= RAISED
    assert "cifarlib" in session.after
    assert session.after["kornia"] != "99.0", "taken, though it wants another torch"


def test_nothing_has_to_be_restarted(session: Session) -> None:
    assert not RAISED & session.loaded
    now = {name: session.after[name] for name in ("torch", "torchvision", "numpy", "filelock", "kornia")}
    assert {name: version.partition("+")[0] for name, version in session.same_kernel.items()} == {
        name: version.partition("+")[0] for name, version in now.items()
    }


def test_the_setup_cell_says_first_what_it_takes(session: Session) -> None:
    assert session.said.startswith("Installing cifarlib: about ")
    assert "ERROR" not in session.said


def test_everything_installed_fits_together(session: Session) -> None:
    run(python_of(session.environment), "-m", "pip", "check")


def test_where_the_address_does_not_answer_the_setup_cell_says_what_to_do(pristine: Path, tmp_path: Path) -> None:
    nowhere = f"file://{tmp_path}/nowhere"
    cells = [new_code_cell(source) for source in (IN_COLAB, setup_cell(nowhere), "print('went on')")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "setup.ipynb")
    with pytest.raises(AssertionError, match="make badges REPO=owner/name"):
        execute(pristine, tmp_path / "setup.ipynb", tmp_path)
    *_, setup, after = nbformat.read(tmp_path / "setup_executed.ipynb", as_version=4).cells
    assert "does not appear to be a git repository" in printed(setup)
    assert setup.outputs[-1].ename == "AssertionError"
    assert setup.outputs[-1].evalue.startswith(f"git+{nowhere}@{TAG} was not installed; pip says above why.")
    assert after.outputs == []


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all four levels: level 4 finds level 3's run."""
    return tmp_path_factory.mktemp("levels")


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_runs(name: str, session: Session, folder: Path) -> None:
    few = {key: value for key, value in FEW.items() if key in OWN[name]}
    done = execute(
        session.environment, ROOT / "notebooks" / f"{name}.ipynb", folder, profile="demo", overrides=SMOKE, **few
    )
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert code[0].outputs == []  # the set-up cell
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.get("text")
    said = "".join(printed(cell) for cell in code)
    assert all(word in said for word in ("Device: ", "To train", "To download, unless there: nothing", "Time: "))
    assert "does not hold" in json.dumps(code[-1].outputs) or "not measurable here" in json.dumps(code[-1].outputs)
