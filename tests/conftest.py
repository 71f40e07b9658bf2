from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

# What a shell may have set decides no test, nor what the processes print that tests start.
for name in ("PYTEST_ADDOPTS", "FORCE_COLOR", "PY_COLORS", "NO_COLOR", "CIFARLIB_MIRROR", "CIFARLIB_PROGRESS"):
    os.environ.pop(name, None)
os.environ["COLUMNS"] = "80"
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several: the cores are shared out already
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
ROOT = Path(__file__).resolve().parents[1]
ARCHIVE = "cifar10-jpeg.tar.xz"
NEEDED_GB = 4  # checkpoints, for the most part: two processes were seen to hold 2.3 at the worst moment
IMAGES_PER_CLASS = {"train": 40, "test": 10}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also the tests marked slow, as .ci/run does: minutes")
    parser.addoption("--full-faults", action="store_true", help="all of the fault suite, not its quick part")
    parser.addoption("--colab", action="store_true", help="also the tests beside Colab's versions: minutes, GBs")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse to start all tests where a full disk would fail hundreds of them, each with an error of its own."""
    config, folder = session.config, tempfile.gettempdir()
    every = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword
    free = shutil.disk_usage(folder).free / 1e9
    if every and free < NEEDED_GB:
        raise pytest.UsageError(
            f"{folder} has {free:.1f} GB free and the tests write up to {NEEDED_GB} GB there: "
            "make room, or set TMPDIR to a folder on another disk"
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is slow, unless it is asked for or named; put the files that take minutes first.

    So of several processes none is left with one of them last.
    """
    asked_for = config.option.slow or config.option.full_faults or any("::" in name for name in config.args)
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow and not asked_for:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in set(slow)]
    long = ("test_notebooks", "test_training", "test_parallel", "test_kills", "test_pages", "test_study")
    items.sort(key=lambda item: next((k for k, name in enumerate(long) if name in item.path.stem), len(long)))


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return `tally(subject, **counts)`, which adds to the counts of faults that are printed after the tests."""

    def add(subject: str, **counts: int) -> None:
        # A test's properties reach the process that prints, where several share the tests.
        request.node.user_properties.append(("faults", {"subject": subject, "counts": counts}))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts of faults, one line a subject."""
    found: dict[str, Counter[str]] = {}
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            if name == "faults":
                found.setdefault(value["subject"], Counter()).update(value["counts"])
    if found:
        terminalreporter.section("faults")
        width = max(map(len, found))
        for subject, counts in sorted(found.items()):
            words = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in counts.items() if count)
            terminalreporter.write_line(f"{subject:{width}}  {words}")


@pytest.fixture(scope="session", autouse=True)
def _no_live_progress() -> Iterator[None]:
    """Keep live bars out of captured output, in processes that a test starts too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIFARLIB_PROGRESS", "0")
        yield


@pytest.fixture(scope="session", autouse=True)
def _nothing_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run in an empty folder: the user's `runs`, `data` and `reports` decide no test, and none adds to them."""
    folder = tmp_path_factory.mktemp("nothing_here")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))  # weights that were downloaded
        yield
    assert [path.name for path in folder.iterdir()] == [], "a test left this behind"


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of real CIFAR-10 photographs: `train/<class>/*.jpg` (40 a class), `test/<class>/*.jpg` (10).

    Taken from `cifar10-jpeg.tar.xz` in `$CIFARLIB_TEST_DATA`, or else in `../shared/data` beside the clone.
    """
    folder = Path(os.environ.get("CIFARLIB_TEST_DATA") or ROOT.parent / "shared" / "data")
    archive = folder / ARCHIVE
    if not archive.is_file():
        pytest.skip(f"{archive.name} not present: set CIFARLIB_TEST_DATA to a folder holding it")
    images = tmp_path_factory.mktemp("photographs")
    kept: Counter[PurePosixPath] = Counter()
    # "r|xz" reads the archive once, front to back; looking members up by name would unpack it twice.
    with tarfile.open(archive, "r|xz") as members:
        for member in members:
            place = PurePosixPath(member.name)
            part = place.parts[0] if place.parts else ""
            if member.isfile() and kept[place.parent] < IMAGES_PER_CLASS.get(part, 0):
                members.extract(member, images, filter="data")
                kept[place.parent] += 1
    return images
