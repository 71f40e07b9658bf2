"""The converged head: multinomial logistic regression with L2 on a frozen trunk's features.

A few epochs of gradient steps can leave a new head far from the best that its features allow, and then any other
training looks good beside it. This head is solved to convergence by L-BFGS instead, with the L2 strength chosen on
the validation images, as linear probes usually are (Kornblith et al. 2019, arXiv 1805.08974).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cifarlib import progress

STRENGTHS = tuple(10 ** (-half / 2) for half in range(13))
"""The L2 strengths that are tried, from strong to weak: 1 down to 1e-6."""
_STEPS = 500  # of L-BFGS at one strength, at most: started from the neighbouring solution it needs fewer
_FLAT = 3e-6  # the largest entry of the gradient, in the solver's coordinates, at which a head counts as converged


@dataclass(frozen=True)
class Solution:
    """A converged head for features as they are: the standardisation is folded into it.

    Attributes:
        weight: float32 `[C, F]`.
        bias: float32 `[C]`.
        strength: The chosen L2 strength.
        tried: One entry a strength: `strength`, `train_loss` (without the penalty), `val_loss`, `val_accuracy`,
            `steps` and `gradient`, the largest entry of the objective's gradient where the solver stopped.
    """

    weight: Tensor
    bias: Tensor
    strength: float
    tried: list[dict[str, float]]


def solve(
    features: Tensor, labels: Tensor, val_features: Tensor, val_labels: Tensor, classes: int, *, what: str = "head"
) -> Solution:
    """Solve the head at each strength, and keep the one with the smallest loss on the validation images.

    With features standardised by the training images' mean and standard deviation, it minimises

        mean cross-entropy + strength / 2 * sum of squared weights

    which is convex: neither a seed nor a learning rate decides the result. Strengths go from strong to weak, each
    from the solution before, until one does worse on the validation images. It is solved in double precision: in
    single, rounding ends the search too early. Features are strongly correlated: so the solver moves along their
    principal axes, each scaled by a bound on the curvature along it, half the variance plus the strength (Boehning
    1992, doi 10.1007/BF00048682).

    Args:
        features: Training features `[N, F]`, of any float type.
        labels: Their labels, int64 `[N]`.
        val_features: Validation features `[M, F]`.
        val_labels: Their labels `[M]`.
        classes: Number of classes, C.
        what: What to call the search beside its bar.
    """
    x, val_x = (each.to(torch.float64, copy=True) for each in (features, val_features))
    mean, deviation = x.mean(dim=0), x.std(dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)  # a feature that never varies tells nothing
    for each in (x, val_x):  # in place: of 40,000 images a copy takes 0.6 GiB
        each.sub_(mean).div_(deviation)
    weight = torch.zeros(classes, x.shape[1], dtype=x.dtype, device=x.device)
    bias = torch.zeros(classes, dtype=x.dtype, device=x.device)
    axes, variances = _principal_axes(x)

    tried: list[dict[str, float]] = []
    best: tuple[float, float, Tensor, Tensor] | None = None
    for strength in progress.bar(STRENGTHS, what=what, unit="strength"):
        scaled_axes = axes * (variances / 2 + strength).rsqrt()
        weight, bias, steps, gradient = _minimise(x, labels, weight, bias, strength, scaled_axes)
        loss, logits = F.cross_entropy(F.linear(x, weight, bias), labels), F.linear(val_x, weight, bias)
        val_loss = F.cross_entropy(logits, val_labels).item()
        accuracy = (logits.argmax(dim=1) == val_labels).double().mean().item()
        tried.append(
            {
                "strength": strength,
                "train_loss": loss.item(),
                "val_loss": val_loss,
                "val_accuracy": accuracy,
                "steps": steps,
                "gradient": gradient,
            }
        )
        if best is not None and val_loss >= best[0]:
            break
        best = val_loss, strength, weight, bias
    assert best is not None
    _, strength, kept, offset = best
    folded = kept / deviation
    return Solution(folded.float(), (offset - folded @ mean).float(), strength, tried)


def _principal_axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return orthonormal axes [F, K] that span features [N, F] of mean 0, and the variance [K] along each."""
    if len(x) <= x.shape[1]:
        _, deviations, axes = torch.linalg.svd(x, full_matrices=False)
        return axes.T, deviations.square() / len(x)
    variances, axes = torch.linalg.eigh(x.T @ x / len(x))
    return axes, variances.clamp(min=0)


def _minimise(
    x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, strength: float, scaled_axes: Tensor
) -> tuple[Tensor, Tensor, int, float]:
    """Minimise the objective from weight and bias on.

    Returns:
        The weight and bias found, the steps that took, and the largest entry of the objective's gradient there.
    """

    def objective(weight: Tensor, bias: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(x, weight, bias), labels) + strength / 2 * weight.square().sum()

    # weight = along @ scaled_axes.T, whose columns are orthogonal
    along = (weight @ scaled_axes / scaled_axes.square().sum(dim=0)).requires_grad_()
    bias = bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [along, bias],
        max_iter=_STEPS,
        tolerance_grad=_FLAT,
        tolerance_change=0.0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(along @ scaled_axes.T, bias)
        loss.backward()
        return loss

    optimizer.step(closure)
    weight, bias = (along @ scaled_axes.T).detach().requires_grad_(), bias.detach().requires_grad_()
    gradients = torch.autograd.grad(objective(weight, bias), (weight, bias))
    steepest = max(gradient.abs().max().item() for gradient in gradients)
    return weight.detach(), bias.detach(), int(optimizer.state[along]["n_iter"]), steepest
