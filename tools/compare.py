"""Does a change leave every result as it was? `make compare REV=main` runs two versions here and compares them.

    python tools/compare.py REV            REV against the working tree, changes that are not committed included

Both run the same commands on a small demo and on a few photographs made here, through the command line alone, so
that modules may move. Compared are trained weights, histories, predictions and metrics bit for bit, every value
of results.json (verdicts included), the pages' text and figures, and what the commands print. Times, speeds and
memory may differ, and nothing else: what does is printed, and the exit status is 1.

Some minutes a version, on a quiet machine; what a committed version gave is kept under build/compare. Bits are
those of this processor, with these threads and packages: no result of another machine is any use here.
"""

from __future__ import annotations

import argparse
import base64
import configparser
import csv
import difflib
import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import bs4
import numpy as np
import safetensors.numpy
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "build" / "compare"
SHOWN = 12  # differences of one file

# Every training has several steps and every figure something to draw, in as little time as that takes.
SMALL = (
    "--seed 1 --set image_size=40 --set epochs=2 --set batch_size=20 --set train_size=80 --set val_size=40 "
    "--set test_size=120"
)
FEW = "-p cam_images 12 -p road_images 2 -p shift_images 8"
COMMANDS = {
    "demo": f"report --profile demo --run-root demo/runs --out demo/report {SMALL} {FEW} "
    "--set store_size=40 --set pretrain_size=80 --set pretrain.epochs=1 --set seeds=2 "
    "-p batchnorm true -p at_32px true -p full_finetuning true",
    "photographs": f"report --profile full --data-root photographs --run-root full/runs --out full/report {SMALL} "
    f"{FEW} --set weights=none --set store_size=40 -p second_test photographs/test",
    "evaluate": f"evaluate photographs/test --profile full --data-root photographs --run-root full/runs {SMALL} "
    "--set weights=none --set store_size=40",
    "train": f"train 4 --profile full --data-root photographs --run-root full/runs {SMALL} "
    "--set weights=none --set store_size=40",
    "predict": "predict photographs/test --run-root full/runs --json --cam full/overlays",
}
# Keys of JSON files whose values are times, speeds, memory, or digests of what may be worded anew.
VARY = re.compile(r".*seconds.*|images_per_second|peak_memory_bytes|stall_ratio|environment|notebooks|cifarlib")
TIMED = re.compile(r"images/s|stall ratio|memory|time|an epoch|speed", re.IGNORECASE)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


# --- Running -----------------------------------------------------------------------------------------------


def unpack(revision: str) -> tuple[str, Path]:
    """Write a revision's files beneath build/compare, once; return its commit and where they lie."""
    found = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    commit = found.stdout.strip()
    if found.returncode:
        raise ValueError(f"REV={revision!r} is no revision of this repository: give a commit, branch or tag")
    tree = KEPT / commit[:12] / "tree"
    if not tree.is_dir():
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
        part = tree.with_name("part")  # what an interrupted call leaves
        shutil.rmtree(part, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(part, filter="data")
        part.rename(tree)
    return commit, tree


def photographs(folder: Path) -> None:
    """Write a few pictures of several sizes and formats: stripes, whose hue and slope tell their class."""
    random = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 12)):
        for k, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for n in range(count):
                height, width = random.integers(36, 72, size=2)
                y, x = np.mgrid[:height, :width] / 40
                angle = np.pi * (k + random.normal(0, 0.3)) / len(CLASSES)
                wave = np.sin(8 * (x * np.cos(angle) + y * np.sin(angle)) + random.uniform(0, 6))
                hue = 2 * np.pi * (k / len(CLASSES) + np.array([0, 1, 2]) / 3) + random.normal(0, 0.5)
                pixels = 128 + 40 * wave[..., None] + 40 * np.cos(hue) + random.normal(0, 25, (height, width, 3))
                path = folder / part / name / f"{n:02d}.{'png' if n % 2 else 'jpg'}"
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def run(tree: Path, out: Path) -> None:
    """Give every command to the version in `tree`; what it writes and prints goes to `out`."""
    shutil.rmtree(out, ignore_errors=True)
    photographs(out / "photographs")
    environment = os.environ | {"PYTHONPATH": str(tree), "COLUMNS": "80", "PYTHONHASHSEED": "0"}
    for name, words in COMMANDS.items():
        print(f"  {name} ...", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "cifarlib", *words.split()],
            cwd=out,
            env=environment,
            capture_output=True,
            text=True,
        )
        (out / f"{name}.txt").write_text(f"{done.stdout}\n{done.stderr}\nexit status {done.returncode}\n")
        if done.returncode:
            raise RuntimeError(f"cifarlib {words}\nended with {done.returncode} in {tree}:\n{done.stderr[-3000:]}")


def made_by() -> str:
    """Return what decides the bits beside the version: this script, packages, processor, threads and place."""
    import torch

    from cifarlib import runs

    packages = sorted(f"{each.name} {each.version}" for each in importlib.metadata.distributions())
    found = {"packages": packages, "place": str(ROOT), "script": Path(__file__).read_text()}
    return json.dumps(runs.environment(torch.device("cpu")) | found, indent=1)


def results_of(revision: str | None) -> Path:
    """Return the folder of what a version gave, run once, or of what the working tree gives now."""
    if revision is None:
        tree, out = ROOT, KEPT / "here"
        kept = None
    else:
        commit, tree = unpack(revision)
        out = KEPT / commit[:12] / "results"
        kept, stamp = out / "made_by.json", made_by()
        if kept.is_file() and kept.read_text() == stamp:
            return out
    print(f"{revision or 'the working tree'}, in {out}", flush=True)
    run(tree, out)
    if kept is not None:
        kept.write_text(stamp)
    return out


# --- Comparing ---------------------------------------------------------------------------------------------


def normal(text: str) -> str:
    """Take out of a text what may differ between two runs: times, speeds and the like, and runs' digests."""
    rules = configparser.ConfigParser(interpolation=None)
    rules.read(ROOT / "tests" / "nbval_sanitize.cfg")
    for section in rules.sections():
        if "spaces" not in section:
            text = re.sub(rules[section]["regex"], rules[section]["replace"], text)
    text = re.sub(r"\b[\d.,]+ (seconds|minutes)\b|[\d.,]+ MiB\b|\bit/s\b", "TIME", text)
    return re.sub(r"(?<=-)[0-9a-f]{12}\b", "ID", text)


def values(found: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Walk a JSON value: (path, leaf), without what varies."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            if not VARY.fullmatch(key):
                yield from values(value, f"{where}.{key}" if where else key)
    elif isinstance(found, list):
        for k, value in enumerate(found):
            yield from values(value, f"{where}[{k}]")
    else:
        yield where, normal(found) if isinstance(found, str) else found


def page(path: Path) -> dict[str, Any]:
    """Return a page's text, line by line, and its figures' pixels by their alt text, without those of times."""
    soup = bs4.BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    for element in soup(["style", "script"]):
        element.decompose()
    for table in soup("table"):  # of how fast something was: a column that holds nothing else
        for number, head in reversed([*enumerate(table.thead("th") + table.thead("td") if table.thead else [])]):
            if TIMED.search(head.get_text(" ")):
                for row in table("tr"):
                    row(["th", "td"])[number].clear()
    figures = {}
    for image in soup("img"):
        alt, source = image.get("alt", ""), image.get("src", "")
        if source.startswith("data:image/png;base64,") and "seconds" not in alt:
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
            figures[alt[:80]] = hashlib.sha256(pixels.tobytes()).hexdigest()
        image.replace_with(f"\n[{alt}]\n")
    lines = (" ".join(normal(line).split()) for line in soup.get_text("\n").splitlines())
    return {"text": [line for line in lines if line], "figure": figures}


def table(path: Path) -> dict[str, Any]:
    """Return a history's columns, without what varies."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {
        f"row {k}": {name: text for name, text in row.items() if not VARY.fullmatch(name)}
        for k, row in enumerate(rows)
    }


def run_name(folder: Path) -> str:
    """Name a run by recipe and seed: its digest may be made anew."""
    recipe = json.loads((folder / "recipe.json").read_text())
    return f"{recipe['name']}, seed {recipe['seed']}"


def contents(out: Path) -> dict[str, Any]:
    """Return everything that is compared, by where it comes from."""
    found: dict[str, Any] = {}
    for folder in sorted(out.glob("*/runs/*-*")):
        name = f"{folder.parent.parent.name} run {run_name(folder)}"
        found[f"{name}: history"] = dict(values(table(folder / "history.csv")))
        found[f"{name}: metrics"] = dict(values(json.loads((folder / "metrics.json").read_text())))
        found[f"{name}: recipe"] = dict(values(json.loads((folder / "recipe.json").read_text())))
        with np.load(folder / "predictions.npz") as arrays:
            found[f"{name}: predictions"] = {key: digest(arrays[key]) for key in arrays.files}
        weights = safetensors.numpy.load_file(folder / "model.safetensors")
        found[f"{name}: weights"] = {key: digest(value) for key, value in weights.items()}
    for results in sorted(out.glob("*/report/results.json")):
        found[str(results.relative_to(out))] = dict(values(json.loads(results.read_text())))
    for html in sorted(out.glob("*/report/*.html")):
        for kind, content in page(html).items():
            found[f"{html.relative_to(out)}: {kind}"] = content
    for printed in sorted(out.glob("*.txt")):
        text = normal(printed.read_text().replace(str(out), "OUT"))
        lines = [line.rstrip() for line in text.replace("\r", "\n").splitlines()]
        found[f"cifarlib {printed.stem}"] = [line for line in lines if line and "|" not in line]  # no bars
    for overlay in sorted(out.glob("full/overlays/*.png")):
        found.setdefault("overlays", {})[overlay.name] = digest(np.asarray(Image.open(overlay)))
    return found


def digest(array: np.ndarray) -> str:
    """Return an array's type, shape and checksum."""
    return f"{array.dtype} {list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return what differs between two `contents`, a line each, and no more than some of one place."""
    found = []
    for where in [*before, *(key for key in after if key not in before)]:
        if where not in before or where not in after:
            found.append(f"{where}: only {'before' if where in before else 'now'}")
            continue
        old, new = before[where], after[where]
        if isinstance(old, list):
            changed = [*difflib.unified_diff(old, new, lineterm="", n=0)][2:]  # after the two files' names
            lines = [line for line in changed if not line.startswith("@@")]
        else:
            lines = [
                f"{key}: {old.get(key, 'absent')} before, {new.get(key, 'absent')} now"
                for key in [*old, *(key for key in new if key not in old)]
                if key not in old or key not in new or old[key] != new[key]
            ]
        found += [f"{where}: {line}" for line in lines[:SHOWN]]
        if len(lines) > SHOWN:
            found.append(f"{where}: and {len(lines) - SHOWN} more")
    return found


def main(arguments: list[str]) -> int:
    """Compare, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "revision", metavar="REV", help="a commit, branch or tag, to compare the working tree with"
    )
    options = parser.parse_args(arguments)
    try:
        before, after = (contents(results_of(revision)) for revision in (options.revision, None))
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    found = differences(before, after)
    print("\n".join(found))
    count = sum(len(content) for content in before.values())
    print(
        f"{len(found)} differences" if found else f"no difference in {count:,} arrays, values, lines and figures"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
