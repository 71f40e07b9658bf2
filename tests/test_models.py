"""The models against torchvision's own, hand-written formulas, and the documented numbers."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import pickle
import re
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from mirrors import Mirrors, serving
from torch import Tensor, nn

from cifarlib import models, recipes
from cifarlib._torchvision import torchvision
from cifarlib.models import (
    Classifier,
    FrozenTrunk,
    Head,
    SqueezeExcite,
    build,
    count_parameters,
    fold,
    load_weights,
    recalibrate,
    weights_fingerprint,
)
from cifarlib.recipes import LEVEL1, LEVEL2, LEVEL3, Recipe, resolve

ROOT = Path(__file__).resolve().parents[1]
STUDY = resolve("full")[1]
State = dict[str, Tensor]


def recipe(name: str, **changes: Any) -> Recipe:
    """One of the study's recipes at 64 px and without pretrained weights."""
    return replace(STUDY[name], **({"weights": "none", "image_size": 64} | changes))


def images(n: int, seed: int = 0, size: int = 64) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def snapshot(module: nn.Module) -> State:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: State, b: State) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def relative_error(a: Tensor, b: Tensor) -> float:
    assert bool(torch.isfinite(a).all())
    return float((a - b).abs().max() / b.abs().max())


def shake_batchnorm(module: nn.Module, seed: int = 0) -> None:
    """Give every BatchNorm statistics and an affine map that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for value, low, high in (
                (norm.running_mean, -0.3, 0.3),
                (norm.running_var, 0.5, 2.0),
                (norm.weight, 0.5, 1.5),
                (norm.bias, -0.2, 0.2),
            ):
                assert value is not None
                value.data.uniform_(low, high, generator=generator)


# Not to be changed by a test: one that trains takes a copy.
@pytest.fixture(scope="module")
def level1() -> Classifier:
    return build(recipe("level1"), 10)


@pytest.fixture(scope="module")
def level2() -> Classifier:
    return build(recipe("level2"), 10)


@pytest.fixture(scope="module")
def level3(level2: Classifier) -> Classifier:
    """Level 3 with level 2's weights."""
    return build(recipe("level3"), 10, level2.torchvision_state())


@pytest.fixture(scope="module")
def efficientnet() -> Classifier:
    return build(recipe("efficientnet"), 10)


@pytest.fixture(scope="module")
def convnext() -> Classifier:
    return build(recipe("convnext"), 10)


MODELS = ("level1", "level2", "level3", "efficientnet", "convnext")


# --- Architecture ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "everything", "trainable"),
    [
        # torchvision's ResNet-50 has 25,557,032 parameters, 2,049,000 of them in its own classifier.
        ("level1", 23_508_032 + 20_490, 20_490),
        ("level2", 23_508_032 + 20_490, 14_985_226),
        ("level3", 23_508_032 + 20_490 + 524_288, 14_985_226 + 524_288),
        ("efficientnet", 4_020_358, 4_020_358),
        ("convnext", 27_827_818, 27_827_818),
    ],
)
def test_parameters_are_counted(
    name: str, everything: int, trainable: int, request: pytest.FixtureRequest
) -> None:
    assert count_parameters(request.getfixturevalue(name)) == (everything, trainable)


@pytest.mark.parametrize(("ratio", "parameters"), [(16, 524_288), (8, 1_048_576)])
def test_the_se_block_has_two_c_squared_over_ratio_parameters(ratio: int, parameters: int) -> None:
    assert 2 * 2048**2 // ratio == parameters
    assert count_parameters(SqueezeExcite(2048, ratio)) == (parameters, parameters)


def test_level_1_trains_one_layer_on_2048_features(level1: Classifier) -> None:
    assert [name for name, _ in level1.tail.named_children()] == ["fc"]
    assert (level1.tail.fc.in_features, level1.tail.fc.out_features) == (2048, 10)
    assert level1.trunk(images(2)).shape == (2, 2048)


def test_the_cut_is_where_the_recipe_says(
    level2: Classifier, level3: Classifier, efficientnet: Classifier
) -> None:
    trunk = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"]
    tail = ["layer4", "avgpool", "flatten", "fc"]
    assert [name for name, _ in level2.trunk.named_children()] == trunk
    assert [name for name, _ in level2.tail.named_children()] == tail
    assert [name for name, _ in level3.trunk.named_children()] == trunk
    assert [name for name, _ in level3.tail.named_children()] == ["layer4", "se", *tail[1:]]
    assert len(efficientnet.trunk) == 0
    assert torch.equal(efficientnet.trunk(images(1)), images(1))


@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (4, 4), (8, 8), (2, 5), (1, 9)])
def test_a_convolution_is_torchs_whatever_the_map(
    size: tuple[int, int], side: int, stride: int, groups: int
) -> None:
    ours = models.SmallMapConv2d(6, 6, side, stride, side // 2, groups=groups)
    theirs = nn.Conv2d(6, 6, side, stride, side // 2, groups=groups)
    theirs.load_state_dict(ours.state_dict())
    found: list[list[Tensor | None]] = []
    for conv in (ours, theirs):
        x = torch.linspace(-1, 1, 12 * size[0] * size[1]).reshape(2, 6, *size).requires_grad_()
        out = conv(x)
        out.square().sum().backward()
        assert conv.bias is not None
        found.append([out, x.grad, conv.weight.grad, conv.bias.grad])
    torch.testing.assert_close(found[0], found[1])


def test_every_network_has_such_convolutions() -> None:
    for name, sides in (("level2", {3, 7}), ("efficientnet", {3, 5}), ("convnext", {7})):
        model = build(replace(recipes.documented_recipe(name), weights="none"), 10)
        found = [conv for conv in model.modules() if isinstance(conv, models.SmallMapConv2d)]
        assert {conv.kernel_size[0] for conv in found} == sides
        assert all(conv.dilation == (1, 1) for conv in found)
    dilated = build(replace(LEVEL2, weights="none", dilation=True), 10)
    assert {type(m) for m in dilated.modules() if isinstance(m, nn.Conv2d) and m.dilation == (2, 2)} == {nn.Conv2d}


@pytest.mark.parametrize("name", MODELS)
def test_the_names_are_torchvisions(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    theirs = getattr(torchvision.models, STUDY[name].model.removeprefix("se_"))()
    ours = set(model.torchvision_state())
    assert ours - set(theirs.state_dict()) == (
        {"se.squeeze.weight", "se.excite.weight"} if name == "level3" else set()
    )
    assert set(theirs.state_dict()) <= ours
    assert len(ours) == len(model.state_dict())


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("level2", {}),
        ("level2", {"dilation": True}),
        ("efficientnet", {"trainable": "head"}),
        ("convnext", {}),
    ],
)
def test_the_model_computes_what_torchvisions_does(name: str, changes: dict[str, Any]) -> None:
    """Torchvision's own model is the oracle: same weights in, same logits out, wherever the cut lies."""
    wanted = recipe(name, **changes)
    arguments = {"replace_stride_with_dilation": [False, False, True]} if wanted.dilation else {}
    theirs = getattr(torchvision.models, wanted.model)(num_classes=3, **arguments).eval()
    shake_batchnorm(theirs)
    ours = build(wanted, 3).eval()
    ours.load_torchvision_state(theirs.state_dict())
    with torch.no_grad():
        assert relative_error(ours(images(2)), theirs(images(2))) < 1e-4


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("level1", (2, 2048, 2, 2)),
        ("level2", (2, 2048, 2, 2)),
        ("level3", (2, 2048, 2, 2)),
        ("efficientnet", (2, 1280, 2, 2)),
        ("convnext", (2, 768, 2, 2)),
    ],
)
def test_the_cam_layer_is_the_last_with_a_map(
    name: str, shape: tuple[int, ...], request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    seen: list[Tensor] = []
    handle = model.cam_layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model.eval()
    with torch.no_grad():
        logits = model(images(2))
    handle.remove()
    model.train()
    (output,) = seen
    assert output.shape == shape
    assert logits.shape == (2, 10)
    assert not any("cam" in key for key in model.state_dict())
    if name == "level3":
        assert model.cam_layer is model.tail.se


@pytest.mark.parametrize("size", [32, 33, 40, 95])
@pytest.mark.parametrize(
    ("name", "changes"), [("level1", {}), ("level3", {"dilation": True}), ("efficientnet", {}), ("convnext", {})]
)
def test_the_size_of_a_map_is_known_beforehand(name: str, changes: dict[str, Any], size: int) -> None:
    wanted = recipe(name, image_size=size, **changes)
    model = build(wanted, 3).eval()
    seen: list[Tensor] = []
    model.cam_layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        model(images(1, size=size))
    assert seen[0].shape[-1] == models.map_size(wanted)


def test_a_copys_cam_layer_is_its_own(level3: Classifier) -> None:
    copied = copy.deepcopy(level3)
    assert copied.cam_layer is copied.tail.se
    assert copied.cam_layer is not level3.tail.se


def test_dilation_doubles_the_last_map_and_adds_nothing(level2: Classifier) -> None:
    dilated = build(recipe("level2", dilation=True), 10).eval()
    assert same(dilated.state_dict(), level2.state_dict())
    with torch.no_grad():
        inner = level2.trunk(images(1))
        assert torch.equal(dilated.trunk(images(1)), inner)
        assert inner.shape == (1, 1024, 4, 4)
        plain = copy.deepcopy(level2.tail.layer4).eval()
        assert plain(inner).shape == (1, 2048, 2, 2)
        assert dilated.tail.layer4(inner).shape == (1, 2048, 4, 4)


@pytest.mark.parametrize("name", ["level2", "level3", "efficientnet"])
def test_a_seed_decides_every_initial_value_and_leaves_the_global_generators_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []  # given to GPUs, or kept for them where there is none
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    state = torch.get_rng_state()
    first = build(recipe(name, seed=5), 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert seeds == []
    torch.rand(7)  # what was drawn before must not matter
    assert same(build(recipe(name, seed=5), 4).state_dict(), first.state_dict())
    other = build(recipe(name, seed=6), 4).state_dict()
    head = [key for key in other if key.startswith(("tail.fc.", "tail.classifier."))]
    assert len(head) == 2
    assert not any(torch.equal(other[key], first.state_dict()[key]) for key in head)


# --- Frozen means frozen -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["level1", "level2"])
def test_a_training_step_leaves_the_trunk_bit_for_bit(name: str, request: pytest.FixtureRequest) -> None:
    model = copy.deepcopy(request.getfixturevalue(name))
    # An ordinary Sequential of the same layers drifts: what is asserted below is no matter of course.
    naive = nn.Sequential(OrderedDict(copy.deepcopy(model.trunk).named_children()))
    naive_before = snapshot(naive)

    model.train()
    model.trunk.train()
    naive.train()
    assert not any(module.training for module in model.trunk.modules())
    assert all(module.training for module in model.tail.modules())
    trunk, tail = snapshot(model.trunk), snapshot(model.tail)
    # The optimizer gets all parameters, with weight decay: freezing must not rest on leaving them out.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    F.cross_entropy(model(images(4)), torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()
    naive(images(4))

    assert same(model.trunk.state_dict(), trunk)
    assert all(p.grad is None and not p.requires_grad for p in model.trunk.parameters())
    unchanged = [key for key, value in model.tail.state_dict().items() if torch.equal(value, tail[key])]
    assert unchanged == []
    drifted = [key for key, value in naive.state_dict().items() if not torch.equal(value, naive_before[key])]
    assert {key.rpartition(".")[2] for key in drifted} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


def test_a_frozen_trunks_random_layers_are_off_in_training() -> None:
    model = build(recipe("efficientnet", trainable="head"), 10).train()
    assert any(isinstance(m, torchvision.ops.StochasticDepth) for m in model.trunk.modules())
    assert torch.equal(model.trunk(images(2)), model.trunk(images(2)))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("level1", {}),
        ("level2", {}),
        ("level3", {"se_init": "identity"}),
        ("level3", {"se_init": "paper"}),
        ("efficientnet", {}),
        ("convnext", {}),
        ("pretrain", {}),  # all of ResNet-50, its residual blocks starting as the identity
    ],
)
def test_every_trainable_parameter_has_a_gradient_by_the_second_step(name: str, changes: dict[str, Any]) -> None:
    model = build(recipe(name, **changes), 10).train()
    trainable = {key: p for key, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for step in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(images(4, seed=step)), torch.tensor([0, 1, 2, 3])).backward()
            optimizer.step()
    assert trainable
    gradients = {key: p.grad for key, p in trainable.items() if p.grad is not None}
    assert [key for key in trainable if key not in gradients] == []
    assert [key for key, grad in gradients.items() if not bool(torch.isfinite(grad).all())] == []
    assert [key for key, grad in gradients.items() if not bool(grad.any())] == []


# --- Squeeze and excite ------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["identity", "paper"])
def test_the_se_block_computes_its_formula(init: str) -> None:
    block = SqueezeExcite(8, ratio=2, init=init).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in block.parameters():
        parameter.data.uniform_(-1, 1, generator=generator)
    x = torch.randn(3, 8, 5, 4, generator=generator, dtype=torch.float64)

    w1, w2 = block.squeeze.weight.detach().numpy(), block.excite.weight.detach().numpy()
    assert (w1.shape, w2.shape) == ((4, 8), (8, 4))
    means = x.numpy().reshape(3, 8, 20).sum(axis=2) / 20
    hidden = np.where(means @ w1.T > 0, means @ w1.T, 0.0)
    gates = {"identity": 2.0, "paper": 1.0}[init] / (1 + np.exp(-(hidden @ w2.T)))
    expected = x.numpy() * gates.reshape(3, 8, 1, 1)

    np.testing.assert_allclose(block.gates(x).detach().numpy(), gates, rtol=1e-12)
    np.testing.assert_allclose(block(x).detach().numpy(), expected, rtol=1e-12)


def test_level_3_starts_as_level_2_bit_for_bit(level2: Classifier, level3: Classifier) -> None:
    model = copy.deepcopy(level3)
    model.tail.fc.load_state_dict(level2.tail.fc.state_dict())
    for mode in (False, True):  # in training both normalise by the batch
        expected = copy.deepcopy(level2).train(mode)(images(4))
        assert bool(torch.isfinite(expected).all())
        assert torch.equal(model.train(mode)(images(4)), expected)


def test_the_papers_form_starts_by_halving() -> None:
    features = torch.rand(4, 2048, 2, 2, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    paper, identity = SqueezeExcite(2048, init="paper"), SqueezeExcite(2048, init="identity")
    gates = paper.gates(features).detach()
    assert 0.3 < float(gates.min()) < float(gates.max()) < 0.7
    assert torch.equal(paper(features), features * gates[:, :, None, None])
    assert torch.equal(identity.gates(features), torch.ones(4, 2048))


def test_the_identity_start_reaches_the_squeeze_at_the_second_step() -> None:
    torch.manual_seed(0)
    block = SqueezeExcite(64, ratio=4)
    x = torch.rand(2, 64, 2, 2)
    block(x).square().sum().backward()
    assert block.squeeze.weight.grad is not None
    assert block.excite.weight.grad is not None
    assert not bool(block.squeeze.weight.grad.any())
    assert bool(block.excite.weight.grad.any())


def test_a_ratio_that_does_not_divide_the_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="se_ratio=7 must divide the 2048 channels"):
        build(recipe("level3", se_ratio=7), 10)


# --- The head ----------------------------------------------------------------------------------------------


def test_logits_are_fp32_under_autocast(level2: Classifier) -> None:
    model = copy.deepcopy(level2).eval()
    seen: list[Tensor] = []
    model.tail.fc.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images(2))
        plain = F.linear(seen[0], model.tail.fc.weight, model.tail.fc.bias)
    (features,) = seen
    assert features.dtype == torch.bfloat16
    assert plain.dtype == torch.bfloat16  # what an ordinary linear layer gives there
    assert logits.dtype == torch.float32
    assert torch.equal(logits, F.linear(features.float(), model.tail.fc.weight, model.tail.fc.bias))


def test_the_head_takes_features_of_any_float_type() -> None:
    head = Head(4, 3)
    x = torch.tensor([[1.0, 2.0, -1.0, 0.5]])
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert torch.equal(head(x.to(dtype)), head(x))


# --- Weights -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pretrained() -> State:
    """A state dict of torchvision's EfficientNet-B0 with 1000 classes and statistics of its own."""
    net = torchvision.models.efficientnet_b0()
    shake_batchnorm(net)
    return snapshot(net)


@pytest.mark.parametrize("classifier", [True, False], ids=["with classifier", "without"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_state_dict_is_loaded_from_a_file(
    suffix: str, dtype: torch.dtype, classifier: bool, pretrained: State, tmp_path: Path
) -> None:
    state = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in pretrained.items()
        if classifier or not key.startswith("classifier.")
    }
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(OrderedDict(state), path)
    else:
        safetensors.torch.save_file(state, path)
    wanted = recipe("efficientnet", weights=str(path))
    loaded = build(wanted, 10, load_weights(wanted)).torchvision_state()
    for key, value in loaded.items():
        if key.startswith("classifier."):
            assert len(value) == 10
        else:
            assert value.dtype == pretrained[key].dtype
            assert torch.equal(value, state[key].to(value.dtype)), key


def test_the_files_classifier_is_not_used(pretrained: State, efficientnet: Classifier) -> None:
    loaded = build(recipe("efficientnet"), 10, pretrained)
    assert torch.equal(loaded.tail.classifier[1].weight, efficientnet.tail.classifier[1].weight)


@pytest.mark.parametrize("name", ["level1", "level2", "level3"])
def test_a_resnets_weights_fit_all_three_levels(name: str, level3: Classifier) -> None:
    """Level 3's own state too: its SE block is then drawn anew, as its head is."""
    state = {key: value + 1 for key, value in level3.torchvision_state().items()}
    loaded = build(recipe(name), 10, state).torchvision_state()
    for key, value in loaded.items():
        assert torch.equal(value, state[key]) == (not key.startswith(("fc.", "se."))), key


def test_weights_saved_before_batchnorm_counted_its_batches_are_loaded(pretrained: State) -> None:
    """Torchvision's resnet50-0676ba61.pth is such a file: 267 entries, none called num_batches_tracked."""
    state = {key: value for key, value in pretrained.items() if not key.endswith("num_batches_tracked")}
    assert len(state) < len(pretrained)
    loaded = build(recipe("efficientnet"), 10, state).torchvision_state()
    for key in state:
        if not key.startswith("classifier."):
            assert torch.equal(loaded[key], state[key]), key


def test_all_but_the_last_layer_of_convnext_is_loaded(convnext: Classifier) -> None:
    state = {key: value + 1 for key, value in convnext.torchvision_state().items()}
    loaded = build(recipe("convnext"), 10, state).torchvision_state()
    new = [key for key, value in loaded.items() if not torch.equal(value, state[key])]
    assert new == ["classifier.2.weight", "classifier.2.bias"]  # classifier.0 normalises the features


def test_no_weights_are_loaded_for_none() -> None:
    assert load_weights(recipe("level1")) is None
    assert weights_fingerprint(recipe("level1")) == "none"


def edited(state: State, what: str) -> State:
    state = dict(state)
    if what == "missing":
        del state["features.0.1.weight"]
    elif what == "unknown":
        state["features.99.weight"] = torch.zeros(1)
    else:
        state["features.0.0.weight"] = torch.zeros(32, 3, 5, 5)
    return state


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "1 missing (features.0.1.weight)."),
        ("unknown", "1 unknown (features.99.weight)."),
        ("shape", "1 of another shape (features.0.0.weight)."),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(what: str, message: str, pretrained: State) -> None:
    wanted = recipe("efficientnet", weights="mine.pth")
    with pytest.raises(ValueError, match=r"the weights 'mine\.pth' do not fit efficientnet_b0") as refused:
        build(wanted, 10, edited(pretrained, what))
    assert message in str(refused.value)
    assert "Give a state dict of torchvision's efficientnet_b0, or weights='none'" in str(refused.value)


def test_weights_of_another_architecture_are_refused(pretrained: State) -> None:
    wanted = recipe("level3", weights="mine.pth")
    message = r"do not fit se_resnet50: \d+ missing \(conv1\.weight, .*, \.\.\.\); \d+ unknown \(features"
    with pytest.raises(ValueError, match=message) as refused:
        build(wanted, 10, pretrained)
    assert "'mine.pth'" in str(refused.value)
    assert "torchvision's resnet50, or weights='none'" in str(refused.value)


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def refusal(path: Path, model: str = "level1") -> str:
    """What is said about a file of weights that is refused; it is one line, and ours."""
    with pytest.raises(ValueError, match=re.escape(f"weights={str(path)!r} ")) as refused:
        load_weights(recipe(model, weights=str(path)))
    assert refused.value.__suppress_context__ or refused.value.__context__ is None  # torch's advice is not shown
    message = str(refused.value)
    assert "\n" not in message and "weights_only=False" not in message and len(message) < 400
    return message.removeprefix(f"weights={str(path)!r} ")


@pytest.mark.parametrize("writer", ["torch.save", "torch.save before 1.6", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(writer: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "weights.pth"
    payload = {"conv1.weight": Trap(marker)}
    pickle.loads(pickle.dumps(payload))["conv1.weight"].close()
    assert marker.exists()  # the trap works
    marker.unlink()
    if writer == "pickle":
        path.write_bytes(pickle.dumps(payload, protocol=2))
    else:
        path.write_bytes(saved(payload, _use_new_zipfile_serialization=writer == "torch.save"))
    message = refusal(path)
    assert message.startswith("cannot be read as a state dict of tensors: it holds Python objects (")
    assert "open), which could run code, so that it was not loaded" in message
    assert message.endswith("torch.save(model.state_dict(), PATH)")
    assert not marker.exists()


def test_a_whole_model_is_refused_with_the_way_to_save_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(2, 2), path)
    assert "(torch.nn.modules.linear.Linear), which could run code" in refusal(path)


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    script = "import sys, torch; torch.jit.script(torch.nn.Linear(2, 2)).save(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, capture_output=True, timeout=120)
    assert "it is a TorchScript program; save the state_dict() of its model instead" in refusal(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "an empty file: fetch"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS: run git lfs pull"),
        (b"<!DOCTYPE html><title>404</title>\n", "a web page: download the file itself"),
        (b"table of contents\n", "text, beginning 'table of contents'"),
        (b"just some text\n", "text, beginning 'just some text'"),
        (
            bytes(range(200)),
            "neither a safetensors file nor one of torch.save: its 200 bytes begin 0001020304050607",
        ),
        (b"\x80\x02garbage", "damaged, cut short or no file of torch.save (9 bytes)"),
        (b"PK\x03\x04garbage", "damaged, cut short or no file of torch.save (11 bytes)"),
        (b"\x40" + bytes(7) + b"{garbage", "damaged, cut short or no file of torch.save (16 bytes)"),
    ],
    ids=["empty", "pointer", "page", "text", "more text", "bytes", "pickle", "zip", "safetensors"],
)
def test_a_file_that_holds_no_tensors_is_refused(content: bytes, what: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert refusal(path).startswith(f"cannot be read as a state dict of tensors: it is {what}")


@pytest.mark.parametrize("kind", ["zip", "before PyTorch 1.6", "safetensors"])
@pytest.mark.parametrize("keep", [20_000, 100, 12])
def test_a_truncated_file_is_refused(kind: str, keep: int, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    state = {"conv1.weight": torch.zeros(100, 100)}
    if kind == "safetensors":
        content = safetensors.torch.save(state)
    else:
        content = saved(state, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(content[:keep])
    assert f"it is damaged, cut short or no file of torch.save ({keep} bytes)" in refusal(path)


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    for name, content in (
        ("a.pth", safetensors.torch.save({"conv1.weight": torch.arange(3.0)})),
        ("a.safetensors", saved({"conv1.weight": torch.arange(3.0)})),
        ("a", saved({"conv1.weight": torch.arange(3.0)}, _use_new_zipfile_serialization=False)),
    ):
        (tmp_path / name).write_bytes(content)
        state = load_weights(recipe("level1", weights=str(tmp_path / name)))
        assert state is not None
        assert torch.equal(state["conv1.weight"], torch.arange(3.0))


def test_a_safetensors_header_may_begin_with_any_byte(tmp_path: Path) -> None:
    """Its length comes first: 0x3c20 bytes look like the beginning of a web page, after a space."""
    path = tmp_path / "weights"
    content = safetensors.torch.save({"conv1.weight": torch.arange(3.0)})
    header = int.from_bytes(content[:8], "little")
    padded = content[8 : 8 + header].ljust(0x3C20)  # spaces at its end are allowed
    path.write_bytes(len(padded).to_bytes(8, "little") + padded + content[8 + header :])
    assert path.read_bytes().startswith(b" <")
    state = load_weights(recipe("level1", weights=str(path)))
    assert state is not None and torch.equal(state["conv1.weight"], torch.arange(3.0))


STATE = {"conv1.weight": torch.zeros(1)}


@pytest.mark.parametrize(
    ("held", "what"),
    [
        ([torch.zeros(1)], ", found a list"),
        (torch.zeros(2), ", found a Tensor"),
        ({}, ", found an empty one"),
        (STATE | {"epoch": 3, "best": 0.5}, ", but 'epoch' is an int, 'best' is a float"),
        ({f"a{i}": "x" for i in range(5)}, ", but 'a0' is a str, 'a1' is a str, 'a2' is a str, and 2 more"),
        ({0: torch.zeros(1)}, ", but 0 is a Tensor"),
        ({"conv1.weight": torch.zeros(1).to_sparse()}, ", but 'conv1.weight' is a Tensor"),
        ({"conv1.weight": torch.zeros(1, device="meta")}, ", but 'conv1.weight' is a Tensor"),
    ],
    ids=["list", "tensor", "empty", "numbers", "texts", "number as name", "sparse", "meta"],
)
def test_a_file_that_holds_something_else_is_refused(held: Any, what: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(held, path)
    assert refusal(path) == f"holds no state dict: expected names mapped to tensors{what}"


@pytest.mark.parametrize(
    ("held", "under"),
    [
        ({"state_dict": STATE, "epoch": 3}, "['state_dict']"),
        ({"model": STATE, "optimizer": {"state": {0: {"step": 1}}, "param_groups": []}}, "['model']"),
        ({"model": {"state_dict": STATE}}, "['model']['state_dict']"),
        ({"model": STATE, "model_ema": STATE}, "['model'] and ['model_ema']"),
    ],
)
def test_a_checkpoint_around_the_state_is_refused_with_the_way_into_it(
    held: Any, under: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(held, path)
    message = refusal(path)
    assert f"found them within, under {under}. Save them alone: " in message
    (remedy,) = re.findall(r"torch\.save\((.*), PATH\)$", message)
    torch.save(eval(remedy), path)  # what it says works
    assert load_weights(recipe("level1", weights=str(path))) == STATE


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_are_not_finite_are_refused_by_name(suffix: str, value: float, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    state = {"conv1.weight": torch.zeros(3, 4), "bn1.weight": torch.zeros(5), "steps": torch.tensor(3)}
    state["small"] = torch.zeros(2).to(torch.float8_e4m3fn)
    state["bn1.weight"][2] = value
    path.write_bytes(saved(state) if suffix == ".pth" else safetensors.torch.save(state))
    assert refusal(path).startswith("holds NaN or infinite values in bn1.weight: the training that")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.backbone."])
def test_a_wrappers_prefix_is_named_with_the_way_to_remove_it(
    prefix: str, pretrained: State, tmp_path: Path
) -> None:
    """Without its classifier a state's names all begin with "features." too, and that is no wrapper's."""
    state = {f"{prefix}{name}": v for name, v in pretrained.items() if not name.startswith("classifier.")}
    wanted = recipe("efficientnet", weights="mine.pth")
    with pytest.raises(ValueError, match=re.escape(f"their names all begin with {prefix!r}, which")) as refused:
        build(wanted, 10, state)
    (remedy,) = re.findall(r"without it: (\{.*\})$", str(refused.value))
    build(wanted, 10, eval(remedy, {"state": state}))


@pytest.mark.parametrize("call", [load_weights, weights_fingerprint])
def test_a_missing_file_is_named_with_the_remedy(call: Any, tmp_path: Path) -> None:
    for path, what in (
        (tmp_path / "none.pth", "is no file: "),
        (tmp_path, "is no file but a folder: "),
        (tmp_path / ("x" * 300), "is no file: "),
        (Path("~nobody-of-this-name/weights.pth"), "is no file: "),
    ):
        with pytest.raises(FileNotFoundError, match=re.escape(f"weights={str(path)!r} {what}")) as refused:
            call(recipe("level1", weights=str(path)))
        assert "imagenet1k_v1, imagenet1k_v2, none" in str(refused.value)


@pytest.mark.parametrize("call", [load_weights, weights_fingerprint])
@pytest.mark.parametrize("name", ["efficientnet", "convnext"])
def test_weights_that_torchvision_does_not_have_are_refused_with_those_it_has(call: Any, name: str) -> None:
    wanted = recipe(name, weights="imagenet1k_v2")
    message = f"torchvision has no imagenet1k_v2 weights for {wanted.model}: use imagenet1k_v1"
    with pytest.raises(ValueError, match=f"^{message}$"):  # and no name that a recipe does not take
        call(wanted)


def test_a_fingerprint_goes_by_content_and_not_by_name(tmp_path: Path) -> None:
    def fingerprint(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return weights_fingerprint(recipe("level1", weights=str(tmp_path / name)))

    first = fingerprint("a.pth", b"tensors")
    assert first == "sha256-" + hashlib.sha256(b"tensors").hexdigest()[:16]
    assert fingerprint("b.pth", b"tensors") == first
    assert fingerprint("a.pth", b"tensorz") != first


def test_imagenet_weights_are_told_apart_by_the_hash_in_their_name() -> None:
    def fingerprint(name: str, weights: str) -> str:
        return weights_fingerprint(recipe(name, weights=weights))

    first = fingerprint("level1", "imagenet1k_v1")
    assert re.fullmatch(r"resnet50-[0-9a-f]{8}\.pth", first)
    assert fingerprint("level3", "imagenet1k_v1") == first
    assert fingerprint("level1", "imagenet1k_v2") != first
    assert fingerprint("efficientnet", "imagenet1k_v1").startswith("efficientnet_b0_")


@pytest.mark.parametrize("name", ["level3", "efficientnet"])
def test_a_state_survives_the_round_trip(name: str, request: pytest.FixtureRequest) -> None:
    source = request.getfixturevalue(name)
    state = snapshot(source)
    other = build(recipe(name, seed=9), 10)
    assert not same(other.state_dict(), state)
    other.load_torchvision_state(source.torchvision_state())
    assert same(other.state_dict(), state)


def test_a_full_state_with_missing_or_extra_names_is_refused(efficientnet: Classifier) -> None:
    model, state = copy.deepcopy(efficientnet), efficientnet.torchvision_state()
    with pytest.raises(RuntimeError, match=r"Unexpected key.*stray\.weight"):
        model.load_torchvision_state(state | {"stray.weight": torch.zeros(1)})
    del state["classifier.1.bias"]
    with pytest.raises(RuntimeError, match=r"Missing key.*classifier\.1\.bias"):
        model.load_torchvision_state(state)


Publish = Callable[[bytes, str], str]


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Mirrors, Path, Publish]]:
    """Serve torchvision's weights from this machine: the server, torch's cache, and what publishes a file."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    entry = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    with serving() as mirrors:

        def publish(content: bytes, digest: str) -> str:
            name = f"resnet50-{digest[:8]}.pth"
            monkeypatch.setattr(entry.value, "url", mirrors.serve(name, content))
            return name

        yield mirrors, tmp_path / "cache" / "hub" / "checkpoints", publish


def saved(state: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before PyTorch 1.6"])
def test_imagenet_weights_are_downloaded_once_and_checked(
    zipped: bool, published: tuple[Mirrors, Path, Publish], capfd: pytest.CaptureFixture[str]
) -> None:
    mirrors, cache, publish = published
    content = saved({"conv1.weight": torch.arange(6.0)}, _use_new_zipfile_serialization=zipped)
    name = publish(content, hashlib.sha256(content).hexdigest())
    wanted = recipe("level1", weights="imagenet1k_v1")
    assert weights_fingerprint(wanted) == name
    for _ in range(2):
        state = load_weights(wanted)
        assert state is not None
        assert list(state) == ["conv1.weight"]
        assert torch.equal(state["conv1.weight"], torch.arange(6.0))
    assert mirrors.asked == [f"/{name}"]  # the second time it comes from the cache
    assert [path.name for path in cache.iterdir()] == [name]
    said = capfd.readouterr().err
    assert said.startswith(f"Downloading {name} (98 MiB) to {cache}.\n")
    assert "%|" not in said  # no bar where bars are off


def test_weights_that_torchvision_downloaded_before_are_used(published: tuple[Mirrors, Path, Publish]) -> None:
    mirrors, cache, publish = published
    content = saved({"conv1.weight": torch.arange(6.0)})
    publish(content, hashlib.sha256(content).hexdigest())
    torchvision.models.ResNet50_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    assert len(mirrors.asked) == len(list(cache.iterdir())) == 1
    assert load_weights(recipe("level1", weights="imagenet1k_v1")) is not None
    assert len(mirrors.asked) == 1


def test_cached_weights_that_were_tampered_with_are_not_loaded(
    published: tuple[Mirrors, Path, Publish], capfd: pytest.CaptureFixture[str]
) -> None:
    _, cache, publish = published
    content = saved({"conv1.weight": torch.arange(6.0)})
    name = publish(content, hashlib.sha256(content).hexdigest())
    cache.mkdir(parents=True)
    (cache / name).write_bytes(saved({"conv1.weight": torch.zeros(6)}))
    state = load_weights(recipe("level1", weights="imagenet1k_v1"))
    assert state is not None
    assert torch.equal(state["conv1.weight"], torch.arange(6.0))
    assert "it was not opened. Downloading it again." in capfd.readouterr().err
    assert (cache / name).read_bytes() == content


def test_a_download_with_another_hash_than_its_name_is_refused(published: tuple[Mirrors, Path, Publish]) -> None:
    _, cache, publish = published
    content = saved({"conv1.weight": torch.arange(6.0)})
    name = publish(content[:-1] + b"?", hashlib.sha256(content).hexdigest())
    with pytest.raises(
        FileNotFoundError, match=f"{name} could not be had:\n.* sends another file: its sha256"
    ) as error:
        load_weights(recipe("level1", weights="imagenet1k_v1"))
    assert f"(sha256 {name[9:17]}) and put it at {cache / name}" in str(error.value)
    assert "give a copy as weights=PATH, or use weights='none' or profile='demo'" in str(error.value)
    assert list(cache.iterdir()) == []  # nothing is left that a second attempt would take for whole


def test_the_names_of_all_weights_of_the_study_hold_their_hash() -> None:
    urls = {
        entry.url
        for model in {each.model.removeprefix("se_") for each in STUDY.values()}
        for entry in torchvision.models.get_model_weights(model)
    }
    assert len(urls) >= 4
    assert [url for url in urls if not re.search(r"-[0-9a-f]{8}\.pth$", url)] == []


# --- Folding -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shaken(level2: Classifier) -> FrozenTrunk:
    """Level 2's trunk with BatchNorm statistics that are not the identity."""
    trunk = copy.deepcopy(level2.trunk)
    shake_batchnorm(trunk)
    return trunk


@torch.no_grad()
def test_a_folded_trunk_computes_the_same_and_leaves_the_original(shaken: FrozenTrunk) -> None:
    before = snapshot(shaken)
    folded = fold(shaken)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in shaken.modules()) == 43  # 1 + 3 x (3 + 4 + 6) + 3
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert relative_error(folded(images(2)), shaken(images(2))) < 1e-4
    assert same(shaken.state_dict(), before)
    assert not any(p.requires_grad for p in folded.parameters())


@torch.no_grad()
def test_a_trunk_folded_to_bf16_gives_nearly_the_same_features(shaken: FrozenTrunk) -> None:
    folded = fold(shaken, torch.bfloat16)
    assert {p.dtype for p in folded.parameters()} == {torch.bfloat16}
    features = folded(images(2).bfloat16())
    assert features.dtype == torch.bfloat16
    pair = torch.stack([features.float().flatten(), shaken(images(2)).flatten()])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.999
    assert {p.dtype for p in shaken.parameters()} == {torch.float32}


@torch.no_grad()
def test_efficientnets_trunks_fold(efficientnet: Classifier) -> None:
    assert torch.equal(fold(efficientnet.trunk)(images(1)), images(1))  # all trains: the trunk is empty
    trunk = build(recipe("efficientnet", trainable="head"), 10).trunk
    shake_batchnorm(trunk)
    folded = fold(trunk)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert relative_error(folded(images(2)), trunk(images(2))) < 1e-4


# --- Recalibration -----------------------------------------------------------------------------------------


def test_recalibration_sets_the_statistics_of_the_images(shaken: FrozenTrunk) -> None:
    trunk = copy.deepcopy(shaken)
    trunk.bn1.momentum = 0.07
    parameters = {name: p.clone() for name, p in trunk.named_parameters()}
    batches = [images(4, seed=seed) * (1 + seed) + seed for seed in range(3)]

    # By hand for the first layer: the mean over the batches of each one's mean and unbiased variance.
    with torch.no_grad():
        maps = [trunk.conv1(batch) for batch in batches]
    means = torch.stack([m.mean(dim=(0, 2, 3)) for m in maps]).mean(dim=0)
    variances = torch.stack([m.var(dim=(0, 2, 3), unbiased=True) for m in maps]).mean(dim=0)
    # For all layers: what an ordinary network in training mode would see.
    naive = nn.Sequential(OrderedDict(copy.deepcopy(trunk).named_children())).train()
    inputs: list[Tensor] = []
    naive.layer3[-1].bn3.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with torch.no_grad():
        for batch in batches:
            naive(batch)

    recalibrate(trunk, iter(batches))

    torch.testing.assert_close(trunk.bn1.running_mean, means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(trunk.bn1.running_var, variances, rtol=1e-4, atol=1e-5)
    last = trunk.layer3[-1].bn3
    deep_means = torch.stack([x.mean(dim=(0, 2, 3)) for x in inputs]).mean(dim=0)
    deep_variances = torch.stack([x.var(dim=(0, 2, 3), unbiased=True) for x in inputs]).mean(dim=0)
    torch.testing.assert_close(last.running_mean, deep_means, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(last.running_var, deep_variances, rtol=1e-3, atol=1e-4)
    assert (trunk.bn1.momentum, last.momentum) == (0.07, 0.1)
    assert not any(module.training for module in trunk.modules())
    assert all(torch.equal(p, parameters[name]) for name, p in trunk.named_parameters())
    assert all(p.grad is None and not p.requires_grad for p in trunk.parameters())


def test_recalibration_leaves_the_trunk_frozen_when_it_is_interrupted(shaken: FrozenTrunk) -> None:
    trunk = copy.deepcopy(shaken)

    def batches() -> Iterator[Tensor]:
        yield images(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recalibrate(trunk, batches())
    assert not any(module.training for module in trunk.modules())
    assert trunk.bn1.momentum == 0.1


# --- torchvision beside any torch --------------------------------------------------------------------------


def python(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter where every warning is an error."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_torchvision_is_importable_beside_the_installed_torch() -> None:
    """The file alone is run, so that nothing else in the library can have mended the import before it."""
    shim = Path(models.__file__).with_name("_torchvision.py")
    done = python(
        "import runpy, torch\n"
        f"torchvision = runpy.run_path({str(shim)!r})['torchvision']\n"
        "net = torchvision.models.resnet18(num_classes=3).eval()\n"
        "print(*net(torch.zeros(1, 3, 32, 32)).shape, len(torchvision.models.list_models()) > 50)"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 3 True\n", "")


def test_another_error_in_torchvision_is_not_hidden(tmp_path: Path) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('CUDA versions differ')\n")
    shim = Path(models.__file__).with_name("_torchvision.py")
    done = python(f"import runpy; runpy.run_path({str(shim)!r})", tmp_path)
    assert done.returncode != 0
    assert done.stderr.endswith("RuntimeError: CUDA versions differ\n")


def test_multiply_adds_are_those_of_the_paper_and_leave_the_model_alone() -> None:
    """ResNet-50 at 224 px: 4.09 billion (He et al. 2016, table 1: 3.8 with stride in the first convolution)."""
    model = models.build(replace(LEVEL1, weights="none"), 1000).train()
    modes = [module.training for module in model.modules()]
    assert models.multiply_adds(model, 224) == pytest.approx(4.09e9, rel=1e-3)
    assert [module.training for module in model.modules()] == modes
    # The SE block's two linear layers, and nothing else, come on top.
    base = {"weights": "none", "image_size": 64}
    plain, attention = (models.build(replace(r, **base), 10) for r in (LEVEL2, LEVEL3))
    assert models.multiply_adds(attention, 64) - models.multiply_adds(plain, 64) == 2 * 2048 * 128
