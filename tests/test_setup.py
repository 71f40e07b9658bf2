"""pyproject.toml, constraints.txt, environment.yml, Makefile and .ci/run say the same thing."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OLDEST_PYTHON = "3.11"
# What Google Colab runs: installing cifarlib there must replace none of it, filelock aside (tests/colab says why).
COLAB = dict(
    line.split("==")
    for line in (ROOT / "tests" / "colab" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
)


def requirements(*extras: str) -> dict[str, Requirement]:
    """Direct dependencies by canonical name: the core ones and those of `extras`, cifarlib's own aside."""
    lines = list(PROJECT["project"]["dependencies"])
    for extra in extras:
        lines += PROJECT["project"]["optional-dependencies"][extra]
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(each.name): each for each in parsed if each.name != "cifarlib"}


def pins() -> dict[str, str]:
    """constraints.txt by canonical name; a line that is no exact pin, or a name pinned twice, fails."""
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.]*)", line)
        assert match, f"not an exact pin without a build suffix: {line!r}"
        name = canonicalize_name(match[1])
        assert name not in found, f"pinned twice: {name}"
        found[name] = match[2]
    return found


def tracked_texts() -> dict[str, str]:
    """Path -> text, of every text file that is in the repository or would be added to it."""
    # The clone may belong to another user than the one who tests: git refuses that unless told.
    git = ["git", "-c", "safe.directory=*"]
    command = [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    texts = {}
    for name in filter(None, listed):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            texts[name] = content.decode("utf-8")
    return texts


def test_dependencies_have_lower_bounds_only() -> None:
    everything = requirements(*PROJECT["project"]["optional-dependencies"])
    for name, requirement in everything.items():
        assert [specifier.operator for specifier in requirement.specifier] == [">="], name


def test_every_dependency_says_what_it_is_for() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lines = re.findall(r'^    ".*>=.*$', text, flags=re.MULTILINE)
    assert len(lines) == len(requirements(*PROJECT["project"]["optional-dependencies"]))
    assert [line for line in lines if not re.search(r'",\s+# \w', line)] == []


def test_pins_satisfy_the_bounds() -> None:
    pinned = pins()
    for name, requirement in requirements("notebooks", "export", "test").items():
        assert name in pinned, f"{name} has no line in constraints.txt"
        assert requirement.specifier.contains(pinned[name]), name


def test_constraints_pin_everything_that_is_pulled() -> None:
    """Followed from the direct dependencies through what is installed, as the oldest Python would see it."""
    pinned = pins()
    direct = requirements("notebooks", "export", "test")
    todo = [(name, requirement.extras) for name, requirement in direct.items()]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        name, extras = todo.pop()
        key = (name, frozenset(extras))
        if key in seen:
            continue
        seen.add(key)
        assert name in pinned, f"{name} is pulled in but has no line in constraints.txt"
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            # Packages for one platform only (CUDA's, macOS's) are left to their parents' own bounds.
            if needed.marker and re.search(r"platform|os_name", str(needed.marker)):
                continue
            python = {"python_version": OLDEST_PYTHON, "python_full_version": f"{OLDEST_PYTHON}.0"}
            wanted = not needed.marker or any(
                needed.marker.evaluate({**python, "extra": extra}) for extra in {"", *extras}
            )
            if wanted:
                todo.append((canonicalize_name(needed.name), needed.extras))


def test_colab_keeps_its_versions() -> None:
    bounds = requirements("notebooks")
    direct = {name: version for name, version in COLAB.items() if name in bounds}
    assert len(direct) >= 16
    replaced = {name for name, version in direct.items() if not bounds[name].specifier.contains(version)}
    assert replaced == {"filelock"}


def test_conda_installs_from_the_same_files() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, through_pip = environment["dependencies"]
    assert environment["name"] == PROJECT["project"]["name"]
    assert conda == [f"python={OLDEST_PYTHON}", "pip", "make"]
    assert through_pip == {"pip": ["-c constraints.txt", "-e .[test]"]}


def test_one_oldest_python() -> None:
    assert PROJECT["project"]["requires-python"] == f">={OLDEST_PYTHON}"
    assert PROJECT["tool"]["mypy"]["python_version"] == OLDEST_PYTHON
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + OLDEST_PYTHON.replace(".", "")
    assert f"sys.version_info < ({OLDEST_PYTHON.replace('.', ', ')})" in (ROOT / "Makefile").read_text()
    assert sys.version_info >= tuple(map(int, OLDEST_PYTHON.split(".")))


def test_what_the_library_imports_is_declared() -> None:
    """Every outside import of cifarlib belongs to a direct dependency, not to one pulled in by chance."""
    distributions = metadata.packages_distributions()
    declared = set(requirements("notebooks", "export"))
    for path in sorted((ROOT / "cifarlib").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = {node.module}
            else:
                continue
            for package in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"cifarlib"}:
                owners = {canonicalize_name(owner) for owner in distributions.get(package, [])}
                assert owners & declared, f"{path.name} imports {package}, which pyproject.toml does not name"


def test_bare_make_lists_every_target() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (help .*)$", text, flags=re.MULTILINE)
    assert phony
    # `make test` hands its own flags down, job server and all.
    handed_down = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}
    clean = {name: value for name, value in os.environ.items() if name not in handed_down}
    listed = subprocess.run(["make"], cwd=ROOT, env=clean, check=True, capture_output=True, text=True).stdout
    rows = [re.fullmatch(r"make ([a-z]+) +(\S.*)", line) for line in listed.splitlines()]
    assert all(rows)
    assert sorted(row[1] for row in rows if row) == sorted(phony[1].split())


def test_ci_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    commands = [step["run"] for step in workflow["jobs"]["ci"]["steps"] if "run" in step]
    assert commands == ['python tools/badges.py --check "$GITHUB_REPOSITORY"', "bash .ci/run"]


def test_ci_runs_the_readmes_commands_in_its_order() -> None:
    in_readme = re.findall(r"^```\n(make \w+)\n```$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    in_ci = re.findall(
        r"^step .*?(make \w+)(?: [A-Z].*)?$", (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE
    )
    assert in_readme == ["make demo", "make test"]
    assert [command for command in in_ci if command in in_readme] == in_readme


@pytest.mark.parametrize(
    "path",
    [
        *(
            "reports/demo/index.html",
            "reports/demo/results.json",
            "reports/full/index.html",
            "reports/mine/x.ipynb",
        ),
        *("runs/level1-0/model.safetensors", "notebooks/runs/level1-0/x", "data/cifar-10-python.tar.gz"),
        *("notebooks/data/x", "exports/level1-0/model.onnx", "build/check/level2.ipynb", ".coverage"),
        *(
            "benchmarks/results/cpu.json.speed.partial",
            "notebooks/.ipynb_checkpoints/x",
            "overlays/photo.png",
            ".venv/x",
            ".venv-colab/x",
        ),
    ],
)
def test_what_a_users_command_writes_is_ignored(path: str) -> None:
    """`make demo`, `make test`, `make lint` and README's other commands leave `git status` as it was."""
    git = ["git", "-c", "safe.directory=*"]
    if not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    assert subprocess.run([*git, "check-ignore", "-q", "--no-index", path], cwd=ROOT, check=False).returncode == 0
    tracked = subprocess.run([*git, "ls-files", "--", path], cwd=ROOT, check=True, capture_output=True).stdout
    assert tracked == b""


def test_no_registry_is_named() -> None:
    """Where packages come from is each user's own choice, made in pip's settings."""
    hosts = ["pypi" + ".org", "python" + "hosted", "download." + "pytorch.org"]
    named = [(name, host) for name, text in tracked_texts().items() for host in hosts if host in text]
    assert named == []


def test_no_file_holds_the_path_it_was_made_in() -> None:
    """An executed notebook or a traceback in a report would carry it."""
    assert [name for name, text in tracked_texts().items() if f"{ROOT}/" in text] == []
