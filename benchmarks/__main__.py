"""Measure speed and exactness against the plain script that everyone writes; see benchmarks/README.md.

    python -m benchmarks                    speed: on two CPU cores about a quarter of an hour
    python -m benchmarks --only parity --data-root PHOTOS --weights FILE   accuracy over three seeds: half an hour
    python -m benchmarks --only study --data-root PHOTOS --weights FILE --efficientnet-weights FILE
                                            levels 1 to 4 both ways: about an hour

Results go to benchmarks/results/<device>.json when all is measured, and the tables of both READMEs follow them.
Until then what speed and study have measured is in <device>.json.speed.partial and .study.partial.
"""

import argparse
import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import parity, report, speed
from cifarlib import recipes, reports, runs, training

ROOT = Path(__file__).parents[1]
# What is trained, in this order, and of how many images (train, val, test), unless it is said.
TRAINED = {"parity": ("level1", "level2"), "study": ("level1", "level2", "level3", "efficientnet")}
EPOCHS = {"parity": (5, 5), "study": tuple(recipes.documented_recipe(name).epochs for name in TRAINED["study"])}
SIZES = {"parity": (2000, 500, 5000), "study": (3000, 750, 10_000)}


def device_name(device):
    """Return the GPU's name, or the processor's with its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    units = ", ".join(
        unit
        for unit, there in {
            "AVX-512 BF16": getattr(torch.cpu, "_is_avx512_bf16_supported", bool)(),
            "AMX": getattr(torch.cpu, "_is_amx_tile_supported", bool)(),
        }.items()
        if there
    )
    name = f"{runs.processor()}, {torch.get_num_threads()} cores"
    return name + (f" with {units}" if units else ", no bf16 units")


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("speed", "parity", "study", "tables"), default="speed")
    parser.add_argument(
        "--images", type=int, help="training images; by default 10,000 on a GPU, what fits on a CPU"
    )
    parser.add_argument(
        "--image-size", type=int, help="what the model sees, in pixels: 224; 64 for parity and study"
    )
    parser.add_argument("--repeats", type=int, default=3, help="warm repeats (3)")
    parser.add_argument("--data-root", default="", help="a folder of images; by default the built-in ones")
    parser.add_argument("--weights", default="none", help="ResNet-50's: a file, or imagenet1k_v1 (none)")
    parser.add_argument("--efficientnet-weights", help="EfficientNet-B0's, for study")
    parser.add_argument("--note", default="", help="what images and weights are, for parity's and study's tables")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs=3,
        metavar=("TRAIN", "VAL", "TEST"),
        help="images for parity (2000 500 5000) and study (3000 750 10000)",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        nargs="+",
        help="of levels 1 and 2 for parity (5 5); of levels 1, 2, 3 and EfficientNet-B0 for study (as documented)",
    )
    parser.add_argument("--seeds", type=int, default=3, help="for parity: how many, two or more (3)")
    parser.add_argument("--out", type=Path, help="results file; by default benchmarks/results/<device>.json")
    a = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*os.fork.*")
    if a.only == "tables":
        report.write(ROOT)
        return
    for value, least, what in (
        (a.images, 64, "--images"),
        (a.repeats, 1, "--repeats"),
        (a.image_size, 32, "--image-size"),
        (a.seeds, 2, "--seeds"),
        (min(a.epochs) if a.epochs else None, 1, "--epochs"),
    ):
        if value is not None and value < least:
            parser.error(f"{what} {value}: must be at least {least}")
    if a.only == "speed" and a.image_size not in (None, 224) and a.out is None:
        parser.error("the tables are for 224 px: with another --image-size, name a file of its own with --out")
    if a.only in TRAINED:
        needed = {"--data-root": a.data_root, "--weights": a.weights != "none"}
        if a.only == "study":
            needed["--efficientnet-weights"] = a.efficientnet_weights
        if missing := [name for name, given in needed.items() if not given]:
            parser.error(f"--only {a.only} needs {' and '.join(missing)}: accuracies of noise show nothing")
        if a.epochs and len(a.epochs) != len(TRAINED[a.only]):
            parser.error(f"--epochs: give one number each for {', '.join(TRAINED[a.only])}")
        if a.only == "study" and (a.epochs or a.sizes or a.image_size) and a.out is None:
            parser.error("the table is of the study's own epochs and sizes: for others, name a file with --out")

    device = training.choose_device()
    name = device_name(device)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    path = a.out or report.RESULTS / f"{slug}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    environment = runs.environment(device)
    versions = {key: environment[key] for key in ("python", "torch", "torchvision")}
    found |= {"device": name}
    print(f"{name}; results go to {path}", flush=True)

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{a.only}.partial")

    def keep(target):
        reports.write_text(target, json.dumps(found, indent=1) + "\n")

    if a.only in TRAINED:
        sizes = zip(("train_size", "val_size", "test_size"), a.sizes or SIZES[a.only], strict=True)
        profile = replace(recipes.FULL, **dict(sizes))
        weights = {"resnet50": a.weights, "efficientnet_b0": a.efficientnet_weights}
        epochs = dict(zip(TRAINED[a.only], a.epochs or EPOCHS[a.only], strict=True))
        options = {"epochs": epochs, "image_size": a.image_size or 64}
        files = [Path(given).name for given in (a.data_root, *weights.values()) if given]
        said = {"versions": versions, "note": a.note or ", ".join(files)}
        if a.only == "parity":
            options["seeds"] = range(a.seeds)
            found["parity"] = parity.measure(profile, a.data_root, weights, device, **options) | said
        else:
            for part in parity.study(profile, a.data_root, weights, device, **options):
                found["study"] = part | said
                keep(partial)
    else:
        settings = {
            "device": "cpu" if device.type == "cpu" else "cuda",
            "image_size": a.image_size or 224,
            "repeats": a.repeats,
            "data_root": a.data_root,
            "weights": a.weights,
        }
        fits = 10_000 if device.type == "cuda" else None
        settings["images"] = a.images or fits or speed.images_that_fit(settings)
        print(f"{settings['images']} training images at {settings['image_size']} px", flush=True)
        named = settings | {key: Path(settings[key]).name for key in ("data_root", "weights")}
        found = {key: found[key] for key in ("parity", "study", "candidates") if key in found}
        found |= {"device": name, "versions": versions, "settings": named}
        found["precision"] = training.choose_precision(recipes.LEVEL1, device)
        for part in speed.measure(settings, say=lambda line: print(line, flush=True)):
            found |= part
            keep(partial)  # what a run that is stopped has measured
    keep(path)
    partial.unlink(missing_ok=True)
    if a.out is None:
        report.write(ROOT)
    made = report.sections([found])
    print("\n" + made[a.only])


if __name__ == "__main__":
    main()
