"""Do the tests catch faults? `make mutants` plants those of tests/mutants.toml one by one, each in a copy.

    python tools/mutants.py              all of them
    python tools/mutants.py isotonic     those whose description has this in it

A fault is caught where one of the tests named beside it fails. Exit status 1 where one is not, or where the code
that it changes is not found exactly once: then the entry is to follow the code. The working tree is not touched.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKERS = max(1, min(4, os.cpu_count() or 1))


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


def run(tree: Path, mutant: dict[str, str]) -> tuple[str, str]:
    """Plant a fault in a copy of the project, run its tests, and take it out again: what came of it, and where."""
    try:
        path, text = planted(tree, mutant["old"], mutant["new"])
    except ValueError as error:
        return "NOT PLANTED", str(error)
    files = [
        str(file) for name in mutant["tests"].split() for file in sorted((tree / "tests").rglob(f"{name}.py"))
    ]
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    # One failure is enough; a fault may also make a test wait for ever.
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=900)
        found = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        outcome = {0: "NOT CAUGHT", 1: "caught"}.get(done.returncode, f"pytest ended with {done.returncode}")
    except subprocess.TimeoutExpired:
        found, outcome = [], "caught"
    finally:
        path.write_text(text)
    return outcome, found[0].partition(" - ")[0] if found else ""


def main(words: list[str]) -> int:
    """Plant, print what came of each, and return the exit status."""
    listed = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text(encoding="utf-8"))["mutant"]
    chosen = [mutant for mutant in listed if all(word in mutant["what"] for word in words)]
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    missed = 0
    with tempfile.TemporaryDirectory(prefix="cifarlib-mutants-") as scratch:
        trees = [Path(scratch) / str(number) for number in range(WORKERS)]
        for tree in trees:
            for name in names.stdout.splitlines():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, tree / name)
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:

            def next_one(mutant: dict[str, str]) -> tuple[str, str, float]:
                tree, started = trees.pop(), time.monotonic()
                try:
                    return *run(tree, mutant), time.monotonic() - started
                finally:
                    trees.append(tree)

            for mutant, (outcome, where, seconds) in zip(chosen, pool.map(next_one, chosen), strict=True):
                missed += outcome != "caught"
                print(f"{outcome:<11} {seconds:4.0f} s  {mutant['what']}  {where}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
