"""The command line: it reads and checks what is typed, calls the library, and prints what that returns.

Whatever imports torch is imported by the command that needs it, so that `--help` need not wait for it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarlib import recipes, reports
from cifarlib.text import printable, version

if TYPE_CHECKING:
    import numpy as np

    from cifarlib.predicting import Prediction, Predictor
    from cifarlib.runs import Found
    from cifarlib.study import Study

_DATA_ROOT = "data"

_TOP = """\
A CIFAR-10 transfer-learning study in four levels: frozen baseline, fine-tuning, attention, ensemble.
Each command has a --help of its own."""

_TOP_EXAMPLES = """\
examples:
  cifarlib doctor                     is this machine ready, and how long will the study take here?
  cifarlib report --profile demo      the whole study on built-in images: no GPU, no download
  cifarlib train level2               one level's training, without a notebook
  cifarlib predict photo.jpg          what is in the picture, and how sure is that?
  cifarlib runs                       what has been trained, and what it takes on the disk
  cifarlib export runs/level2-...     an ONNX model with its card

exit status: 0 all went well; 1 something failed, and what went well is kept; 2 the request was refused, or its
images or weights could not be had, and nothing was done; 130 interrupted."""

_REPORT = """\
Execute the notebooks from top to bottom and write a report folder: for each level the executed notebook and a
self-contained HTML page, for all of them index.html and results.json.

Without a GPU and without a network, `cifarlib report --profile demo` runs the whole study on built-in images.
Finished training runs found in --run-root are loaded, interrupted ones resumed."""

_EXAMPLES = """\
examples:
  cifarlib report                                   all four levels; CIFAR-10 with a GPU, else built-in images
  cifarlib report 1 2 --profile full --seed 3       two levels on CIFAR-10
  cifarlib report 2 -p ablation true                one level, with a parameter of its notebook
  cifarlib report 1 --set level1.epochs=2 --set train_size=1000 --out reports/short
  cifarlib report --check reports/demo              do these reports come from the present notebooks?

exit status: 0 all went well; 1 a notebook failed (what ran is kept and shown), or --check found differences;
2 the request was refused, and nothing was run or written; 130 interrupted."""


_EVALUATE = """\
Test every level that has been run on another set of images of the same classes: a folder of your own photographs
(CLASS/*.jpg), or CIFAR-10.1's arrays (*_data.npy beside *_labels.npy). Trains nothing; of the study's own images,
what is missing is downloaded. Give the same --profile, --seed, --run-root, --data-root and --set as the report
that trained the levels."""

_EVALUATE_EXAMPLES = """\
examples:
  cifarlib evaluate my_photos
  cifarlib evaluate cifar10.1_v6_data.npy --profile full
  cifarlib evaluate my_photos --profile demo --json

exit status: 0 all went well; 2 the request was refused."""

_TRAIN = """\
Train recipes without a notebook: a finished run is loaded, an interrupted one resumed, a missing one trained.
Prints a line an epoch, then each run's test accuracy with its 95 % interval and where it lies."""

_TRAIN_EXAMPLES = """\
examples:
  cifarlib train level2                                   full with a GPU, else the demo
  cifarlib train 1 2 3 --profile full --seed 1
  cifarlib train level4 --profile demo                    its two members, and their vote
  cifarlib train level2_noaug efficientnet --set epochs=2
  cifarlib train level2 --profile full --devices 2        on two GPUs, as torchrun -m cifarlib train would

exit status: 0 all are trained; 1 a training failed, and those before it are kept; 2 the request was refused, and
nothing was trained; 130 interrupted: the same command resumes."""

_PREDICT = """\
Say what pictures show, with finished runs: of those on the images that were trained on last the best (the ensemble
of level 4, else the highest level), or those named with --run, which then vote. Pictures (PNG, JPEG, WebP) are
decoded as the training's were. Probabilities are calibrated by one temperature, fitted on the validation images.
Under 50 % a prediction is more likely wrong than right: it is marked "low confidence"."""

_PREDICT_EXAMPLES = """\
examples:
  cifarlib predict cat.jpg dog.png
  cifarlib predict photos --json > predictions.jsonl      one JSON object a line, an image each
  cifarlib predict cat.jpg --run runs/level2-0123456789ab --cam overlays

exit status: 0 all pictures are predicted; 1 some could not be, and are named; 2 nothing could be done."""

_RUNS = """\
List what is in the run root, the newest first: state, epochs, test accuracy, size and age. Every file of a
finished run is compared with its checksum. Nothing is changed."""

_RUNS_EXAMPLES = """\
states: finished; training (by a process that is alive); interrupted (the same command resumes it); damaged (the
command that deletes it is printed); foreign (no run of this version of cifarlib: never touched).

exit status: 0, or 1 where a run is damaged."""

_DOCTOR = """\
Look at this machine before a study: versions, device and precision, memory, disk, images, weights, and how long
the trainings will take here, from a few timed batches. Give the same --profile, --data-root, --run-root and --set
as for the study: memory, disk and times are those of its images and settings. Nothing is downloaded or left
behind, and without --network nothing leaves this machine."""

_DOCTOR_EXAMPLES = """\
examples:
  cifarlib doctor
  cifarlib doctor --profile full --network
  cifarlib doctor --profile full --data-root leaves --set image_size=96
  cifarlib doctor --no-timing --json

exit status: 0, or 1 where a problem would stop a study; 2 the request was refused."""

_EXPORT = """\
Write a finished run as an ONNX model: stored pictures in (uint8 [N, height, width, 3], any N), calibrated
probabilities and logits out, normalisation and resize inside. It is compared with the original in onnxruntime. A
model card lies beside it: data, recipe, measures with intervals, limits, checksums. Needs
pip install 'cifarlib[export]'."""

_EXPORT_EXAMPLES = """\
examples:
  cifarlib export runs/level2-0123456789ab
  cifarlib export runs/level2-0123456789ab --out deploy

exit status: 0 it is written; 2 it is not."""


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    top = argparse.ArgumentParser(
        prog="cifarlib",
        description=_TOP,
        epilog=_TOP_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"cifarlib {version()}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, about: str, description: str, epilog: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=about,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    report = command("report", "execute the notebooks and write HTML reports", _REPORT, _EXAMPLES)
    add = report.add_argument
    add("levels", nargs="*", metavar="LEVEL", help="level1 to level4, or 1 to 4 (default: all)")
    _add_study(report)
    add("--out", metavar="DIR", help="the report folder (default: reports/<profile>)")
    add(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a parameter of the notebooks that declare it, such as ablation of level 2; VALUE is read "
        "as YAML (repeatable)",
    )
    add("--notebooks", metavar="DIR", help="where the notebooks are (default: beside the package)")
    add("--note", default="", metavar="TEXT", help="Markdown for the top of every page: what this run is, say")
    add(
        "--readme",
        metavar="FILE",
        help="also put the results table, or that of --check's reports, into this Markdown file, at its marks",
    )
    add(
        "--check", metavar="DIR", help="run nothing: compare the cells of DIR's reports with the present notebooks"
    )
    evaluate = command("evaluate", "test the levels on another set of images", _EVALUATE, _EVALUATE_EXAMPLES)
    evaluate.add_argument("path", metavar="PATH", help="a folder of images, or CIFAR-10.1's *_data.npy")
    evaluate.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _add_study(evaluate)

    train = command("train", "train a level or another recipe", _TRAIN, _TRAIN_EXAMPLES)
    known = ", ".join([*recipes.LEVELS, *_others()])
    train.add_argument("names", nargs="+", metavar="NAME", help=f"1 to 4, or: {known}")
    train.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="share every batch between N GPUs, or N processes on a CPU (default: 1); the result is the same up "
        "to rounding, but for BatchNorm on a CPU, which then sees a share of the batch",
    )
    _add_study(train)

    predict = command("predict", "say what pictures show", _PREDICT, _PREDICT_EXAMPLES)
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders of them")
    add = predict.add_argument
    add("--run", dest="runs", action="append", metavar="PATH", help="a finished run's folder (repeatable: a vote)")
    _add_run_root(predict)
    add("--json", action="store_true", help="print one JSON object a line instead of a table")
    add("--cam", metavar="DIR", help="also write where the models look (Grad-CAM), a PNG there for each image")

    runs = command("runs", "list what has been trained", _RUNS, _RUNS_EXAMPLES)
    _add_run_root(runs)
    runs.add_argument("--json", action="store_true", help="print JSON instead of a table")

    doctor = command("doctor", "check this machine, and time it", _DOCTOR, _DOCTOR_EXAMPLES)
    add = doctor.add_argument
    add("--profile", default="auto", metavar="P", help="full, demo or auto (the default), as for report")
    _add_run_root(doctor)
    add("--data-root", default=_DATA_ROOT, metavar="DIR", help="where images are, or go (default: data)")
    _add_set(doctor)
    add("--network", action="store_true", help="ask every mirror whether it has its file")
    add("--no-timing", action="store_true", help="leave the timed batches out, up to a minute on a CPU")
    add("--json", action="store_true", help="print JSON instead of lines")

    export = command("export", "write a run as an ONNX model with a card", _EXPORT, _EXPORT_EXAMPLES)
    export.add_argument("run", metavar="RUN", help="a finished run's folder (cifarlib runs lists them)")
    export.add_argument("--out", metavar="DIR", help="where to write (default: exports/<run>)")
    return top


def _others() -> list[str]:
    """Name the recipes that are trained and are no level."""
    return [*recipes.COMPARED, "efficientnet", "convnext"]


def _add_run_root(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--run-root", default="runs", metavar="DIR", help="where training runs are kept (default: runs)"
    )


def _add_study(command: argparse.ArgumentParser) -> None:
    """Add the options that say which study is meant."""
    add = command.add_argument
    add(
        "--profile",
        default="auto",
        metavar="P",
        help="full: CIFAR-10 or your images, ImageNet weights. demo: built-in images, no download, minutes "
        "on a CPU. auto (the default): full where CUDA is available, else demo",
    )
    add("--seed", type=int, default=0, metavar="N", help="seed of training (default: 0)")
    _add_run_root(command)
    add("--data-root", default=_DATA_ROOT, metavar="DIR", help="where images are, or go (default: data)")
    _add_set(command)


def _add_set(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        dest="fields",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of every recipe (epochs=2), of one (level2.epochs=2), or of the profile "
        f"(train_size=1000, seeds=3) (repeatable). Fields of recipes: {', '.join(recipes.RECIPE_FIELDS)}; of the "
        f"profile: {', '.join(recipes.PROFILE_FIELDS)}",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parser().parse_args(arguments)
    options.arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):  # a class name that a terminal cannot show must not end a command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if "fields" in options:  # what is wrong with it is said before torch is waited for
        try:
            options.overrides = dict(map(_field, options.fields))
            _check_data_root(options)
        except ValueError as error:
            return _refuse(error)
    try:
        return _COMMANDS[options.command](options)
    except BrokenPipeError:  # whoever read the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        # The others keep nothing on the way.
        resumes = options.command == "train" or (options.command == "report" and not options.check)
        kept = "; the same command goes on where it stopped" if resumes else ""
        print(f"\ncifarlib: interrupted{kept}", file=sys.stderr)
        return 130


def _report_or_check(options: argparse.Namespace) -> int:
    return _check(options) if options.check else _report(options)


def _check(options: argparse.Namespace) -> int:
    try:
        differences = reports.check(options.check, options.notebooks)
        if options.readme:
            _check_readme(options.readme)
            reports.update_readme(options.readme, options.check)
    except (ValueError, OSError) as error:
        return _refuse(error)
    for difference in differences:
        print(difference)
    print(f"{options.check}: {'stale: run cifarlib report again' if differences else 'up to date'}")
    return 1 if differences else 0


def _report(options: argparse.Namespace) -> int:
    try:
        if options.readme:
            _check_readme(options.readme)
        request = reports.plan(
            options.levels,
            profile=options.profile,
            out=options.out,
            seed=options.seed,
            run_root=options.run_root,
            data_root=options.data_root,
            parameters={name: reports.parse_value(text) for name, text in options.parameters},
            overrides=options.overrides,
            notebooks=options.notebooks,
            note=options.note,
        )
    except (ValueError, OSError, MemoryError, ModuleNotFoundError) as error:
        return _refuse(error)
    except RuntimeError as error:
        from cifarlib.runs import RunError  # not above: with torch it takes seconds, and most mistakes none

        if not isinstance(error, RunError):
            raise
        return _refuse(error)
    if not reports.run(request):
        return 1
    if options.readme:
        reports.update_readme(options.readme, request.out)
    return 0


def _check_readme(path: str) -> None:
    try:
        reports.results_place(path)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ValueError(
            f"--readme {printable(path)} cannot be read ({why}): give a Markdown file with the marks "
            "between which the results go"
        ) from None


def _check_data_root(options: argparse.Namespace) -> None:
    """Refuse a folder of images that is named and not there: it would be filled with CIFAR-10 instead."""
    named = Path(options.data_root) != Path(_DATA_ROOT)
    if options.profile == "demo":
        if named and "RANK" not in os.environ:  # in no process of several, which their parent has said it for
            _say(f"profile demo draws its own images: --data-root {printable(options.data_root)} is not used")
    elif named and not Path(options.data_root).exists():
        root = shlex.quote(printable(options.data_root))
        raise ValueError(
            f"--data-root {root} does not exist: give the folder of your images, or make it for CIFAR-10 to be "
            f"downloaded to (mkdir -p {root})"
        )


def _evaluate(options: argparse.Namespace) -> int:
    from cifarlib import tables
    from cifarlib.study import Study

    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is the table's, or the JSON's
            study = Study(
                options.profile,
                seed=options.seed,
                run_root=options.run_root,
                data_root=options.data_root,
                overrides=options.overrides,
            )
            found = study.evaluate(study.load_test(options.path), Path(options.path).name)
    except (ValueError, OSError, MemoryError) as error:
        return _refuse(error)
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    print(tables.second_test(found).to_string())
    absent = [f"Level {level[-1]}" for level in reports.LEVELS if level not in found["levels"]]
    if absent:
        print(f"Not run in this setting: {', '.join(absent)}.")
    print(f"Models of seed {study.seed}; {study.notice().splitlines()[0]}".replace("**", ""))
    missing = [name for name, count in found["classes"].items() if not count]
    if missing:
        print(f"There are no images of {', '.join(missing)}.")
    return 0


# --- train -------------------------------------------------------------------------------------------------


def _train(options: argparse.Namespace) -> int:
    try:
        names = _names(options.names)
    except ValueError as error:  # before torch is waited for
        return _refuse(error)
    from cifarlib import parallel

    if parallel.rank():  # the first process speaks for all
        os.environ["CIFARLIB_PROGRESS"] = "0"
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            return _train_here(options, names)
    return _train_here(options, names)


def _train_here(options: argparse.Namespace, names: Sequence[str]) -> int:
    from cifarlib import parallel
    from cifarlib.runs import RunError
    from cifarlib.study import Study
    from cifarlib.training import DivergedError

    try:
        if parallel.world() == 1:
            _refuse_devices(options.devices)
        study = Study(
            options.profile,
            seed=options.seed,
            run_root=options.run_root,
            data_root=options.data_root,
            overrides=options.overrides,
        )
        study.check(runs=[member for name in names for member in recipes.members(name)])
    except (ValueError, OSError, MemoryError, RunError) as error:
        return _refuse(error)
    if options.devices > 1 and parallel.world() == 1:
        study.release_images()  # each process reads them itself
        return _in_processes(options)
    for name in names:
        try:
            _train_one(study, name)
        except (RunError, DivergedError, ValueError, OSError, MemoryError) as error:
            print(f"cifarlib: {name} was not trained: {error}", file=sys.stderr)
            print("Mend that and give the same command again: it loads what is finished.", file=sys.stderr)
            return 1
    return 0


def _names(given: Sequence[str]) -> list[str]:
    """Return the names of what is to be trained, each once; ValueError lists them where one is unknown."""
    known = [*recipes.LEVELS, *_others()]
    for name in given:
        if name not in known and f"level{name}" not in recipes.LEVELS:
            raise ValueError(f"unknown run {name!r}: known are {', '.join(known)}")
    return list(dict.fromkeys(name if name in known else f"level{name}" for name in given))


def _refuse_devices(devices: int) -> None:
    import torch

    if devices < 1:
        raise ValueError(f"--devices {devices}: give 1 or more")
    if torch.cuda.is_available() and devices > torch.cuda.device_count():
        raise ValueError(f"--devices {devices}: this machine has {torch.cuda.device_count()} CUDA devices")


def _in_processes(options: argparse.Namespace) -> int:
    """Give the same command to as many processes, by torchrun."""
    count = options.devices
    print(f"Training in {count} processes that share every batch.", flush=True)
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    # Its own logs, which hold nothing here, would stay in the folder for temporary files.
    command += [f"--log-dir={os.devnull}", "-m", "cifarlib", *options.arguments]
    with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": threads}) as torchrun:
        try:
            return torchrun.wait()
        except KeyboardInterrupt:
            # The terminal interrupted torchrun too. Its processes are not the terminal's: it ends them, in half a
            # minute at most, and killed by then would leave them at work.
            try:
                torchrun.wait(timeout=40)
            except subprocess.TimeoutExpired:  # this process alone was interrupted
                torchrun.send_signal(signal.SIGINT)
                torchrun.wait()
            raise


def _train_one(study: Study, name: str) -> None:
    """Train a recipe, or level 4's members, under each of the study's seeds; print what came of it."""
    from cifarlib import evaluation, progress, tables

    members = recipes.members(name)
    for seed in study.seeds:
        of_seed = f", seed {seed}" if len(study.seeds) > 1 else ""
        found = []
        for member in members:
            run = study.run(member, seed=seed)
            found.append(run)
            accuracy, n = run.metrics["test_accuracy"], len(run.predictions["test_labels"])
            took = progress.duration(run.metrics["seconds"])
            balanced = _balanced(run.predictions["test_probs"], run.predictions["test_labels"])
            said = f"test accuracy {tables.interval(accuracy, n)} on {n:,} images{balanced}, trained in {took}"
            print(f"{member}{of_seed}: {said}; it lies in {run.path}")
        if len(found) > 1:
            labels = found[0].predictions["test_labels"]
            vote = evaluation.soft_vote([run.predictions["test_probs"] for run in found])
            accuracy = evaluation.accuracy(vote, labels)
            said = f"test accuracy {tables.interval(accuracy, len(labels))}{_balanced(vote, labels)}"
            print(f"{name}{of_seed}: the members' vote has {said}")


def _balanced(probs: np.ndarray, labels: np.ndarray) -> str:
    """Complete a sentence by the balanced accuracy, where the classes' sizes make it another than the accuracy."""
    from cifarlib import evaluation, tables

    if not evaluation.unbalanced(labels):
        return ""
    return f", balanced accuracy {tables.percent(evaluation.balanced_accuracy(probs, labels))}"


# --- predict -----------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _predict(options: argparse.Namespace) -> int:
    from cifarlib import predicting, progress, runs

    files, faults = predicting.find_images(options.images)
    for fault in faults.values():
        _say(f"cifarlib: {fault}")
    if not files:
        return 2
    overlays = Path(options.cam) if options.cam else None
    try:
        if options.runs:
            members = [predicting.opened(path) for path in dict.fromkeys(options.runs)]
        else:
            members = predicting.choose(options.run_root, _say)
        predictor = predicting.Predictor(members)
        if overlays is not None:
            predictor.check_maps()
            _make_folder(overlays)
    except (ValueError, OSError, MemoryError, runs.RunError) as error:
        return _refuse(error)
    taken: set[str] = set()
    width = max([4, *(len(_shown(file)) for file in files)])
    columns = max(5, *(len(_shown(name)) for name in predictor.classes))
    failed, done, low = bool(faults), 0, 0
    for start in range(0, len(files), predicting.PIECE):
        piece = files[start : start + predicting.PIECE]
        predictions, wrong = predictor.probs(progress.bar(piece, what="reading pictures", unit="picture"))
        for file in piece:
            if file in wrong:
                _say(f"cifarlib: {wrong[file]}")
        failed |= bool(wrong)
        if predictions and not done and not options.json:
            print(f"{'file':<{width}}  {'class':<{columns}}  probability  runner-up")
        for each in predictions:
            written = None
            if overlays is not None:
                try:
                    written = _write_overlay(predictor, each, overlays, taken)
                except (ValueError, OSError) as error:
                    _say(f"cifarlib: no overlay of {printable(each.file)}: {error}")
                    failed = True
            print(_json_line(predictor, each, written) if options.json else _row(predictor, each, width, columns))
            low += each.low
        done += len(predictions)
    if not done:
        return 2
    if low and not options.json:
        print(f"low confidence: under {100 * predicting.CONFIDENT:.0f} %, more likely wrong than right.")
        print(predictor.threshold or "The runs share no validation images that could say more.")
    return 1 if failed else 0


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = "is a file" if path.is_file() else f"cannot be made ({error.strerror})"
        raise ValueError(f"--cam {printable(path)} {why}: give a folder for the overlays") from None


def _shown(name: str, limit: int = 48) -> str:
    """Return a name on one line and not too long for a table; of a path, its end tells most."""
    name = printable(name)
    return name if len(name) <= limit else f"…{name[1 - limit :]}"


def _row(predictor: Predictor, each: Prediction, width: int, columns: int) -> str:
    first, second = (_shown(predictor.classes[i]) for i in (each.label, each.runner_up))
    runner_up = f"{second} {100 * each.probs[each.runner_up]:.1f} %"
    mark = "  low confidence" if each.low else ""
    row = f"{_shown(each.file):<{width}}  {first:<{columns}}  {100 * each.probability:9.1f} %  "
    return f"{row}{runner_up:<{columns + 7}}{mark}".rstrip()


def _json_line(predictor: Predictor, each: Prediction, overlay: Path | None) -> str:
    classes = predictor.classes
    found = {
        "file": printable(each.file),
        "class": classes[each.label],
        "probability": each.probability,
        "low_confidence": each.low,
        "runner_up": {"class": classes[each.runner_up], "probability": float(each.probs[each.runner_up])},
        "probabilities": {name: float(p) for name, p in zip(classes, each.probs, strict=True)},
    }
    return json.dumps(found | ({"overlay": printable(overlay)} if overlay else {}), allow_nan=False)


def _write_overlay(predictor: Predictor, each: Prediction, folder: Path, taken: set[str]) -> Path:
    """Write where the models look; a file of an earlier call is replaced, and that is said."""
    from cifarlib.predicting import OVERLAY

    stem, number = Path(each.file).stem, 1
    name = f"{stem}{OVERLAY}"
    while name in taken:  # another picture of that name, from another folder
        number += 1
        name = f"{stem}-{number}{OVERLAY}"
    taken.add(name)
    path = folder / name
    content = predictor.overlay(each)
    if path.exists():
        _say(f"Replacing {printable(path)}")
    path.write_bytes(content)
    return path


# --- runs --------------------------------------------------------------------------------------------------


def _runs(options: argparse.Namespace) -> int:
    from cifarlib import runs

    root = Path(options.run_root)
    if not root.is_dir():
        if root.exists():
            return _refuse(NotADirectoryError(f"{root} is a file: give the folder of the runs as --run-root"))
        _say(f"There is no folder {root} yet: cifarlib train or report makes it, --run-root names another.")
    try:
        found = runs.survey(root)
    except runs.RunError as error:
        return _refuse(error)
    damaged = [each for each in found if each.state == "damaged"]
    if options.json:
        print(json.dumps([_run_record(each) for each in found], indent=2, allow_nan=False))
        return 1 if damaged else 0
    if not found:
        print(f"No runs under {root}.")
        return 0
    now = time.time()
    width = max(len(_shown(each.path.name, 40)) for each in found)
    print(f"{'run':<{width}}  {'state':<11}  {'epochs':>7}  {'test':>8}  {'size':>9}  age")
    for each in found:
        epochs = f"{each.epochs}/{each.recipe.epochs}" if each.recipe else ""
        accuracy = "" if each.test_accuracy is None else f"{100 * each.test_accuracy:.2f} %"
        size = f"{each.size / 2**20:,.1f} MiB"
        columns = f"{each.state:<11}  {epochs:>7}  {accuracy:>8}  {size:>9}  {_age(now - each.modified)}"
        print(f"{_shown(each.path.name, 40):<{width}}  {columns}")
    plural = "s" if len(found) > 1 else ""
    print(f"{len(found)} folder{plural}, {sum(each.size for each in found) / 2**20:,.1f} MiB, in {root}")
    if any(each.state == "interrupted" for each in found):
        print("An interrupted run goes on where it stopped: give the same command, with the same settings, again.")
    reasons: dict[tuple[str, str], list[str]] = {}  # many folders may have one
    for each in found:
        if each.reason:
            reason = printable(each.reason).removeprefix(f"{printable(each.path)} ")
            reasons.setdefault((each.state, reason), []).append(_shown(str(each.path)))
    for (state, reason), paths in reasons.items():
        many = f" and {len(paths) - 1} more, each of which" if len(paths) > 1 else ""
        # Where a file is at fault, the reason names it, and with it the folder.
        print(
            f"{state}: {reason}" if reason.startswith(printable(root)) else f"{state}: {paths[0]}{many} {reason}"
        )
    for each in damaged:
        print(f"To delete it: rm -r {shlex.quote(printable(each.path))}")
    return 1 if damaged else 0


def _run_record(found: Found) -> dict[str, Any]:
    recipe = found.recipe
    return {
        "path": printable(found.path),
        "recipe": recipe.name if recipe else None,
        "model": recipe.model if recipe else None,
        "seed": recipe.seed if recipe else None,
        "state": found.state,
        "reason": printable(found.reason),
        "epochs": found.epochs,
        "epochs_of": recipe.epochs if recipe else None,
        "test_accuracy": found.test_accuracy,
        "bytes": found.size,
        "modified": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found.modified)),
    }


def _age(seconds: float) -> str:
    """Write an age in the largest unit that it fills: 3 days, 5 h, 12 min."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= (2 if unit == "days" else 1) * length:
            return f"{seconds / length:.0f} {unit}"
    return "now"


# --- doctor and export -------------------------------------------------------------------------------------


def _doctor(options: argparse.Namespace) -> int:
    from cifarlib import doctor

    found = []
    try:
        for check in doctor.examine(
            options.profile,
            overrides=options.overrides,
            run_root=options.run_root,
            data_root=options.data_root,
            network=options.network,
            timing=not options.no_timing,
            say=_say,
        ):
            found.append(check)
            if not options.json:
                remedy = f": {check.remedy}" if check.remedy else ""
                print(f"{check.state:<8}{check.name}: {check.found}{remedy}", flush=True)
    except ValueError as error:
        return _refuse(error)
    problems = sum(check.state == "problem" for check in found)
    if options.json:
        print(json.dumps([vars(check) for check in found], indent=2, allow_nan=False))
    elif problems:
        print(f"{problems} problem{'s' if problems > 1 else ''} would stop a study: see above.")
    else:
        print("Nothing here would stop a study.")
    return 1 if problems else 0


def _export(options: argparse.Namespace) -> int:
    from cifarlib import exporting
    from cifarlib.runs import RunError

    try:
        folder = exporting.export(options.run, options.out, say=functools.partial(print, flush=True))
    except (ValueError, OSError, MemoryError, ModuleNotFoundError, RunError) as error:
        return _refuse(error)
    print(f"Written: {folder / exporting.MODEL}\n         {folder / exporting.CARD}")
    return 0


def _field(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text}: write FIELD=VALUE, such as --set epochs=2")
    return name.strip(), reports.parse_value(value)


def _refuse(error: Exception) -> int:
    print(f"cifarlib: {error}", file=sys.stderr)
    return 2


_COMMANDS = {
    "report": _report_or_check,
    "evaluate": _evaluate,
    "train": _train,
    "predict": _predict,
    "runs": _runs,
    "doctor": _doctor,
    "export": _export,
}

if __name__ == "__main__":
    sys.exit(main())
