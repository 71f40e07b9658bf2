"""Speed counts only if accuracy does not move: ours against the plain peer, by three gates; the study both ways.

1. Features are equal within the precision's tolerance: the relative error of the trunk, folded and in half
   precision, against the plain network in fp32, on the same inputs.
2. Every prediction that flips was a toss-up: the gap between its two largest probabilities in fp32 is under 0.02.
3. The interval of the difference in test accuracy between the peer's training and ours, over three seeds,
   contains 0.
"""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import scipy.stats
import torch
from PIL import Image

from benchmarks.arms import fork_workers
from benchmarks.peer import Peer, loader
from cifarlib import data, evaluation, models, recipes, training

TOLERANCE = {"32-true": 1e-4, "bf16-mixed": 2e-2, "16-mixed": 3e-3}  # relative, of a trunk of fifty layers
GAP = 0.02


def pictures(images):
    """Turn images uint8 [N, 3, s, s] into what the peer reads: PIL images and a list of labels."""
    return [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in images.images], images.labels.tolist()


def agreement(engine, images):
    """Compare an engine with the plain network that has its weights (gates 1 and 2)."""
    recipe, device = engine.recipe, engine.device
    plain = Peer("resnet50", len(images.classes), trainable="all", rate=0.0, device=device).net.eval()
    plain.load_state_dict(engine.model.torchvision_state())
    to_head = torch.nn.Sequential(*[*plain.children()][:-1], torch.nn.Flatten())
    cut = [name for name, _ in plain.named_children()].index("layer4") if recipe.trainable == "layer4" else None
    to_trunk = torch.nn.Sequential(*[*plain.children()][:cut]) if cut else to_head
    error = size = 0.0
    logits, ours = [], []
    # TF32 is no reference: it rounds as half precision does.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for part in images.images.split(64):
            part = part.to(device)
            x = data.prepare(part, recipe).contiguous()
            expected, got = to_trunk(x), engine.features(part).float()
            error += (got - expected).square().sum().item()
            size += expected.square().sum().item()
            logits.append(plain(x))
            ours.append(engine.logits(part))
    p, q = torch.cat(logits).softmax(1), torch.cat(ours).softmax(1)
    top = p.topk(2, dim=1)
    flipped = q.argmax(1) != top.indices[:, 0]
    gaps = (top.values[:, 0] - top.values[:, 1])[flipped]
    relative = (error / size) ** 0.5
    largest = gaps.max().item() if len(gaps) else 0.0
    return {
        "precision": engine.precision,
        "images": len(images),
        "features_relative_error": relative,
        "tolerance": TOLERANCE[engine.precision],
        "features_agree": relative < TOLERANCE[engine.precision],
        "flips": int(flipped.sum()),
        "largest_gap_of_a_flip": largest,
        "flips_are_toss_ups": largest < GAP,
    }


def train_peer(recipe, split, device, *, validate=False):
    """Train the script by a recipe; returns its probabilities for the test images, and the seconds of both."""
    torch.manual_seed(recipe.seed)
    peer = Peer(
        recipe.model,
        len(split.classes),
        trainable=recipe.trainable,
        rate=recipe.learning_rate,
        decay=recipe.weight_decay if recipe.optimizer == "adamw" else None,
        weights=models.load_weights(recipe),
        device=device,
    )
    size, photos, checked, tested = recipe.image_size, *map(pictures, (split.train, split.val, split.test))
    start = time.perf_counter()
    train = loader(*photos, size=size, augment=recipe.augment, shuffle=True)
    if recipe.schedule == "cosine":
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(peer.optimizer, recipe.epochs * len(train))
        peer.optimizer.register_step_post_hook(lambda *_: schedule.step())
    for _ in range(recipe.epochs):
        peer.train_epoch(train)
        if validate:
            peer.accuracy(loader(*checked, size=size))
    logits, _ = peer.predict(loader(*tested, size=size))
    return logits.softmax(1).numpy(), time.perf_counter() - start


def train_ours(recipe, split, device):
    """Do the same by cifarlib; returns the engine too.

    `fit` validates after every epoch, and measures the accuracy on the training images once more at the end.
    """
    model = models.build(recipe, len(split.classes), models.load_weights(recipe))
    engine = training.Engine(model, recipe, device)
    start = time.perf_counter()
    training.fit(engine, split.train, split.val, say=lambda line: None)
    probs = engine.probs(split.test.images)
    return engine, probs, time.perf_counter() - start


def _peer(recipe, profile, data_root, device, validate):
    split = data.load(profile, data_root, image_size=recipe.image_size)
    return train_peer(recipe, split, device, validate=validate)


def _ours(recipe, profile, data_root, device, gates):
    split = data.load(profile, data_root, image_size=recipe.image_size)
    engine, probs, seconds = train_ours(recipe, split, device)
    return probs, seconds, agreement(engine, split.test) if gates else None


def _alone(work, *arguments):
    """Call a function in a process of its own: ours changes how its whole process keeps memory."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=fork_workers) as pool:
        return pool.submit(work, *arguments).result()


def _row(level, seed, epochs, peer, ours, labels):
    """Compare the script's and our (probabilities, seconds) on the same test images."""
    (peer_probs, peer_seconds), (our_probs, our_seconds) = peer, ours
    right_peer, right_ours = (probs.argmax(1) == labels for probs in (peer_probs, our_probs))
    only_ours, only_peer, p = evaluation.mcnemar_marks(right_ours, right_peer)
    print(
        f"seed {seed}, {level}: peer {100 * right_peer.mean():.2f} % in {peer_seconds:.0f} s, "
        f"ours {100 * right_ours.mean():.2f} % in {our_seconds:.0f} s",
        flush=True,
    )
    return {
        "level": level,
        "seed": seed,
        "epochs": epochs,
        "peer_accuracy": float(right_peer.mean()),
        "our_accuracy": float(right_ours.mean()),
        "peer_seconds": peer_seconds,
        "our_seconds": our_seconds,
        "only_ours_right": only_ours,
        "only_peer_right": only_peer,
        "difference": [*evaluation.paired_difference(right_ours, right_peer)],
        "p": p,
    }


def _prepared(profile, data_root, device, epochs, image_size, weights):
    """Return the test images' labels, the recipes by name, and what a table says of them.

    Images or weights that do not fit are refused here, before an hour of training. `weights` are by model.
    """
    split = data.load(profile, data_root, image_size=image_size)
    known = recipes.resolve("full")[1]
    found = {}
    for name, count in epochs.items():
        given = weights[known[name].model.removeprefix("se_")]
        recipe = replace(known[name], weights=given, image_size=image_size, epochs=count)
        models.build(recipe, len(split.classes), models.load_weights(recipe))
        found[name] = recipe
    described = {
        "images": {name: len(getattr(split, name)) for name in ("train", "val", "test")},
        "source": split.source,
        "image_size": image_size,
        "epochs": epochs,
        "precision": {name: training.choose_precision(recipe, device) for name, recipe in found.items()},
    }
    return split.test.labels.numpy(), found, described


def measure(profile, data_root, weights, device, *, epochs, image_size, seeds=(0, 1, 2)):
    """Train levels 1 and 2, each `epochs` long, both ways for every seed; returns one row each, and the intervals.

    The script does not validate here, and ours does: its seconds hold more work, not less.
    """
    labels, found, described = _prepared(profile, data_root, device, epochs, image_size, weights)
    rows, gates = [], []
    differences = {level: [] for level in epochs}
    for seed in seeds:
        for level, of_any_seed in found.items():
            recipe = replace(of_any_seed, seed=seed)
            peer = _alone(_peer, recipe, profile, data_root, device, False)
            *ours, gate = _alone(_ours, recipe, profile, data_root, device, True)
            rows.append(_row(level, seed, recipe.epochs, peer, ours, labels))
            differences[level].append(rows[-1]["difference"][0])
            gates.append({"level": level, "seed": seed, **gate})
            print(
                f"  features differ by {gate['features_relative_error']:.1e}; {gate['flips']} flips, "
                f"the largest gap {gate['largest_gap_of_a_flip']:.4f}",
                flush=True,
            )
    intervals = {}
    for level, values in differences.items():
        # Student's t over the seeds, on one test set: what other seeds would give on the same images.
        half = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
        mean = float(np.mean(values))
        intervals[level] = {"difference": mean, "half_width": float(half), "contains_0": bool(abs(mean) <= half)}
    return described | {"gates": gates, "rows": rows, "intervals": intervals}


def study(profile, data_root, weights, device, *, epochs, image_size):
    """Train what levels 1 to 4 train, both ways, each with validation after every epoch; level 4 is the vote.

    Args:
        weights: by model, a file's path, a published set's name or "none".
        epochs: by recipe, in the order of training: level1, level2, level3, efficientnet.

    Yields what is known, after each training: one row a training, and at last the vote's.
    """
    labels, found, described = _prepared(profile, data_root, device, epochs, image_size, weights)
    rows, sides = [], {}
    for name, recipe in found.items():
        peer = _alone(_peer, recipe, profile, data_root, device, True)
        ours = _alone(_ours, recipe, profile, data_root, device, False)[:2]
        sides[name] = peer, ours
        rows.append(_row(name, recipe.seed, recipe.epochs, peer, ours, labels))
        yield described | {"rows": rows}
    members = zip(sides["level3"], sides["efficientnet"], strict=True)
    votes = [(evaluation.soft_vote([a[0], b[0]]), a[1] + b[1]) for a, b in members]
    rows.append(_row("level4", recipe.seed, None, *votes, labels))
    yield described | {"rows": rows}
