"""Do the tests catch faults? `make mutants` plants those of tests/mutants.toml one by one, each in a copy.

    python tools/mutants.py              all of them
    python tools/mutants.py Holm         those whose description has this in it

A fault is caught where one of the tests named beside it fails, all of which pass without it: that is looked at
first. Exit status 1 where one is not caught, or where the code that it changes is not found exactly once: then the
entry is to follow the code. The working tree is not touched.
"""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[1]
WORKERS = max(1, min(4, os.cpu_count() or 1))
PATIENCE = 900  # seconds
T = TypeVar("T")


def planted(tree: Path, old: str, new: str) -> tuple[Path, str]:
    """Change the one place in the package that has `old`; return the file and its text before.

    Raises:
        ValueError: the text is not there exactly once.
    """
    places = [
        path for path in sorted((tree / "cifarlib").rglob("*.py")) for _ in range(path.read_text().count(old))
    ]
    if len(places) != 1:
        raise ValueError(f"stands {len(places)} times in cifarlib, not once: {old.strip().splitlines()[0]}")
    text = places[0].read_text()
    places[0].write_text(text.replace(old, new))
    return places[0], text


def run(tree: Path, tests: str) -> tuple[str, str]:
    """Run a copy's test files of these names; say what came of it, and which test failed."""
    files = [str(file) for name in tests.split() for file in sorted((tree / "tests").rglob(f"{name}.py"))]
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:  # a fault may make a test wait for ever
        return "fail", f"no end after {PATIENCE} s"
    found = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    outcome = {0: "pass", 1: "fail"}.get(done.returncode, f"pytest ended with {done.returncode}")
    return outcome, found[0].partition(" - ")[0] if found else ""


def tried(tree: Path, mutant: dict[str, str]) -> tuple[str, str]:
    """Plant a fault in a copy, run its tests, and take it out again: what came of it, and where."""
    try:
        path, text = planted(tree, mutant["old"], mutant["new"])
    except ValueError as error:
        return "NOT PLANTED", str(error)
    try:
        outcome, where = run(tree, mutant["tests"])
    finally:
        path.write_text(text)
    return {"pass": "NOT CAUGHT", "fail": "caught"}.get(outcome, outcome), where


def copied(trees: list[Path]) -> None:
    """Copy the working tree, less what git ignores, to each of these places."""
    command = ["git", "ls-files", "-z", "-co", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in names:
        if (ROOT / name).is_file():  # else it was deleted
            for tree in trees:
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, tree / name)


def main(words: list[str]) -> int:
    """Plant, print what came of each, and return the exit status."""
    listed = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text(encoding="utf-8"))["mutant"]
    chosen = [mutant for mutant in listed if all(word in mutant["what"] for word in words)]
    with tempfile.TemporaryDirectory(prefix="cifarlib-mutants-") as scratch:
        trees = [Path(scratch) / str(number) for number in range(WORKERS)]
        copied(trees)

        def in_a_copy(work: Callable[[Path, T], tuple[str, str]], what: T) -> tuple[str, str, float]:
            tree, started = trees.pop(), time.monotonic()
            try:
                return *work(tree, what), time.monotonic() - started
            finally:
                trees.append(tree)

        missed = 0
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            tests = list(dict.fromkeys(mutant["tests"] for mutant in chosen))
            for named, (outcome, where, _) in zip(tests, pool.map(partial(in_a_copy, run), tests), strict=True):
                if outcome != "pass":
                    print(f"without any fault, {named}: {outcome}  {where}", flush=True)
                    missed += 1
            if missed:
                return 1
            found = pool.map(partial(in_a_copy, tried), chosen)
            for mutant, (outcome, where, seconds) in zip(chosen, found, strict=True):
                missed += outcome != "caught"
                print(f"{outcome:<11} {seconds:4.0f} s  {mutant['what']}  {where}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} caught")
    return 1 if missed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
