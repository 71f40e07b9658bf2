"""Reports: the notebooks executed by papermill, their pages by nbconvert, and an index over them.

    plan    every name, value and file that a user may have got wrong, checked before anything runs
    run     level by level: execute, clean, write, and publish what there is so far
    check   whether the reports in a folder come from the present notebooks

A report folder holds `level1_baseline.ipynb` (executed) and `.html` for each level, `results.json` and
`index.html`. Pages are self-contained and hold no script; notebooks hold no machine path and no time stamp.
"""

from __future__ import annotations

import ast
import base64
import concurrent.futures
import contextlib
import hashlib
import io
import json
import math
import os
import re
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarlib import documented, progress, recipes
from cifarlib.recipes import nearest
from cifarlib.text import code_span, printable, version

if TYPE_CHECKING:
    import bs4
    import nbformat
    from matplotlib.figure import Figure

    from cifarlib.study import Study

LEVELS = tuple(documented.LEVELS)
ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = Path(__file__).resolve().parent / "templates"

# Notebook parameters that have an option of their own.
_OPTIONS = {
    "profile": "--profile",
    "seed": "--seed",
    "run_root": "--run-root",
    "data_root": "--data-root",
    "overrides": "--set",
    "drive": "--run-root and --data-root, after mounting Google Drive in a cell",
}
_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "dict": (dict,),
    "list": (list,),
}
_LEAST = {"shift_images": 1, "cam_images": 1}  # what the notebooks refuse too; any other count may be 0
_INJECTED = "injected-parameters"
_START_SECONDS = 60  # how long a notebook's Python process may take to answer
_REPORT_BYTES = 50 * 2**20  # four notebooks and their pages, generously


# --- Planning ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One notebook to execute: the level, the file, all its parameters, and those set with `-p`."""

    level: str
    notebook: Path
    parameters: dict[str, Any]
    chosen: dict[str, Any]


@dataclass(frozen=True)
class Page:
    """What became of one level: its notebook and its checksum, the time it took, why it failed if it did."""

    notebook: str
    sha256: str
    parameters: dict[str, Any]
    failure: str = ""
    seconds: float | None = None

    @property
    def html(self) -> str:
        """The page's file name."""
        return Path(self.notebook).with_suffix(".html").name


@dataclass(frozen=True)
class Plan:
    """A checked request: nothing in it can be mistyped any more. `pages` are the folder's earlier ones."""

    study: Study
    out: Path
    jobs: tuple[Job, ...]
    pages: dict[str, Page]
    overrides: dict[str, Any]
    note: str = ""


def plan(
    levels: Sequence[str] = (),
    *,
    profile: str = "auto",
    out: str | Path | None = None,
    seed: int = 0,
    run_root: str | Path = "runs",
    data_root: str | Path = "data",
    parameters: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    notebooks: str | Path | None = None,
    note: str = "",
) -> Plan:
    """Check a request for reports: names and values, images, weights and room; no report and no run is written.

    Args:
        levels: `level1` to `level4`, or `1` to `4`; none for all.
        profile: As for `Study`.
        out: The report folder; None for `reports/<profile>`.
        seed: As for `Study`.
        run_root: As for `Study`.
        data_root: As for `Study`.
        parameters: Further notebook parameters by name; each goes to the notebooks that declare it.
        overrides: Recipe or profile fields, as for `recipes.resolve`.
        notebooks: Folder of the notebooks; None for the one beside the package.
        note: Markdown for the top of every page, beneath what the study says of itself; none keeps an earlier one.

    Raises:
        ValueError: an unknown level, profile, parameter or field, named with the nearest right one, a value
            of the wrong type, or a folder that holds another study's reports, or what is no report.
        OSError: a level's notebook is missing, the images or weights cannot be had, or nothing can be written.
        MemoryError: the images do not fit into memory.
        ModuleNotFoundError: papermill, nbconvert or ipykernel is missing; the message names the extra.
    """
    _require("papermill", "nbconvert", "ipykernel")
    chosen_levels = _levels(levels)
    files = [find_notebook(level, notebooks) for level in chosen_levels]
    profiles = ("full", "demo", "auto")
    if profile not in profiles:
        raise ValueError(f"unknown profile {profile!r}{nearest(profile, profiles)}")
    declared = [_declared(file) for file in files]
    given = dict(parameters or {})
    _check_parameters(given, dict(zip(chosen_levels, declared, strict=True)))

    from cifarlib import runs
    from cifarlib.study import Study

    study = Study(profile, seed=seed, run_root=run_root, data_root=data_root, overrides=overrides)
    common = {
        "profile": study.profile.name,
        "seed": seed,
        "run_root": str(run_root),
        "data_root": str(data_root),
        "overrides": dict(overrides or {}),
    }
    jobs = []
    for level, file, names in zip(chosen_levels, files, declared, strict=True):
        own = {name: value for name, value in given.items() if name in names}
        shared = {name: value for name, value in common.items() if name in names}
        jobs.append(Job(level, file, shared | own, own))
    folder = Path(out) if out is not None else Path("reports") / study.profile.name
    if folder.resolve() in {file.resolve().parent for file in files}:
        raise ValueError(
            f"--out {folder} is where the notebooks are, and would overwrite them: choose another folder"
        )
    request = Plan(study, folder, tuple(jobs), {}, dict(overrides or {}), note)
    request = replace(request, pages=_earlier_pages(request))
    runs.check_disk(folder, _REPORT_BYTES)
    arms = [name for job, names in zip(jobs, declared, strict=True) for name in _arms(job, names)]
    study.check(*chosen_levels, *arms, maps=("level2", "level3") if "level3" in chosen_levels else ())
    if not study.builtin:  # built-in ones follow from the settings
        request = replace(request, pages=_earlier_pages(request, study.outline.fingerprint))
    if given.get("second_test"):
        study.load_test(given["second_test"])
    study.release_images()  # the kernels read them themselves, and need the memory
    return request


def _arms(job: Job, declared: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what a level's notebook trains besides the level, by its parameters or what they are by default."""
    asked = {name: arms for name, arms in recipes.ASKED_FOR[job.level].items() if name in declared}
    on = [name for name in asked if job.parameters.get(name, declared[name]["default"]) in (True, "True")]
    return [arm for name in on for arm in asked[name]]


def find_notebook(level: str, notebooks: str | Path | None = None) -> Path:
    """Return the notebook of `level`, `<level>_*.ipynb`; FileNotFoundError if there is not exactly one."""
    folder = Path(notebooks) if notebooks is not None else ROOT / "notebooks"
    found = sorted(folder.glob(f"{level}_*.ipynb"))
    if len(found) != 1:
        what = "no notebook" if not found else f"{len(found)} notebooks"
        raise FileNotFoundError(
            f"{what} {level}_*.ipynb in {folder}: run from a checkout of the repository, or name the folder "
            "with --notebooks"
        )
    return found[0]


def parse_value(text: str) -> Any:
    """Read a value typed on the command line as YAML does, and `1e-3` as the number it is.

    Raises:
        ValueError: the text is no YAML value.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"cannot read the value {text!r}: {str(error).splitlines()[0]}") from None
    # YAML 1.1 wants 1.0e-3; everyone writes 1e-3.
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", value):
        return float(value)
    return value


def _levels(names: Sequence[str]) -> list[str]:
    chosen = set()
    for name in names:
        level = f"level{name}" if name.isdigit() else name
        if level not in LEVELS:
            hint = ": use 1 to 4" if name.isdigit() else nearest(name, LEVELS)
            raise ValueError(f"unknown level {name!r}{hint}")
        chosen.add(level)
    return sorted(chosen) or list(LEVELS)


def _declared(notebook: Path) -> dict[str, dict[str, Any]]:
    """Return what the notebook's parameters cell declares: name -> type's name, default's source."""
    import papermill

    declared: dict[str, dict[str, Any]] = papermill.inspect_notebook(_literal(notebook))
    return declared


def _literal(path: Path) -> str:
    """Write a path so that papermill, which formats paths, leaves it as it is."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _check_parameters(given: Mapping[str, Any], declared: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a parameter that has an option, that no notebook declares, or whose value has the wrong type."""
    known = dict.fromkeys(name for names in declared.values() for name in names if name not in _OPTIONS)
    for name, value in given.items():
        if name in _OPTIONS:
            raise ValueError(f"parameter {name!r} has an option of its own: use {_OPTIONS[name]}")
        if name not in known:
            hint = nearest(name, known) if known else ": there are none besides the options"
            raise ValueError(f"unknown notebook parameter {name!r} of {', '.join(declared)}{hint}")
        for names in declared.values():
            if name in names:
                _check_type(name, value, names[name])


def _check_type(name: str, value: Any, parameter: Mapping[str, Any]) -> None:
    kind = str(parameter["inferred_type_name"]).partition("[")[0].strip()
    if kind not in _TYPES:  # not annotated: the default says it
        kind = type(ast.literal_eval(parameter["default"])).__name__
    allowed = _TYPES.get(kind)
    least = _LEAST.get(name, 0)
    if kind == "int" and type(value) is int and value < least:
        raise ValueError(f"parameter {name}={value} counts something: give {least} or more")
    if allowed is not None and type(value) not in allowed:
        raise ValueError(
            f"parameter {name}={value!r} is {type(value).__name__}, and the notebook declares {kind} "
            f"(default {parameter['default']})"
        )


def _earlier_pages(request: Plan, fingerprint: str = "") -> dict[str, Page]:
    """Return the pages that the folder already holds of this very study, by level.

    Pages of another one would stand beside results that are not theirs: they are replaced together, or not. Its
    images are compared where their fingerprint is given.
    """
    earlier = _read_results(request.out)
    if earlier is None:
        if (request.out / "index.html").exists():
            raise ValueError(
                f"{request.out} holds an index.html that is no report's, and it would be overwritten: choose "
                "another --out"
            )
        return {}
    pages = {
        level: Page(
            page["notebook"],
            earlier["notebooks"].get(page["notebook"], ""),
            page.get("parameters", {}),
            page.get("failure", ""),
            page.get("seconds"),
        )
        for level, page in earlier.get("pages", {}).items()
        if (request.out / page["notebook"]).is_file()
    }
    now = {
        "profile": request.study.profile.name,
        "seed": request.study.seed,
        "overrides": _strict(request.overrides),
    }
    if fingerprint and earlier["data"]:
        earlier, now = earlier | {"images": earlier["data"]["fingerprint"]}, now | {"images": fingerprint}
    differ = [key for key, value in now.items() if earlier.get(key) != value]
    if not differ:
        return pages
    kept = sorted(set(pages) - {job.level for job in request.jobs})
    if kept:
        what = ", ".join(f"{key} {earlier.get(key)!r}, not {now[key]!r}" for key in differ)
        raise ValueError(
            f"{request.out} holds the reports of another study ({what}), and {', '.join(kept)} would stay: "
            "choose another --out, or run all levels"
        )
    return {}


def _require(*names: str) -> None:
    for name in names:
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"reports need {error.name}, which is not installed: pip install 'cifarlib[notebooks]'"
            ) from None


# --- Executing ---------------------------------------------------------------------------------------------


def run(request: Plan, *, say: Callable[[str], None] = print) -> bool:
    """Execute the planned notebooks one after the other and publish after each; True if all went well.

    Pages are written while the next notebook starts. A failing cell ends the run: what was executed until then is
    kept and shown, levels after it are not run.
    """
    pages = dict(request.pages)
    request.out.mkdir(parents=True, exist_ok=True)

    def publish(level: str, page: Page, so_far: dict[str, Page]) -> None:
        _publish(request, so_far)
        took, path = progress.duration(page.seconds or 0.0), request.out / page.html
        if page.failure:
            say(f"{level}: FAILED after {took}, {page.failure}")
            say(f"{level}: what ran until then is in {path}")
        else:
            say(f"{level}: done in {took}; its page can be opened: {path}")

    failure = ""
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as writer:
        publishing: concurrent.futures.Future[None] | None = None
        for job in request.jobs:
            say(f"{job.level}: {job.notebook.name}")
            start = time.perf_counter()
            sha256 = hashlib.sha256(job.notebook.read_bytes()).hexdigest()
            notebook, failure = _execute(job, request, say)
            page = Page(job.notebook.name, sha256, job.chosen, failure, time.perf_counter() - start)
            if publishing is not None:
                publishing.result()  # what went wrong as the pages were written is raised here
            _write_notebook(request.out / page.notebook, notebook)
            pages[job.level] = page
            publishing = writer.submit(publish, job.level, page, dict(pages))
            if failure:
                break
        if publishing is not None:
            publishing.result()
    index = request.out / "index.html"
    say(f"Reports: {index}\n         {index.resolve().as_uri()}")
    return not failure


def _execute(job: Job, request: Plan, say: Callable[[str], None]) -> tuple[nbformat.NotebookNode, str]:
    """Execute one notebook in the caller's working directory; return it cleaned, and the failure or ''."""
    import nbclient.exceptions
    import nbformat
    import papermill
    import papermill.exceptions

    source = _read_notebook(job.notebook)
    error: Exception | None = None
    with tempfile.TemporaryDirectory(prefix="cifarlib-") as scratch:
        begun, target = Path(scratch) / "source.ipynb", Path(scratch) / "executed.ipynb"
        nbformat.write(source, begun)
        try:
            papermill.execute_notebook(
                _literal(begun),
                _literal(target),
                parameters=job.parameters,
                kernel_name="python3",
                language="python",
                start_timeout=_START_SECONDS,
                progress_bar=False,
                stdout_file=sys.stdout,
                stderr_file=sys.stderr,
                kernel_manager_class=_kernel_manager(),
                on_cell_start=_section_teller(say, source),
            )
        except (papermill.exceptions.PapermillExecutionError, nbclient.exceptions.DeadKernelError) as caught:
            error = caught
        except RuntimeError as caught:
            if not _not_started(caught):
                raise
            error = caught
        executed = nbformat.read(target, as_version=4)
    failure = "" if error is None else _failure(executed, source, error)
    scrub = _scrubber(request)
    return _clean(executed, source, scrub), scrub(failure)


def _read_notebook(path: Path) -> nbformat.NotebookNode:
    """Read a notebook, and give cells the identifiers they lack: those that Colab saves have none."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    for number, cell in enumerate(notebook.cells, start=1):
        cell.setdefault("id", f"cell-{number}")
    notebook.nbformat_minor = max(5, notebook.nbformat_minor)  # the first with identifiers
    return notebook


def _section_teller(say: Callable[[str], None], source: nbformat.NotebookNode) -> Callable[..., None]:
    """Return a hook for before each cell: it names a section as its first code is run, on a line that stays.

    Cells are counted in the source notebook, from 1.

    Bars are off in this kernel, whose output is saved: in a terminal and in a log these lines are what tells how
    far a notebook is.
    """
    numbers = {cell.id: number for number, cell in enumerate(source.cells, start=1)}
    heading = ""

    def tell(cell: nbformat.NotebookNode, cell_index: int) -> None:
        nonlocal heading
        if cell.cell_type == "markdown":
            found = re.findall(r"^#{1,3} +(.+)", cell.source, re.MULTILINE)
            heading = found[-1] if found else heading
        elif heading and cell.id in numbers:
            say(f"  [cell {numbers[cell.id]} of {len(numbers)}] {printable(heading)}")
            heading = ""

    return tell


def _kernel_manager() -> type:
    """Return a kernel manager that starts this very interpreter, with live progress bars switched off.

    A registered kernel named python3 may belong to another environment.
    """
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    class ThisInterpreter(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            # The kernel's own log is about sockets; what the cells do never passes through it.
            spec = get_kernel_dict(extra_arguments=["--log-level=CRITICAL"])
            return KernelSpec(**spec, env={"CIFARLIB_PROGRESS": "0"})

    return ThisInterpreter


def _failure(executed: nbformat.NotebookNode, source: nbformat.NotebookNode, error: Exception) -> str:
    """Say in one line which cell failed, counted in the source notebook from 1, and why."""
    import papermill.exceptions

    if reason := _not_started(error):
        return reason
    # A dead kernel leaves no error in any output: the last cell that was started is the one.
    started = [cell for cell in executed.cells if cell.metadata.get("papermill", {}).get("start_time")]
    failed = next(
        (
            cell
            for cell in executed.cells
            if any(output.output_type == "error" for output in cell.get("outputs", []))
        ),
        started[-1] if started else None,
    )
    reason = "the notebook's Python process died (out of memory?)"
    if isinstance(error, papermill.exceptions.PapermillExecutionError):
        reason = ": ".join(filter(None, [error.ename, *error.evalue.strip().splitlines()[:1]]))
    if failed is None:
        return reason
    first = next(iter(failed.source.strip().splitlines()), "")
    ids = [cell.id for cell in source.cells]
    where = "the injected parameters"
    if failed.id in ids:
        where = f"cell {ids.index(failed.id) + 1} of {len(ids)}"
    return f"{where} ({first}): {reason}"


_PYTHON = ".venv/bin/python"  # as README has it; the path of the one that runs is not for pages that others read


def _not_started(error: Exception) -> str:
    """Say why the notebook's Python process ran no cell, and what to do; "" where the error is another one.

    jupyter_client raises a plain RuntimeError: only its words tell it from others.
    """
    if str(error).startswith("Kernel didn't respond in"):
        return (
            f"no cell ran, because the notebook's Python process did not answer within {_START_SECONDS} s. If the "
            "loopback network is down, on Linux as root: ip link set lo up. If the machine is very busy: give the "
            "same command again. Otherwise start that process alone and see what it says: "
            f"{_PYTHON} -m ipykernel_launcher"
        )
    if str(error).startswith("Kernel died before replying"):
        return (
            "no cell ran, because the notebook's Python process ended as it started. What it said is printed "
            f"above, and again by: {_PYTHON} -m ipykernel_launcher. A damaged ipykernel is mended by: "
            f"{_PYTHON} -m pip install --force-reinstall ipykernel"
        )
    return ""


def _scrubber(request: Plan) -> Callable[[Any], Any]:
    """Return a function that takes this machine's paths out of text, also within lists and dicts."""
    roots = {"run_root": request.study.run_root, "data_root": request.study.data_root}
    places: dict[str, str] = {}
    with contextlib.suppress(RuntimeError):  # without HOME, a user whom the system does not know has no home
        places[str(Path.home())] = "~"
    places |= {sys.prefix: "{environment}", str(ROOT): ".", str(Path.cwd()): "."}
    places |= {str(path): f"{{{name}}}" for name, path in roots.items() if path.is_absolute()}
    # The longest first, and never a root such as "/".
    ordered = sorted((place for place in places if len(Path(place).parts) > 1), key=len, reverse=True)
    pattern = re.compile(f"(?<![\\w.~])(?:{'|'.join(map(re.escape, ordered))})(?![\\w-])")
    kernel_file = re.compile(r"[^\s\"'<>]*ipykernel_\d+[/\\]\d+\.py")

    def scrub(value: Any) -> Any:
        if isinstance(value, str):
            return kernel_file.sub("(cell)", pattern.sub(lambda match: places[match.group()], value))
        if isinstance(value, list):
            return [scrub(item) for item in value]
        if isinstance(value, dict):
            for key, item in value.items():
                if not str(key).startswith("image/"):
                    value[key] = scrub(item)
        return value

    return scrub


def _clean(
    executed: nbformat.NotebookNode, source: nbformat.NotebookNode, scrub: Callable[[Any], Any]
) -> nbformat.NotebookNode:
    """Keep what a reader wants of a notebook: no time stamps, no paths, metadata as in the source."""
    metadata_of = {cell.id: cell.metadata for cell in source.cells}
    cells = []
    for cell in executed.cells:
        if cell.id in metadata_of:
            cell.metadata = metadata_of[cell.id]
        elif _INJECTED in cell.metadata.get("tags", []):
            cell.id = _INJECTED  # papermill draws a random one each time
            cell.metadata = {"tags": [_INJECTED]}
            cell.source = scrub(cell.source)
        else:
            continue  # papermill's own announcement of an error
        if cell.cell_type == "code":
            cell.outputs = scrub(_joined(cell.outputs))
        cells.append(cell)
    executed.cells = cells
    executed.metadata = source.metadata
    executed.nbformat, executed.nbformat_minor = source.nbformat, source.nbformat_minor
    return executed


def _joined(outputs: list[Any]) -> list[Any]:
    """Join neighbouring outputs of one stream: where a stream is cut depends on timing alone."""
    joined: list[Any] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last is not None and last.output_type == output.output_type == "stream" and last.name == output.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def _write_notebook(path: Path, notebook: nbformat.NotebookNode) -> None:
    import nbformat

    write_text(path, nbformat.writes(notebook) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader finds the old one or the new one, never half of one."""
    # Of its own, since another report may be written into the same folder.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# --- Results -----------------------------------------------------------------------------------------------


def collect(study: Study) -> dict[str, Any]:
    """Return what the study found: data, environment, notice, and the results of the levels on disk.

    A failed level may mean that the images cannot be read: then the notice says so and there are no results.
    """
    from cifarlib import runs

    environment = {"cifarlib": version("cifarlib")} | runs.environment(study.device)
    environment |= {name: version(name) for name in ("papermill", "nbconvert")}
    try:
        levels, comparisons = study.results(), study.comparisons()
        notice, split = study.notice(), study.outline
    except (OSError, RuntimeError, ValueError) as error:
        notice = f"**The results could not be read.** {code_span(f'{type(error).__name__}: {error}')}"
        nothing: dict[str, Any] = {"data": None, "comparable": False, "levels": {}, "comparisons": []}
        return nothing | {"environment": environment, "notice": notice}
    data = {
        "source": split.train.source,
        "fingerprint": split.fingerprint,
        "images": {"train": len(split.train), "val": len(split.val), "test": len(split.test)},
        "stored_size": int(split.train.images.shape[-1]),
        "classes": list(split.classes),
    }
    study.release_images()  # the next level's kernel needs the memory that they take here
    return {
        "data": data,
        "environment": environment,
        "notice": notice,
        "comparable": study.documented_setting,
        "levels": levels,
        "comparisons": comparisons,
    }


def _claims(executed: Path) -> list[dict[str, str]]:
    """Return the rows of the claims table that an executed notebook shows; none where it did not come so far."""
    from cifarlib.tables import CLAIMS_MIME

    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    texts = ["".join(output.get("data", {}).get(CLAIMS_MIME, "[]")) for output in outputs]
    return [row for text in texts for row in json.loads(text)]


def _read_results(folder: Path) -> dict[str, Any] | None:
    """Return what a report folder's results.json holds, None where there is none.

    Raises:
        ValueError: it is no report's.
    """
    path = folder / "results.json"
    if not path.is_file():
        return None
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is not readable as JSON: delete it, or choose another --out") from None
    if fault := _fault(results):
        raise ValueError(f"{folder} holds a results.json that is no report's ({fault}): choose another folder")
    return results


def _fault(results: Any) -> str:
    """Say why JSON is no report's results, as far as they are read again; "" where they are.

    Many programs write a file of that name, and what it names as pages is overwritten and deleted.
    """
    if not isinstance(results, dict):
        return f"it is a {type(results).__name__}"
    kinds = {"profile": str, "notebooks": dict, "pages": dict, "data": dict | None}
    for key, kind in kinds.items():
        if key not in results or not isinstance(results[key], kind):
            return f"its {key} is {'of another kind' if key in results else 'missing'}"
    if results["data"] is not None and not isinstance(results["data"].get("fingerprint"), str):
        return "its data has no fingerprint"
    if not isinstance(results.get("note", ""), str):
        return "its note is of another kind"
    for level, page in results["pages"].items():
        whole = isinstance(page, dict) and isinstance(page.get("failure", ""), str)
        if not whole or not _is_name(page.get("notebook"), ".ipynb") or not _is_name(page.get("page"), ".html"):
            return f"its page {level!a:.20} names no notebook and page in this folder"
    return ""


def _is_name(value: Any, suffix: str) -> bool:
    """Say whether a value is the bare name of a file with that suffix."""
    return isinstance(value, str) and Path(value).name == value and Path(value).suffix == suffix


def _strict(value: Any) -> Any:
    """Return `value` as strict JSON can hold it: plain numbers, and null for NaN and infinities."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's and torch's
        return _strict(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


# --- Pages -------------------------------------------------------------------------------------------------


def _publish(request: Plan, pages: Mapping[str, Page]) -> None:
    """Write results.json, every page and the index, as they stand after the latest level."""
    found = _scrubber(request)(_strict(collect(request.study)))
    before = _read_results(request.out) or {}
    earlier = before.get("pages", {})
    for level, page in pages.items():
        if level in found["levels"]:
            found["levels"][level]["claims"] = _claims(request.out / page.notebook)
    results = {
        "profile": request.study.profile.name,
        "seed": request.study.seed,
        "overrides": _strict(request.overrides),
        "notice": found["notice"],
        "note": request.note or (before.get("note", "") if request.pages else ""),
        "comparable": found["comparable"],
        "data": found["data"],
        "environment": found["environment"],
        "notebooks": {pages[level].notebook: pages[level].sha256 for level in sorted(pages)},
        "pages": {
            level: {
                "notebook": pages[level].notebook,
                "page": pages[level].html,
                "state": "failed" if pages[level].failure else "done",
                "failure": pages[level].failure,
                "parameters": _strict(pages[level].parameters),
                "seconds": pages[level].seconds,
            }
            for level in sorted(pages)
        },
        "levels": found["levels"],
        "comparisons": found["comparisons"],
    }
    write_pages(request.out, results)
    # What an earlier study left of the levels that this one has not reached would be nobody's.
    for level, page in earlier.items():
        if level not in pages:
            (request.out / page["notebook"]).unlink(missing_ok=True)
            (request.out / page["page"]).unlink(missing_ok=True)


def write_pages(folder: Path, results: Mapping[str, Any]) -> None:
    """Write `results.json`, and from it and the executed notebooks in `folder` their pages and the index."""
    import nbformat

    write_text(folder / "results.json", json.dumps(results, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    shared = {"notice": _markdown(_told(results)), "provenance": _provenance(results)}
    for level, page in results["pages"].items():
        content = _content(nbformat.read(folder / page["notebook"], as_version=4), results)
        title = content.find_all("h1")[0].get_text(" ", strip=True)
        html = _render(
            "page.html.j2",
            title=title,
            nav=_navigation(results, level),
            failure=page["failure"],
            content=_markup(content),
            **shared,
        )
        write_text(folder / page["page"], html)
    html = _render("index.html.j2", nav=_navigation(results, "index"), **shared, **_index(results))
    write_text(folder / "index.html", html)


def _told(results: Mapping[str, Any]) -> str:
    """Return what is said above everything else, in Markdown: the study's own words, and whoever ran it."""
    return "\n\n".join(filter(None, [results["notice"], results.get("note")]))


def _render(template: str, **values: Any) -> str:
    import jinja2

    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template(template).render({"failure": "", "content": "", **values})


def _markup(soup: bs4.BeautifulSoup) -> Any:
    import markupsafe

    return markupsafe.Markup(str(soup))


def _navigation(results: Mapping[str, Any], current: str) -> list[dict[str, Any]]:
    entries = [{"label": "Overview", "href": "index.html", "current": current == "index"}]
    for level in LEVELS:
        page = results["pages"].get(level)
        href = page["page"] if page else None
        entries.append({"label": _label(level), "href": href, "current": current == level})
    return entries


def _label(level: str) -> str:
    return level.replace("level", "Level\u00a0")  # never broken between the two


def _provenance(results: Mapping[str, Any]) -> str:
    environment = results["environment"]
    versions = ", ".join(f"{name} {environment[name]}" for name in ("cifarlib", "torch"))
    changed = ", ".join(f"{key}={value}" for key, value in results["overrides"].items())
    return (
        f"Made by executing the notebooks from top to bottom. Profile {results['profile']}, "
        f"seed {results['seed']}{f', changed: {changed}' if changed else ''}; {versions}, "
        f"Python {environment['python']}, on {environment['device']}."
    )


_PHONE_FIGURE = 600  # pixels, as style.css has it: so wide a figure's text can still be read on a phone


def _content(notebook: nbformat.NotebookNode, results: Mapping[str, Any]) -> bs4.BeautifulSoup:
    """Return the notebook's cells as HTML that stands by itself: headings in order, tables readable."""
    from nbconvert import HTMLExporter

    for cell in notebook.cells:
        if cell.cell_type == "code":  # the page's banner has the notice already
            told = (o.get("data", {}).get("text/markdown") == results["notice"] for o in cell.outputs)
            cell.outputs = [o for o, double in zip(cell.outputs, told, strict=True) if not double]
    exporter = HTMLExporter(
        template_name="report", extra_template_basedirs=[str(TEMPLATES)], exclude_anchor_links=True
    )
    soup = _safe(exporter.from_notebook_node(notebook)[0])
    if soup.h1 is None:
        heading = soup.new_tag("h1")
        heading.string = "Untitled notebook"
        soup.insert(0, heading)
    depth = 0
    for heading in soup.find_all(re.compile("^h[1-6]$")):
        # One h1, the first; below it no level is skipped.
        depth = 1 if depth == 0 else max(2, min(int(heading.name[1]), depth + 1))
        heading.name = f"h{depth}"
    title, tables = "", 0
    for element in soup.find_all(re.compile("^(h[1-6]|table)$")):
        if element.name == "table":
            tables += 1
            _tidy_table(soup, element, f"Table {tables}" + f": {title}" * bool(title))
        else:
            title = element.get_text(" ", strip=True)
    for number, printed in enumerate(soup.select("pre[tabindex]"), start=1):
        printed["role"], printed["aria-label"] = "group", f"Output {number}"
    for number, image in enumerate(soup.find_all("img"), start=1):
        if _is_drawing(str(image["src"])):
            image["class"] = "drawing"
        width, figure = str(image.get("width", "")), image.find_parent("figure")
        if figure and width.isdecimal() and int(width) > _PHONE_FIGURE:
            figure["class"], figure["tabindex"] = "scroll", "0"  # a phone moves it under the finger
            figure["aria-label"] = f"Figure {number}"
    pages = {page["notebook"]: page["page"] for page in results["pages"].values()}
    for link in soup.find_all("a", href=re.compile(r"\.ipynb$")):
        target = str(link["href"])
        if "://" not in target and Path(target).name in pages:
            link["href"] = pages[Path(target).name]
    return soup


def _safe(html: str) -> bs4.BeautifulSoup:
    """Parse HTML and take out whatever runs, restyles the page, or fetches something."""
    import bs4

    soup = bs4.BeautifulSoup(html, "html.parser")
    active = ["script", "style", "link", "meta", "base", "iframe", "object", "embed", "form"]
    for element in soup.find_all(active):
        element.decompose()
    for element in soup.find_all(True):
        for name in list(element.attrs):
            # Browsers pass over blanks and line breaks within "javascript:".
            value = re.sub(r"[\x00-\x20]", "", str(element.attrs[name])).lower()
            if name.startswith("on") or name in ("style", "srcset") or value.startswith("javascript:"):
                del element.attrs[name]
    for image in soup.find_all("img"):
        if not str(image.get("src", "")).startswith("data:"):
            # A badge, say: its words remain, within the link that is around it.
            image.replace_with(str(image.get("alt") or "image"))
        elif not image.get("alt"):
            image["alt"] = "Figure without a description"
    return soup


def _markdown(text: str) -> Any:
    from nbconvert.filters import markdown2html

    return _markup(_safe(markdown2html(text)))


def _is_drawing(source: str) -> bool:
    """Whether an embedded picture is lines and text on white: a dark page shows those light on dark.

    Photographs and heat maps, whose shades mean something, have far less white, and stay as they are.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
            grey = picture.convert("L")
    except (OSError, SyntaxError, ValueError):  # what another's notebook holds need not be a picture
        return False
    return sum(grey.histogram()[250:]) > 0.85 * grey.width * grey.height


# A number, or several such as an interval, each perhaps with a sign and a unit. Every part is taken for good (?+,
# *+): a blank, a digit and a minus could each belong to two parts, and a cell of thirty numbers and a letter would
# be split in a billion ways before it is known to be text.
_ONE = r"(< )?+[-+<>~\u2212\u00b1]?+\d[\d,.]*+(e[+-]?\d++)?+( ?(%|s|ms|min|h|px|MB|GB|GiB|pp|points?|images/s))?+"
_NUMBER = re.compile(rf"[(\[]?+{_ONE}(,?+ ?+(to|\u2013|[-/(\[\u00b1])?+ ?+{_ONE}[)\]]?+)*+[)\]]?+")
_LONG = 40  # characters; a cell of more is text, which wraps
_SHORT = 18  # characters; a row's name of fewer is not broken
_ROLES = {"table": "table", "thead": "rowgroup", "tbody": "rowgroup", "tr": "row", "td": "cell"}


def _tidy_table(soup: bs4.BeautifulSoup, table: bs4.Tag, label: str) -> None:
    """Give a table a label, scopes, columns of numbers aligned right, and a frame of its own to scroll in.

    Where several columns are of long texts, a phone shows a row as a block, with the headings before its cells.
    """
    from cifarlib.claims import VERDICTS

    table.attrs.pop("border", None)
    heads = table.thead.find_all("tr") if table.thead else []
    body = [row for row in table.find_all("tr") if row not in heads]
    for row in [*heads, *body]:
        for cell in row.find_all(["td", "th"]):
            if cell.name == "th" and not cell.get_text(strip=True):
                cell.name = "td"  # a corner, heading nothing
            elif cell.name == "th":
                cell["scope"] = "col" if row in heads else "row"
                if row in body and len(cell.get_text(strip=True)) <= _SHORT:
                    cell["class"] = "short"
    headings = [row.find_all(["td", "th"]) for row in heads]
    cells = [row.find_all(["td", "th"]) for row in body]
    texts = 0
    # From the right: cells that span rows shift the left of a row.
    for back in range(1, max(map(len, cells), default=0) + 1):
        column = [row[-back] for row in cells if len(row) >= back and row[-back].name == "td"]
        written = [text for cell in column if (text := cell.get_text(" ", strip=True)) not in ("", "\u2014")]
        above = [row[-back] for row in headings if len(row) >= back]
        if written and all(map(_NUMBER.fullmatch, written)):
            for cell in [*column, *above]:
                cell["class"] = "n"
        texts += any(len(text) > _LONG for text in written)
        for cell in column:
            text = cell.get_text(" ", strip=True)
            if text in VERDICTS:
                cell["class"] = _MARK_OF[text]
            elif len(text) > _LONG:
                cell["class"] = "long"
            if len(above) == 1:
                cell["data-label"] = above[0].get_text(" ", strip=True)
        if any("verdict" in cell.get_text() for cell in above):
            table["id"] = "claims"  # the index links to it
    if texts > 1:
        table["class"] = "stack"
        for element in [table, *table.find_all(True)]:
            # Shown as blocks, they would be no table any more to a screen reader.
            role = {"col": "columnheader", "row": "rowheader"}.get(str(element.get("scope")))
            if role or element.name in _ROLES:
                element["role"] = role or _ROLES[element.name]
    # A group and no region: thirty tables would be thirty landmarks.
    frame = {"class": "table", "tabindex": "0", "role": "group", "aria-label": label}
    table.wrap(soup.new_tag("div", attrs=frame))


# --- The index ---------------------------------------------------------------------------------------------

_COSTS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("seconds", "Training time", progress.duration),
    ("seconds_per_epoch", "An epoch", progress.duration),
    ("images_per_second", "Images/s", lambda value: f"{value:,.0f}"),
    ("stall_ratio", "Stall ratio", lambda value: f"{value:.2f}"),
    ("trainable_parameters", "Trained parameters", lambda value: f"{value:,}"),
    ("parameters", "All parameters", lambda value: f"{value:,}"),
    ("peak_memory_bytes", "Peak memory", lambda value: f"{value / 2**30:.2f} GiB"),
)


# The look of a verdict, in a page's table of claims and in the index.
_MARK_OF = {"holds": "holds", "does not hold": "fails", "not measurable here": "open"}

_MARKS = "<!-- results: written by `cifarlib report --readme`, not by hand -->", "<!-- end of results -->"


def results_table(results: Mapping[str, Any]) -> str:
    """Return the levels' accuracies as a Markdown table, with the notice that belongs to them."""
    head = ["level", "model", "documented", "measured here (95 % interval)", "test images right"]
    spreads = {name: ", ".join(_seeds(found)) for name, found in results["levels"].items()}
    if any(spreads.values()):
        head.insert(4, "all training seeds")
    lines = [_told(results), "", f"| {' | '.join(head)} |", f"|---|---{'|---:' * (len(head) - 2)}|"]
    stated = documented.of_its_classes((results["data"] or {}).get("classes", ()))
    for name, level in documented.LEVELS.items():
        found = results["levels"].get(name)
        cells = [_label(name), level.model, _percent(level.test_accuracy if stated else None)]
        if found is None:
            cells += ["not run"] + [""] * (len(head) - 4)
        else:
            low, high = found["test_interval"]
            n = results["data"]["images"]["test"]
            cells.append(f"{_percent(found['test_accuracy'])} ({100 * low:.2f} to {100 * high:.2f})")
            if any(spreads.values()):
                cells.append(spreads[name])
            cells.append(f"{round(found['test_accuracy'] * n):,} of {n:,}")
        lines.append(f"| {' | '.join(cells)} |")
    environment = results["environment"]
    took = [page.get("seconds") for page in results["pages"].values()]
    whole = "" if None in took else f" Running the {len(took)} notebooks took {progress.duration(sum(took))}."
    threads = f", {environment['threads']} threads" if environment["device"] == "cpu" else ""
    lines += ["", f"Measured on {environment['device']}{threads}, torch {environment['torch']}.{whole}"]
    return "\n".join(lines)


def _seeds(level: Mapping[str, Any]) -> list[str]:
    """Say what several training seeds gave, where there were several, in lines for a narrow column."""
    spread = level.get("seeds")
    if spread is None:
        return []
    return [f"mean of {spread['seeds']}: {_percent(spread['mean'])}", f"SD {100 * spread['seed_sd']:.2f} points"]


def results_place(readme: str | Path, marks: tuple[str, str] = _MARKS) -> tuple[str, str]:
    """Split a Markdown file around the text between two marks, which stay with what is kept.

    Raises:
        ValueError: the file lacks the marks.
    """
    text = Path(readme).read_text(encoding="utf-8")
    start, end = (text.find(mark) for mark in marks)
    if not 0 <= start < end:
        raise ValueError(f"{readme} has no place for the results: it needs the lines {marks[0]} and {marks[1]}")
    return text[: start + len(marks[0])], text[end:]


def put_results(readme: str | Path, text: str, marks: tuple[str, str] = _MARKS) -> None:
    """Write a generated text into a Markdown file, between its marks."""
    before, after = results_place(readme, marks)
    write_text(Path(readme), f"{before}\n{text}\n{after}")


def update_readme(readme: str | Path, folder: str | Path) -> None:
    """Put the results table of a report folder into a Markdown file, between its marks."""
    put_results(readme, results_table(json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))))


def _percent(value: float | None, digits: int = 2) -> str:
    return "—" if value is None else f"{100 * value:.{digits}f} %"


def _index(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the index page shows, as its template names it."""
    from cifarlib import plotting

    levels, pages = results["levels"], results["pages"]
    comparable = results["comparable"]
    data = results["data"] or {}
    images = {
        "cifar10": "CIFAR-10 in another setting than the documents'",
        "folder": "the images named above",
    }.get(data.get("source", ""), "the built-in images")
    rows: list[dict[str, Any]] = []
    drawn: list[dict[str, Any]] = []
    for level in LEVELS:
        known, measured, page = documented.LEVELS[level], levels.get(level), pages.get(level)
        row = {
            "label": _label(level),
            "title": known.title,
            "model": known.model,
            "href": page["page"] if page else None,
            "failed": page["failure"] if page else "",
            "measured": measured is not None,
            "documented": _percent(known.test_accuracy),
        }
        if measured is not None:
            low, high = measured["test_interval"]
            row |= {
                "epochs": measured["epochs"],
                "time": progress.duration(measured["seconds"]),
                "accuracy": _percent(measured["test_accuracy"]),
                "interval": f"{100 * low:.2f} to {100 * high:.2f} %",
            }
            balanced = measured.get("balanced_accuracy")  # where the classes' sizes make it another number
            row["balanced"] = "" if balanced is None else _percent(balanced)
            row["seeds"] = _seeds(measured)
            drawn.append(
                {
                    "name": _label(level),
                    "accuracy": measured["test_accuracy"],
                    "low": low,
                    "high": high,
                    "documented": known.test_accuracy if comparable else None,
                    "seconds": measured["seconds"],
                }
            )
        rows.append(row)
    found = [row for row in rows if row["measured"]]
    best = max((row["accuracy"] for row in drawn), default=None)
    return {
        "title": "Transfer learning in four levels: the results",
        "comparable": comparable,
        "stated": documented.of_its_classes(data.get("classes", ())),
        "images": images,
        "rows": rows,
        "best": [row for row, shown in zip(found, drawn, strict=True) if shown["accuracy"] == best],
        "test_images": results["data"]["images"]["test"] if results["data"] else 0,
        "figure": _figure(drawn, results["comparisons"]) if drawn else None,
        "claims": _verdicts(results),
        "curves": _curves(levels),
        "classes": _classes(levels),
        "cost_figure": _picture(lambda width: plotting.cost(drawn, width=width)) if len(drawn) > 1 else None,
        "costs": _costs(levels),
        "facts": _facts(results),
    }


def _costs(levels: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the cost table: the columns that at least one level has."""
    shown = [c for c in _COSTS if any(values.get(c[0]) is not None for values in levels.values())]
    if not shown:
        return None
    rows = [
        {
            "label": _label(level),
            "cells": [
                write(levels[level][key]) if levels[level].get(key) is not None else "—" for key, _, write in shown
            ],
        }
        for level in sorted(levels)
    ]
    return {"columns": [title for _, title, _ in shown], "rows": rows}


def _verdicts(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how many claims of each level hold, do not, and could not be measured."""
    from cifarlib.claims import VERDICTS

    rows, counted = [], []
    for level in LEVELS:
        found = [row["verdict"] for row in results["levels"].get(level, {}).get("claims", [])]
        if found:
            href = f"{results['pages'][level]['page']}#claims" if level in results["pages"] else None
            counts = [found.count(verdict) for verdict in VERDICTS]
            counted.append(counts)
            rows.append({"label": _label(level), "href": href, "counts": counts, "all": len(found)})
    totals = [sum(counts) for counts in zip(*counted, strict=True)]
    columns = [(verdict, _MARK_OF[verdict]) for verdict in VERDICTS]
    return {"columns": columns, "rows": rows, "totals": totals} if rows else None


def _curves(levels: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the figure of the validation accuracies: a line for each training, level 4's other member too."""
    import pandas as pd

    from cifarlib import plotting

    named = {level: _label(level) for level in LEVELS} | {"efficientnet": "EfficientNet-B0"}
    trainings = [item for values in levels.values() for item in values.get("history", {}).items()]
    histories = {named.get(name, name): pd.DataFrame(history) for name, history in trainings}
    return _picture(lambda width: plotting.validation(histories, width=width)) if histories else None


_PHONE_WIDTH = 5.3  # inches, which a phone shows on 390 pixels: text of 10 points has 10
_ENDS = 5  # classes shown of the best and of the worst, where there are too many for a table


def _classes(levels: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the recall table: the classes, the easiest first, by the levels that have it."""
    shown = [level for level in LEVELS if levels.get(level, {}).get("recall")]
    if not shown:
        return None
    recalls = {level: {name: c["recall"] for name, c in levels[level]["recall"].items()} for level in shown}
    names = [name for name, recall in recalls[shown[0]].items() if recall is not None]
    names.sort(key=lambda name: -sum(recalls[level][name] for level in shown))
    if not names:
        return None
    best, worst = ({level: end(recalls[level][name] for name in names) for level in shown} for end in (max, min))
    kept = names if len(names) <= 2 * _ENDS + 2 else [*names[:_ENDS], *names[-_ENDS:]]
    rows = [
        {
            "name": name,
            "cells": [
                {
                    "text": _percent(value := recalls[level][name], 1),
                    "width": f"{100 * value:.1f}",
                    "mark": "best" if value == best[level] else "worst" if value == worst[level] else "",
                }
                for level in shown
            ],
        }
        for name in kept
    ]
    intervals = [levels[level]["recall"][name] for level in shown for name in names]
    widest = max((interval["high"] - interval["low"]) / 2 for interval in intervals)
    return {
        "columns": [_label(level) for level in shown],
        "rows": rows,
        "left_out": len(names) - len(kept),
        "after": _ENDS,
        "widest": f"{100 * widest:.1f}",
    }


def _figure(rows: list[dict[str, Any]], comparisons: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    from cifarlib import plotting

    named = [{**row, **{key: _label(row[key]) for key in ("model", "over")}} for row in comparisons]
    return _picture(lambda width: plotting.forest(rows, named, width=width))


def _picture(draw: Callable[[float], Figure]) -> dict[str, Any]:
    """Return a figure as the index embeds it: as wide as a notebook's page shows one, and narrow for a phone."""
    from cifarlib import plotting

    figure, narrow = draw(plotting._WIDTH), draw(_PHONE_WIDTH)
    png, phone = (base64.b64encode(plotting.png(each)).decode() for each in (figure, narrow))
    width = round(figure.get_figwidth() * plotting._SHOWN)
    return {"png": png, "phone": phone, "alt": str(figure.get_label()), "width": width}


def _facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of the index's last table: data, recipe and environment."""
    facts = [("profile", results["profile"]), ("seed", str(results["seed"]))]
    if results["overrides"]:
        facts.append(("changed", ", ".join(f"{key}={value}" for key, value in results["overrides"].items())))
    data = results["data"]
    if data:
        sizes = data["images"]
        facts += [
            ("images", f"{data['source']}, fingerprint {data['fingerprint']}"),
            ("split", f"{sizes['train']:,} training, {sizes['val']:,} validation, {sizes['test']:,} test"),
            ("classes", ", ".join(data["classes"])),
        ]
    return facts + [(name, str(value)) for name, value in results["environment"].items()]


# --- Checking ----------------------------------------------------------------------------------------------


def check(folder: str | Path, notebooks: str | Path | None = None) -> list[str]:
    """Compare the reports in `folder` with the present notebooks; return the differences, one sentence each.

    Code and Markdown must be the same cell by cell (the injected parameters apart), and the checksum in
    `results.json` that of the notebook's file.

    Raises:
        FileNotFoundError: a notebook, or `results.json`, is missing.
        ValueError: `results.json` is no report's.
    """
    folder = Path(folder)
    results = _read_results(folder)
    if results is None:
        raise FileNotFoundError(f"{folder} holds no results.json: it is not a report folder")
    differences = []
    for level in LEVELS:
        source = find_notebook(level, notebooks)
        executed, page = folder / source.name, results["pages"].get(level)
        if page is None or not executed.is_file() or not (folder / page["page"]).is_file():
            differences.append(f"{source.name}: not in the reports")
            continue
        if failure := page.get("failure"):
            differences.append(f"{source.name}: its report shows a failure, {failure}")
        changed = _changed_cells(_cells(executed), _cells(source))
        differences += [f"{source.name}: {change}" for change in changed]
        if not changed and results["notebooks"].get(source.name) != _sha256(source):
            differences.append(f"{source.name}: same cells, but the file is not the one that was executed")
    return differences


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _cells(path: Path) -> dict[str, tuple[str, str]]:
    """Return a notebook's cells by id, in order: type and source, without injected parameters."""
    return {
        cell.id: (cell.cell_type, cell.source)
        for cell in _read_notebook(path).cells
        if _INJECTED not in cell.metadata.get("tags", [])
    }


def _changed_cells(executed: Mapping[str, tuple[str, str]], source: Mapping[str, tuple[str, str]]) -> list[str]:
    changes = []
    for number, (key, cell) in enumerate(source.items(), 1):
        if executed.get(key) != cell:
            first = next(iter(cell[1].strip().splitlines()), "")
            changes.append(f"cell {number} ({first}) {'changed' if key in executed else 'is new'}")
    changes += [f"a cell of the report ({key}) is gone" for key in executed if key not in source]
    if not changes and list(executed) != list(source):
        changes.append("cells changed places")
    return changes
