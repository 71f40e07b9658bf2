"""Slow and plain ways to the numbers that the library finds otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def paired_bootstrap(
    statistic: Callable[[Any, Any], float],
    labels: Any,
    probs_a: Any,
    probs_b: Any,
    *,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """`statistic(a) - statistic(b)` with its percentile interval: a resample takes its images from both models."""
    rng = np.random.default_rng(seed)
    differences = []
    for _ in range(resamples):
        drawn = rng.integers(len(labels), size=len(labels))
        differences.append(statistic(probs_a[drawn], labels[drawn]) - statistic(probs_b[drawn], labels[drawn]))
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    return statistic(probs_a, labels) - statistic(probs_b, labels), float(low), float(high)
