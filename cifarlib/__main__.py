"""The command line: `report` executes the notebooks and writes the pages, `evaluate` tests on other images."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cifarlib import reports

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
(CLASS/*.jpg), or CIFAR-10.1's arrays (*_data.npy beside *_labels.npy). Trains nothing and writes nothing. Give the
same --profile, --seed, --run-root, --data-root and --set as the report that trained the levels."""

_EVALUATE_EXAMPLES = """\
examples:
  cifarlib evaluate my_photos
  cifarlib evaluate cifar10.1_v6_data.npy --profile full
  cifarlib evaluate my_photos --profile demo --json

exit status: 0 all went well; 2 the request was refused."""


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    top = argparse.ArgumentParser(
        prog="cifarlib",
        description="A CIFAR-10 transfer-learning study in four levels.",
        allow_abbrev=False,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    report = commands.add_parser(
        "report",
        help="execute the notebooks and write HTML reports",
        description=_REPORT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
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
    add("--readme", metavar="FILE", help="also put the results table into this Markdown file, between its marks")
    add("--check", metavar="DIR", help="run nothing: compare the reports in DIR with the present notebooks")
    evaluate = commands.add_parser(
        "evaluate",
        help="test the levels on another set of images",
        description=_EVALUATE,
        epilog=_EVALUATE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    evaluate.add_argument("path", metavar="PATH", help="a folder of images, or CIFAR-10.1's *_data.npy")
    evaluate.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _add_study(evaluate)
    return top


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
    add("--run-root", default="runs", metavar="DIR", help="where training runs are kept (default: runs)")
    add("--data-root", default="data", metavar="DIR", help="where images are, or go (default: data)")
    add(
        "--set",
        dest="fields",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of every recipe (epochs=2), of one (level2.epochs=2), or of the profile "
        "(train_size=1000, seeds=3) (repeatable)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "evaluate":
            return _evaluate(options)
        return _check(options) if options.check else _report(options)
    except KeyboardInterrupt:
        print("\ncifarlib: interrupted; the same command resumes after the last finished epoch", file=sys.stderr)
        return 130


def _check(options: argparse.Namespace) -> int:
    try:
        differences = reports.check(options.check, options.notebooks)
    except (ValueError, OSError) as error:
        return _refuse(error)
    for difference in differences:
        print(difference)
    print(f"{options.check}: {'stale: run cifarlib report again' if differences else 'up to date'}")
    return 1 if differences else 0


def _report(options: argparse.Namespace) -> int:
    try:
        if options.readme:
            reports.results_place(options.readme)
        request = reports.plan(
            options.levels,
            profile=options.profile,
            out=options.out,
            seed=options.seed,
            run_root=options.run_root,
            data_root=options.data_root,
            parameters={name: reports.parse_value(text) for name, text in options.parameters},
            overrides=dict(map(_field, options.fields)),
            notebooks=options.notebooks,
        )
    except (ValueError, OSError, MemoryError, ModuleNotFoundError) as error:
        return _refuse(error)
    if not reports.run(request):
        return 1
    if options.readme:
        reports.update_readme(options.readme, request.out)
    return 0


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
                overrides=dict(map(_field, options.fields)),
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


def _field(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text}: write FIELD=VALUE, such as --set epochs=2")
    return name.strip(), reports.parse_value(value)


def _refuse(error: Exception) -> int:
    print(f"cifarlib: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
