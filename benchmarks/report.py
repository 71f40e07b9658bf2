"""The tables of README.md and benchmarks/README.md, from the results files alone."""

import json
from pathlib import Path

from benchmarks.speed import MEASURES
from cifarlib.progress import duration
from cifarlib.reports import put_results

RESULTS = Path(__file__).parent / "results"
_GOALS = {
    "cpu": {
        "frozen_phase": (15, 6),
        "layer4_epoch": (3, 1.4),
        "efficientnet_epoch": (1, 1),
        "input_pipeline": (3, 3),
        "stall": (0.95, 0.95),
    },
    "gpu": {
        "frozen_phase": (20, 20),
        "layer4_epoch": (3, 3),
        "efficientnet_epoch": (2, 2),
        "input_pipeline": (20, 20),
        "stall": (0.95, 0.95),
    },
}
_TITLES = {
    "frozen_phase": "Level 1: five epochs with validation",
    "layer4_epoch": "Level 2: an epoch, augmented",
    "efficientnet_epoch": "Level 4: an epoch of EfficientNet-B0",
    "input_pipeline": "Level 2's inputs alone",
    "level2": "Stall ratio, level 2",
    "level3": "Stall ratio, level 3",
    "efficientnet": "Stall ratio, EfficientNet-B0",
}

_TRAININGS = {
    "level1": "Level 1",
    "level2": "Level 2",
    "level3": "Level 3",
    "efficientnet": "EfficientNet-B0",
    "level4": "Level 4: level 3 and EfficientNet-B0 vote",
}
# Which tables stand where.
PLACES = {"README.md": ("summary",), "benchmarks/README.md": ("speed", "parity", "study", "candidates")}


def load():
    """Read every results file, by name."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]


def _range(value, digits=1, sign="×"):
    return f"{value['median']:.{digits}f}{sign} ({value['low']:.{digits}f} to {value['high']:.{digits}f})"


def summary_table(results):
    """Return how the plain script compares with ours on every device, in Markdown."""
    lines = [f"| plain script ÷ ours | {' | '.join(found['device'] for found in results)} |"]
    lines.append("|---" + "|---:" * len(results) + "|")
    for measure in MEASURES:
        ratios = [found["ratios"].get(measure) for found in results]
        lines.append(_summary_row(measure, [_range(r["peer/ours"]) if r else "" for r in ratios]))
    for name in ("level2", "level3", "efficientnet"):
        ratios = [found["ratios"].get("stall", {}).get(name) for found in results]
        lines.append(_summary_row(name, [f"{r['median']:.3f}" if r else "" for r in ratios]))
    return "\n".join(lines)


def _summary_row(what, cells):
    return f"| {_TITLES[what]} | {' | '.join(cell or 'not measured' for cell in cells)} |"


def speed_table(found):
    """Return the speed table of one device in Markdown; of a run that was stopped, as far as it came."""
    settings, ratios = found["settings"], found["ratios"]
    goals = _GOALS["cpu" if settings["device"] == "cpu" else "gpu"]
    with_half = 0 if found["precision"] != "32-true" else 1
    others = [key for key in ratios["frozen_phase"] if key not in ("peer/ours", "tuned_peer/ours")]
    tuned = "channels_last" if with_half else "autocast, channels_last"
    head = ["", "goal", "plain script ÷ ours", "cold", f"with {tuned} ÷ ours"]
    head += [key.replace("ours_", "").replace("/ours", " ÷ ours") for key in others]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    missing = []
    for measure in MEASURES:
        cells = [_TITLES[measure], f"{goals[measure][with_half]:g}×"]
        row = ratios.get(measure)
        if row is None:
            missing.append(_TITLES[measure])
            continue
        cells += [f"**{_range(row['peer/ours'])}**", f"{row['peer/ours']['cold']:.1f}×"]
        cells.append(_range(row["tuned_peer/ours"]))
        cells += [f"{_range(row[key], 2)}, cold {row[key]['cold']:.2f}×" for key in others]
        lines.append(f"| {' | '.join(cells)} |")
    for name, value in ratios.get("stall", {}).items():
        cells = [_TITLES[name], f"{goals['stall'][with_half]:g}", f"**{_range(value, 3, '')}**"]
        lines.append("| " + " | ".join(cells + [""] * (len(head) - 3)) + " |")
    if "stall" not in ratios:
        missing.append("stall ratios")
    versions = ", ".join(f"{name} {value}" for name, value in found["versions"].items())
    images = f"{settings['images']:,} training and {settings['images'] // 4:,} validation images at"
    took = f", in {duration(found['took_seconds'])}" if "took_seconds" in found else ""
    said = [f"Not measured: {'; '.join(missing)}."] if missing else []
    said += [*_speeds(found), *_gpu(found), *_memory(found), *([found["remark"]] if "remark" in found else [])]
    return (
        f"{found['device']}, {versions}, {found['precision']}: {images} {settings['image_size']} px, "
        f"batches of 64, medians and ranges of {settings['repeats']} warm repeats taken in turn{took}.\n\n"
        + "\n".join(lines)
        + f"\n\n{' '.join(said)}"
    )


def _speeds(found):
    if "speeds" not in found:
        return
    each = "; ".join(
        f"{name} trains at {s['images_per_second']:,.1f} images/s" for name, s in found["speeds"].items()
    )
    pace = found["speeds"]["level2"]["trunk_images_per_second"]
    yield f"Ours: {each}; the trunk alone runs {pace:,.1f} images/s up to layer3."


def _gpu(found):
    """Say what a GPU is judged by, and what binds a training step on it."""
    gpu = found.get("gpu", {})
    if "frozen_images_per_second" in gpu:
        yield f"The whole frozen network runs {gpu['frozen_images_per_second']:,.0f} images/s."
    if "epoch_of_40000_seconds" in gpu:
        yield f"An epoch of level 2 with 40,000 images takes {gpu['epoch_of_40000_seconds']:.1f} s."
    for name, step in gpu.get("steps", {}).items():
        whole, host, busy = (1e3 * step[key] for key in ("seconds", "host_seconds", "gpu_busy_seconds"))
        yield (
            f"A step of {name} takes {whole:.1f} ms: its {step['kernels']} kernels take the host {host:.1f} ms to "
            f"ask for and the GPU {busy:.1f} ms to run."
        )


def _memory(found):
    if "peak_memory_bytes" not in found:
        return

    def sizes(peaks):
        return ", ".join(f"{name.replace('_', ' ')} {value / 2**30:.1f} GiB" for name, value in peaks.items())

    if found["settings"]["device"] == "cpu":
        yield f"Peak memory, without the DataLoader's workers: {sizes(found['peak_memory_bytes'])}."
    else:
        yield (
            f"Peak memory of the GPU: {sizes(found['peak_memory_bytes'])}; of the host, without the DataLoader's "
            f"workers: {sizes(found['host_memory_bytes'])}."
        )


def parity_table(found):
    """Return the parity table of one device in Markdown."""
    p = found["parity"]
    sizes = ", ".join(f"{n:,} {name}" for name, n in p["images"].items())
    lines = [
        f"{found['device']}: {p['note']}; {sizes} images at {p['image_size']} px.",
        "",
        "| | seed | epochs | plain script | ours | only ours right | only the script's right | script | ours "
        "| features differ by | flips | largest gap of a flip |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    gates = {(gate["level"], gate["seed"]): gate for gate in p["gates"]}
    for row in p["rows"]:
        took = [duration(row[key]) if key in row else "" for key in ("peer_seconds", "our_seconds")]
        gate = gates[row["level"], row["seed"]]
        checks = [f"{gate['features_relative_error']:.1e}", gate["flips"], f"{gate['largest_gap_of_a_flip']:.4f}"]
        cells = [row["level"], row["seed"], row["epochs"]]
        cells += [f"{100 * row[key]:.2f} %" for key in ("peer_accuracy", "our_accuracy")]
        cells += [row["only_ours_right"], row["only_peer_right"], *took, *checks]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines.append("")
    for level, value in p["intervals"].items():
        lines.append(
            f"- {level}: ours minus the script's {100 * value['difference']:+.2f} points, 95 % interval ± "
            f"{100 * value['half_width']:.2f} (Student's t over {len(p['rows']) // len(p['intervals'])} seeds): "
            f"{'contains' if value['contains_0'] else 'does not contain'} 0."
        )
    agree = all(gate["features_agree"] for gate in p["gates"])
    toss = all(gate["flips_are_toss_ups"] for gate in p["gates"])
    tolerance = max(gate["tolerance"] for gate in p["gates"])
    lines += [
        f"- Features within the precision's tolerance of {tolerance:g}: {'yes' if agree else '**no**'}.",
        f"- Every flipped prediction had an fp32 gap under 0.02: {'yes' if toss else '**no**'}.",
    ]
    return "\n".join(lines)


def study_table(found):
    """Return in Markdown what one device made of the whole study by the script and by ours."""
    s = found["study"]
    sizes = ", ".join(f"{n:,} {name}" for name, n in s["images"].items())
    versions = ", ".join(f"{name} {value}" for name, value in s["versions"].items())
    versions += f", ours in {', '.join(sorted(set(s['precision'].values())))}"
    lines = [
        f"{found['device']}, {versions}: {s['note']}; {sizes} images at {s['image_size']} px.",
        "",
        "| | epochs | plain script | ours | ours less script, points (95 % interval) | McNemar's p "
        "| script | ours | script ÷ ours |",
        "|---" + "|---:" * 8 + "|",
    ]
    *trained, _ = s["rows"]
    for row in s["rows"]:
        value, low, high = (f"{100 * part:+.2f}" for part in row["difference"])
        cells = [_TRAININGS[row["level"]], row["epochs"] or ""]
        cells += [f"{100 * row[key]:.2f} %" for key in ("peer_accuracy", "our_accuracy")]
        cells += [f"{value} ({low} to {high})", "< 0.001" if row["p"] < 0.001 else f"{row['p']:.3f}"]
        cells += _times(row["peer_seconds"], row["our_seconds"]) if row in trained else ["", "", ""]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    whole = (sum(row[key] for row in trained) for key in ("peer_seconds", "our_seconds"))
    return "\n".join([*lines, f"| All of it | {'| ' * 5}{' | '.join(_times(*whole))} |"])


def _times(peer, ours):
    return [duration(peer), duration(ours), f"{peer / ours:.1f}×"]


def candidates_table(found):
    """Return the table of candidates of one device in Markdown."""
    lines = [f"{found['device']}:", "", "| candidate | on | predicted | measured | |", "|---|---|---|---:|---|"]
    for row in found["candidates"]:
        lines.append(
            f"| {row['name']} | {row['on']} | {row['predicted']} | {_range(row['gain'], 2)} "
            f"| {'kept' if row['kept'] else 'not used'} |"
        )
    for row in found["candidates"]:
        if "compile" in row["name"]:
            lines += ["", f"The first compiled call took {duration(row['cold_seconds'])}."]
    return "\n".join(lines)


def sections(results):
    """Return the Markdown of both READMEs' generated parts, by name."""
    fast = [found for found in results if "ratios" in found]
    made = {
        "summary": [summary_table(fast)] if fast else [],
        "speed": [speed_table(found) for found in fast],
    }
    for name, table in (("study", study_table), ("parity", parity_table), ("candidates", candidates_table)):
        made[name] = [table(found) for found in results if name in found]
    return {name: "\n\n".join(texts) or "Not measured yet." for name, texts in made.items()}


def write(root):
    """Bring both READMEs up to date with the results files."""
    made = sections(load())
    for page, names in PLACES.items():
        for name in names:
            marks = (f"<!-- {name}: written by `python -m benchmarks`, not by hand -->", f"<!-- end of {name} -->")
            put_results(root / page, made[name], marks)
