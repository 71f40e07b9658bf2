"""Ours against the plain peer, in one run: the same images, batches and epochs, taken in turn."""

import contextlib
import time

import numpy as np

from benchmarks.arms import OurArm, PeerArm, Worker

MEASURES = ("frozen_phase", "layer4_epoch", "efficientnet_epoch", "input_pipeline")
BUDGET = 900  # seconds that a run on a CPU may take
# Of an image's time in the peer's forward pass, what one repeat of all measures takes in all arms; measured.
_WORK = 14


def arms(settings):
    """Name the arms, with what makes each: on a GPU, compiled and fp16 stand beside ours."""
    found = {
        "peer": (PeerArm, {"tuned": False}),
        "tuned_peer": (PeerArm, {"tuned": True}),
        "ours": (OurArm, {}),
    }
    if settings["device"] != "cpu":
        found["ours_compiled"] = (OurArm, {"compiled": True})
        found["ours_fp16"] = (OurArm, {"precision": "16-mixed"})
    return found


def images_that_fit(settings):
    """Return how many training images the budget allows on this CPU, at least 128, in whole batches of 64."""
    with Worker(PeerArm, settings=settings | {"images": 64}, tuned=False) as worker:
        worker.ask("layer4_epoch")
        a_forward = worker.ask("layer4_epoch") / 64 / 1.5  # with layer4's backward pass, half as much again
    return int(min(1024, max(128, BUDGET / ((settings["repeats"] + 1) * _WORK * a_forward) // 64 * 64)))


def measure(settings, say=print, *, measures=MEASURES, without=()):
    """Run all arms in turn, forwards and backwards, the first round cold; yields what is known, after each part.

    So a run that is stopped keeps what it has measured. `without` names arms to leave out.
    """
    started = time.perf_counter()
    samples, ratios = [], {}
    if settings["device"] != "cpu":
        with Worker(OurArm, settings=settings) as worker:  # of its own, so that those below start cold
            yield {"gpu": worker.ask("gpu")}
    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(kind, settings=settings, **more))
            for name, (kind, more) in arms(settings).items()
            if name not in without
        }
        for worker in workers.values():  # else the last ones' start would disturb the first one's work
            worker.wait()
        for measure in measures:
            for repeat in range(settings["repeats"] + 1):
                for name in list(workers) if repeat % 2 == 0 else reversed(workers):
                    seconds = workers[name].ask(measure)
                    sample = {"arm": name, "measure": measure, "repeat": repeat, "cold": repeat == 0}
                    samples.append(sample | {"seconds": seconds})
                line = ", ".join(f"{s['arm']} {s['seconds']:.2f} s" for s in samples[-len(workers) :])
                say(f"{measure}, {'cold' if repeat == 0 else f'repeat {repeat}'}: {line}")
            ratios[measure] = {f"{name}/ours": ratio(samples, measure, name) for name in workers if name != "ours"}
            yield {"ratios": ratios, "samples": samples, "took_seconds": time.perf_counter() - started}
        memory = {name: worker.ask("memory") for name, worker in workers.items()}
        yield {
            "peak_memory_bytes": {name: peak["device"] for name, peak in memory.items()},
            "host_memory_bytes": {name: peak["host"] for name, peak in memory.items()},
        }
        stall = workers["ours"].ask("stall")
        ratios["stall"] = {name: spread(found["ratios"]) for name, found in stall.items()}
        speeds = {name: {k: v for k, v in found.items() if k != "ratios"} for name, found in stall.items()}
        yield {"ratios": ratios, "speeds": speeds}
        ours = [name for name in workers if name.startswith("ours")]
        yield {"agreement": {name: workers[name].ask("agreement") for name in ours}}
    yield {"took_seconds": time.perf_counter() - started}


def ratio(samples, measure, arm):
    """Return an arm's seconds over ours, repeat by repeat: the warm median and range, and the cold one."""
    of = {(s["arm"], s["repeat"]): s["seconds"] for s in samples if s["measure"] == measure}
    pairs = [of[arm, repeat] / of["ours", repeat] for repeat in sorted({repeat for _, repeat in of})]
    return spread(pairs[1:]) | {"cold": pairs[0]}


def spread(values):
    """Return median and range."""
    return {"median": float(np.median(values)), "low": float(min(values)), "high": float(max(values))}
