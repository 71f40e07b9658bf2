"""The converged head: scikit-learn's solution, chosen on the validation images, for features as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from cifarlib import probe


def blobs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Forty noisy features of four classes, of very different scales; a last one never varies."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(4, 40))
    labels = rng.integers(4, size=n)
    x = (centres[labels] + 3 * rng.normal(size=(n, 40))) * np.geomspace(0.01, 100, 40) + 5
    return torch.tensor(np.c_[x, np.full(n, 7.0)], dtype=torch.float32), torch.tensor(labels)


@pytest.fixture(scope="module")
def solved() -> probe.Solution:
    return probe.solve(*blobs(200, 0), *blobs(300, 1), 4)


def test_it_is_scikit_learns_solution_at_the_chosen_strength(solved: probe.Solution) -> None:
    (x, y), (new, _) = ((x.double(), y) for x, y in (blobs(200, 0), blobs(200, 2)))
    scaler = StandardScaler().fit(x.numpy())
    theirs = LogisticRegression(C=1 / (len(x) * solved.strength), tol=1e-8, max_iter=5000)
    theirs.fit(scaler.transform(x.numpy()), y.numpy())
    expected = theirs.predict_proba(scaler.transform(new.numpy()))
    found = (new.float() @ solved.weight.T + solved.bias).softmax(dim=1).numpy()  # of features as they are
    np.testing.assert_allclose(found, expected, atol=5e-4)


def test_every_strength_was_solved_and_the_best_on_the_validation_images_is_kept(solved: probe.Solution) -> None:
    assert all(each["gradient"] <= 1e-5 for each in solved.tried)
    strengths = [each["strength"] for each in solved.tried]
    assert strengths == sorted(strengths, reverse=True) and len(strengths) > 3
    losses = [each["train_loss"] for each in solved.tried]
    assert losses == sorted(losses, reverse=True)  # less penalty, a closer fit
    best = min(solved.tried, key=lambda each: each["val_loss"])
    assert best["strength"] == solved.strength not in (strengths[0], strengths[-1])
    val, labels = blobs(300, 1)
    logits = val @ solved.weight.T + solved.bias
    assert torch.nn.functional.cross_entropy(logits, labels).item() == pytest.approx(best["val_loss"], rel=1e-4)
    assert (logits.argmax(dim=1) == labels).float().mean().item() == pytest.approx(best["val_accuracy"])


def test_the_search_ends_where_weaker_penalties_do_worse(solved: probe.Solution) -> None:
    """On so few and noisy images a weak penalty overfits: one strength after the best one it has seen enough."""
    strengths = [each["strength"] for each in solved.tried]
    assert len(strengths) < len(probe.STRENGTHS)
    assert strengths.index(solved.strength) == len(strengths) - 2


def test_the_scale_of_a_feature_is_of_no_consequence() -> None:
    (x, y), (val, val_y) = blobs(200, 3), blobs(200, 4)
    by = torch.tensor(np.geomspace(1e-3, 1e3, 41), dtype=torch.float32)
    plain, scaled = probe.solve(x, y, val, val_y, 4), probe.solve(x * by, y, val * by, val_y, 4)
    assert plain.strength == scaled.strength
    torch.testing.assert_close(plain.weight[:, :-1], (scaled.weight * by)[:, :-1], rtol=1e-2, atol=1e-3)


def test_half_precision_features_are_solved_as_precisely() -> None:
    (x, y), (val, val_y) = blobs(200, 5), blobs(200, 6)
    found = probe.solve(x.bfloat16(), y, val.bfloat16(), val_y, 4)
    exact = probe.solve(x.bfloat16().float(), y, val.bfloat16().float(), val_y, 4)
    assert found.weight.dtype == torch.float32
    torch.testing.assert_close(found.weight, exact.weight)
