"""Ten minutes of a GPU: what only one can answer, in five parts, each kept on disk as it goes; see README.md.

    benchmarks/gpu.sh OUT --photos FILE --weights FILE --efficientnet-weights FILE --wheels FOLDER
    benchmarks/gpu.sh OUT --only 1,2      some parts alone
    benchmarks/gpu.sh OUT --tiny          a rehearsal, on a CPU too: some minutes

1 t4-stand-in   an epoch of every training within a T4's memory: does it fit, how long does it take
2 tests         tests/test_gpu.py
3 speed         EfficientNet-B0's epoch, the inputs alone, the stall ratios
4 graphs        CUDA graphs and torch.compile for the trunk and for a training step
5 photographs   levels 1 to 4 on photographs at 96 px

Each part works in a process of its own and within a time of its own, and leaves OUT/<number>-<name>.json.
"""

# Python's own modules alone: this process starts at once, installs what is missing, and outlives a broken torch.
import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = {  # with the seconds that each may take: what one leaves, the later ones have
    "1-t4-stand-in": 150,
    "2-tests": 110,
    "3-speed": 130,
    "4-graphs": 130,
    "5-photographs": 600,
}
LEAST = 20  # seconds under which a part is not worth starting: its imports take half of them
SPARE = 5  # seconds at the end, to stop a part and say so


class Record:
    """What a part has found, on disk: a reader finds the old file or the new one, never half of one."""

    def __init__(self, path):
        self.path = path
        self.found = json.loads(path.read_text()) if path.exists() else {}

    def keep(self, **more):
        self.found |= more
        temporary = self.path.with_suffix(".part")
        temporary.write_text(json.dumps(self.found, indent=1) + "\n")
        os.replace(temporary, self.path)


def said(error):
    """Say what went wrong in a line: torch appends a page of its backends."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:500]}"


def work(part, options, record):
    """Do a part, which returns why it was skipped, if it was; how it ends is recorded. Returns the exit status."""
    try:
        record.keep(outcome=part(options, record.keep) or "done")
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        record.keep(outcome=f"failed: {said(error)}")
        return 1
    return 0


def attend(commands, out, deadline, env=None):
    """Run the parts' commands in turn, each for its own seconds at most and none beyond the deadline.

    Args:
        commands: by name, the arguments of a process that keeps OUT/<name>.json, and the seconds it may take.
        out: the folder of these files; to each is added how the part ended, and after how long.
        deadline: when all must have ended, on the monotonic clock.
        env: the processes' environment.

    Returns how each ended, by name.
    """
    outcomes = {}
    for name, (command, seconds) in commands.items():
        started = time.monotonic()
        limit = min(seconds, deadline - started - SPARE)
        if limit < min(seconds, LEAST):
            ended = f"not started: only {max(0, deadline - started):.0f} s were left"
        else:
            print(f"== {name}, {limit:.0f} s at most", flush=True)
            ended = _run(command, limit, env)
        record = Record(out / f"{name}.json")
        outcomes[name] = record.found.get("outcome", ended)  # the part's own word is the better one
        record.keep(outcome=outcomes[name], seconds=round(time.monotonic() - started, 1))
        print(f"== {name}: {outcomes[name]} ({record.found['seconds']} s)", flush=True)
    return outcomes


def _run(command, limit, env):
    process = subprocess.Popen(command, env=env, process_group=0)  # so that none of its children outlives it
    try:
        return f"failed: ended with status {process.wait(limit)}"
    except subprocess.TimeoutExpired:
        return f"cut off after {limit:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the results")
    parser.add_argument("--only", default="1,2,3,4,5", metavar="1,2", help="the numbers of the parts to run (all)")
    parser.add_argument("--deadline", type=float, default=600, help="seconds after which all has ended (600)")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: few images, small, on a CPU too")
    parser.add_argument("--photos", type=Path, help="folder or tar archive of train/<class>/* and test/<class>/*")
    parser.add_argument("--train-images", type=int, default=10_000, help="photographs to train on (10,000)")
    parser.add_argument("--weights", type=Path, help="ResNet-50's state dict; without one it starts at random")
    parser.add_argument("--efficientnet-weights", type=Path, help="the same of EfficientNet-B0")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install for this run alone")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # a part's own process
    options = parser.parse_args(arguments)
    numbers = options.only.split(",")
    options.names = [name for name in PARTS if name[0] in numbers]
    if len(options.names) != len(numbers):
        parser.error(f"--only {options.only}: give numbers from 1 to {len(PARTS)}, with commas between")
    for path in (options.photos, options.weights, options.efficientnet_weights, options.wheels):
        if path is not None and not path.exists():
            parser.error(f"{path}: there is no such file or folder")
    for name in options.names:
        if options.part is None and (options.out / f"{name}.json").exists():
            parser.error(f"{options.out} holds {name}.json of an earlier run: give another folder")
    return options


def _part(options, keep):
    from benchmarks import gpu_parts  # here, so that a package that is missing is recorded too

    return gpu_parts.do(options, keep)


def main(arguments):
    started = time.monotonic()
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part:
        return work(_part, options, Record(options.out / f"{options.part}.json"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # else the part at work would go on
    with tempfile.TemporaryDirectory() as scratch:
        site = str(Path(scratch, "site"))
        if options.wheels:
            pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-compile", "--quiet"]
            subprocess.run([*pip, "--target", site, *options.wheels.glob("*.whl")], check=True)
        path = os.pathsep.join(filter(None, [str(ROOT), site, os.environ.get("PYTHONPATH")]))
        env = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "CIFARLIB_PROGRESS": "0"}
        env["TMPDIR"] = scratch  # so that a part that is cut off leaves nothing behind
        command = [sys.executable, "-P", __file__, *arguments, "--part"]
        commands = {name: ([*command, name], PARTS[name]) for name in options.names}
        outcomes = attend(commands, options.out, started + options.deadline, env)
    for name, outcome in outcomes.items():
        print(f"{name}: {outcome}")
    return int(any(not outcome.startswith(("done", "skipped")) for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
