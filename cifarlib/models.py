"""Backbones, the squeeze-excite block, and the cut into a frozen trunk and a trainable tail.

Papers: ResNet (He et al. 2016, arXiv 1512.03385), squeeze-and-excitation (Hu et al. 2018, arXiv 1709.01507),
EfficientNet (Tan and Le 2019, arXiv 1905.11946), ConvNeXt (Liu et al. 2022, arXiv 2201.03545).
"""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from cifarlib import downloads
from cifarlib._torchvision import torchvision
from cifarlib.recipes import Recipe

M = TypeVar("M", bound=nn.Module)

RESNETS = ("resnet50", "se_resnet50")
# The last linear layer, which is drawn anew; the rest of ConvNeXt's classifier normalises the features.
_HEADS = {
    "resnet50": "fc.",
    "se_resnet50": "fc.",
    "efficientnet_b0": "classifier.1.",
    "convnext_tiny": "classifier.2.",
}


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018): every channel is scaled by a gate read off all channel means.

    gate = scale * sigmoid(W2 relu(W1 mean(x))), with W1 [C/ratio, C] and W2 [C, C/ratio], without biases (the
    paper's 2 C^2 / ratio parameters). `init="paper"` takes scale 1 and random weights, so that all gates start
    near one half and a pretrained classifier sees halved features. `init="identity"` takes scale 2 and W2 = 0,
    so that every gate starts as exactly 2 * sigmoid(0) = 1; W2 has a gradient at the first step, and W1, whose
    gradient passes through W2, from the second.

    Shapes: [B, C, H, W] -> the same.
    """

    def __init__(self, channels: int, ratio: int = 16, init: str = "identity") -> None:
        super().__init__()
        if channels % ratio:
            raise ValueError(f"se_ratio={ratio} must divide the {channels} channels it gates")
        self.squeeze = nn.Linear(channels, channels // ratio, bias=False)
        self.excite = nn.Linear(channels // ratio, channels, bias=False)
        self.scale = 1.0
        if init == "identity":
            self.scale = 2.0
            nn.init.zeros_(self.excite.weight)

    def gates(self, x: Tensor) -> Tensor:
        """Return the channel gates [B, C], in (0, scale)."""
        hidden = F.relu(self.squeeze(x.mean(dim=(2, 3))))
        return self.scale * torch.sigmoid(self.excite(hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the feature maps [B, C, H, W] by their gates."""
        return x * self.gates(x)[:, :, None, None]


class SmallMapConv2d(nn.Conv2d):
    """A convolution that trains fast on a CPU where the map is smaller than its kernel, too.

    There torch's fast kernels for its gradients give way to one that takes up to twenty times as long: half of a
    step of ResNet-50 or EfficientNet-B0 on images of 32 px. So those entries of the kernel that only ever meet
    padding are left out, and the map is padded beforehand: the same sums.
    """

    @classmethod
    def replace(cls, net: nn.Module) -> nn.Module:
        """Let a network's convolutions be such ones, where an output lies in the middle of its inputs."""
        for conv in net.modules():
            centred = isinstance(conv, nn.Conv2d) and conv.padding == (conv.kernel_size[0] // 2,) * 2 != (0, 0)
            if centred and conv.dilation == (1, 1):
                conv.__class__ = cls  # the same parameters under the same names
        return net

    def forward(self, input: Tensor) -> Tensor:
        """Convolve the feature maps [B, C, H, W]."""
        sizes = input.shape[2:]
        if min(sizes) >= self.kernel_size[0] or input.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(input)
        middle = self.kernel_size[0] // 2
        entries: list[slice] = []
        missing: list[int] = []
        for size, stride in zip(sizes, self.stride, strict=True):
            last = (size - 1) // stride * stride  # where the last output is
            before, after = min(middle, last), min(middle, size - 1)
            entries.append(slice(middle - before, middle + after + 1))
            missing = [before, after, *missing]
        rows, columns = entries
        weight = self.weight[:, :, rows, columns]
        return F.conv2d(F.pad(input, missing), weight, self.bias, self.stride, groups=self.groups)


class Head(nn.Linear):
    """The classifier, in fp32 under any precision: bf16 logits would round probabilities to three digits."""

    def forward(self, input: Tensor) -> Tensor:
        """Map features [B, F] of any float type to fp32 logits [B, C]."""
        with torch.autocast(input.device.type, enabled=False):
            return F.linear(input.float(), self.weight, self.bias)


class FrozenTrunk(nn.Sequential):
    """The frozen front of a model: no parameter has a gradient, and it is in eval mode whatever is called.

    Freezing includes BatchNorm's running statistics, which `train()` alone would let drift.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__(OrderedDict(modules))
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> FrozenTrunk:
        """Do nothing: a frozen trunk stays in eval mode."""
        return self


class Classifier(nn.Module):
    """A model cut in two: `trunk` (frozen, perhaps empty) and `tail` (trainable).

    `cam_layer` is the module whose output a class activation map looks at: the last one with a spatial map. It
    lies in the trunk where only the head trains.
    """

    def __init__(self, trunk: FrozenTrunk, tail: nn.Sequential, cam_layer: nn.Module) -> None:
        super().__init__()
        self.trunk, self.tail = trunk, tail
        self._cam_layer = [cam_layer]  # in a list, so that it is not registered a second time

    @property
    def cam_layer(self) -> nn.Module:
        """The module whose output [B, C, h, w] a class activation map looks at."""
        return self._cam_layer[0]

    def forward(self, x: Tensor) -> Tensor:
        """Map prepared images [B, 3, H, W] to logits [B, C]."""
        return self.tail(self.trunk(x))

    def torchvision_state(self) -> dict[str, Tensor]:
        """Return all parameters and buffers under torchvision's names (`layer1.0.conv1.weight`)."""
        return {name.partition(".")[2]: value for name, value in self.state_dict().items()}

    def load_torchvision_state(self, state: Mapping[str, Tensor]) -> None:
        """Load a full state as `torchvision_state` returns it; missing or extra names raise RuntimeError."""
        names = {name.partition(".")[2]: name for name in self.state_dict()}
        self.load_state_dict({names.get(name, name): value for name, value in state.items()})


def _backbone(recipe: Recipe) -> nn.Module:
    """Build torchvision's model of the recipe, with random weights."""
    if recipe.model in RESNETS:
        return torchvision.models.resnet50(
            # Dilation instead of stride keeps layer4's map at layer3's size (Yu et al. 2017, arXiv 1705.09914).
            replace_stride_with_dilation=[False, False, recipe.dilation],
            # From scratch, blocks that start as the identity train faster (Goyal et al. 2017, arXiv 1706.02677).
            zero_init_residual=recipe.trainable == "all",
        )
    return getattr(torchvision.models, recipe.model)()


def build(recipe: Recipe, num_classes: int, weights: Mapping[str, Tensor] | None = None) -> Classifier:
    """Build the recipe's model for `num_classes` classes.

    Args:
        recipe: Decides architecture, cut and initial values; the new layers are drawn from its seed.
        num_classes: Number of classes, C.
        weights: A backbone's state under torchvision's names, as `load_weights` returns it; its classifier, if
            it has one, is not used. None keeps the random initial values.

    Raises:
        ValueError: `weights` are of another architecture; names the first keys that do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the GPU too, whose state is not restored here and is not used.
        torch.default_generator.manual_seed(recipe.seed)
        net = SmallMapConv2d.replace(_backbone(recipe))
        if weights is not None:
            _load_backbone(net, weights, recipe)
        children = OrderedDict(net.named_children())
        if recipe.model in RESNETS:
            fc = children.pop("fc")
            assert isinstance(fc, nn.Linear)
            if recipe.model == "se_resnet50":
                avgpool = children.pop("avgpool")
                children["se"] = SqueezeExcite(fc.in_features, recipe.se_ratio, recipe.se_init)
                children["avgpool"] = avgpool
            children["flatten"] = nn.Flatten()
            children["fc"] = Head(fc.in_features, num_classes)
            cam_layer = children["se"] if "se" in children else children["layer4"]
        else:
            classifier = children.pop("classifier")
            assert isinstance(classifier, nn.Sequential)
            assert isinstance(classifier[-1], nn.Linear)
            if recipe.model == "efficientnet_b0":
                children["flatten"] = nn.Flatten()  # ConvNeXt's classifier has its own, after a norm
            classifier[-1] = Head(classifier[-1].in_features, num_classes)
            children["classifier"] = classifier
            cam_layer = children["features"]
    if recipe.trainable == "head":
        first = "fc" if "fc" in children else "classifier"
    else:
        first = "layer4" if recipe.trainable == "layer4" else next(iter(children))
    names = list(children)
    cut = names.index(first)
    trunk = FrozenTrunk(OrderedDict((name, children[name]) for name in names[:cut]))
    tail = nn.Sequential(OrderedDict((name, children[name]) for name in names[cut:]))
    return _channels_last(Classifier(trunk, tail, cam_layer))


def head(model: Classifier) -> nn.Linear:
    """Return a model's classifier: the last linear layer of its tail."""
    *_, last = (module for module in model.tail.modules() if isinstance(module, nn.Linear))
    return last


def map_size(recipe: Recipe) -> int:
    """Return the side of a class activation map of the recipe's model, in pixels: an image's, halved five times.

    A dilated ResNet halves four times. ConvNeXt's blocks round down, the others up.
    """
    stride = 16 if recipe.dilation else 32
    return recipe.image_size // stride if recipe.model == "convnext_tiny" else -(-recipe.image_size // stride)


def _channels_last(module: M) -> M:
    """Lay convolutions out as NHWC, which fast kernels want."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it


def restore(recipe: Recipe, num_classes: int, state: Mapping[str, Tensor]) -> Classifier:
    """Return the recipe's model with a trained state, as `Run.weights` reads it, in eval mode."""
    with torch.device("meta"):  # initial values would take longer to draw than the state to read
        model = build(recipe, num_classes)
    model.to_empty(device="cpu")  # torch's own memory: what lies elsewhere may be aligned, and round, otherwise
    model.load_torchvision_state(state)
    return model.eval()


def _load_backbone(net: nn.Module, weights: Mapping[str, Tensor], recipe: Recipe) -> None:
    new = (_HEADS[recipe.model], "se.")
    own = {name: value for name, value in net.state_dict().items() if not name.startswith(new)}
    given = {name: value for name, value in weights.items() if not name.startswith(new)}
    # Files from before PyTorch 0.4.1 have no counter of batches, torchvision's first ResNet-50 among them.
    missing = [n for n in own if n not in given and not n.endswith(".num_batches_tracked")]
    extra = [name for name in given if name not in own]
    shapes = [name for name in own if name in given and own[name].shape != given[name].shape]
    if missing or extra or shapes:
        parts = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for names, what in ((missing, "missing"), (extra, "unknown"), (shapes, "of another shape"))
            if names
        ]
        if prefix := _prefix(given, own):
            raise ValueError(
                f"the weights {recipe.weights!r} do not fit {recipe.model}: their names all begin with "
                f"{prefix!r}, which a wrapper around the model has put there. Save them without it: "
                f"{{name.removeprefix({prefix!r}): value for name, value in state.items()}}"
            )
        raise ValueError(
            f"the weights {recipe.weights!r} do not fit {recipe.model}: {'; '.join(parts)}. Give a state dict of "
            f"torchvision's {recipe.model.removeprefix('se_')}, or weights='none'"
        )
    net.load_state_dict(given, strict=False)


def _prefix(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Return what stands before every name in `given` where, without it, most of them are names of `own`."""
    first = next(iter(given), "")
    for at in (i + 1 for i, character in enumerate(first) if character == "."):
        prefix = first[:at]
        if not all(name.startswith(prefix) for name in given):
            break
        if 2 * sum(name.removeprefix(prefix) in own for name in given) > len(given):
            return prefix
    return ""


def weights_fingerprint(recipe: Recipe) -> str:
    """Return what identifies the content of the recipe's pretrained weights, without loading them.

    Raises:
        FileNotFoundError: `weights` is a path and there is no such file.
        ValueError: torchvision has no such weights for this model.
    """
    if recipe.weights == "none":
        return "none"
    if recipe.weights in ("imagenet1k_v1", "imagenet1k_v2"):
        return published(recipe).path.name  # which holds a hash of the content
    path = _weights_file(recipe)
    found = path.stat()
    return "sha256-" + _digest(path, found.st_mtime_ns, found.st_size)[:16]


@functools.cache
def _digest(path: Path, modified: int, size: int) -> str:
    """Return a file's sha256, computed anew when the file has changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_weights(recipe: Recipe) -> dict[str, Tensor] | None:
    """Read the recipe's pretrained weights as a state dict on the CPU; None for `weights="none"`.

    `imagenet1k_v1` and `imagenet1k_v2` are torchvision's, downloaded once into torch's cache and checked against
    the hash in their name each time. A path is a safetensors file, or a file `torch.save` wrote that holds tensors
    only (it is read with `weights_only=True`: a pickle that could run code is refused).

    Raises:
        FileNotFoundError: no such file, or it could not be downloaded.
        ValueError: torchvision has no such weights for this model, or the file holds no state dict of finite
            values.
        OSError: the file cannot be read, or torch's cache is full or cannot be written to.
    """
    if recipe.weights == "none":
        return None
    if recipe.weights in ("imagenet1k_v1", "imagenet1k_v2"):
        return _read_state(_download(recipe), recipe.weights)
    return _read_state(_weights_file(recipe), recipe.weights)


def download_size(recipe: Recipe) -> float | None:
    """Return how many MiB the recipe's pretrained weights have where they are torchvision's, else None.

    Raises:
        ValueError: torchvision has no such weights for this model.
    """
    if recipe.weights not in ("imagenet1k_v1", "imagenet1k_v2"):
        return None
    return published(recipe).mib


class Published(NamedTuple):
    """A file of torchvision's weights: its address, its place in torch's cache, and its size in MiB, 0 if unknown.

    `digest` are the first digits of its sha256.
    """

    url: str
    path: Path
    digest: str
    mib: float


def published(recipe: Recipe) -> Published:
    """Return where torchvision's weights of a recipe come from and lie, as torchvision itself has it.

    Raises:
        ValueError: torchvision has no such weights for this model.
    """
    entry = _torchvision_weights(recipe)
    name = entry.url.rpartition("/")[2]
    digits = re.search(r"-([0-9a-f]{8,64})\.", name)
    assert digits, name  # the names of all of torchvision's weights end like that
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    mib = entry.meta.get("_file_size", 0.0)  # in MiB, though torchvision calls it MB
    return Published(entry.url, path, digits[1], mib)


def _download(recipe: Recipe) -> Path:
    """Return the path of torchvision's weights in torch's cache.

    torchvision's own download has no time-out, and trusts what is in the cache.
    """
    file = published(recipe)
    return downloads.fetch(
        (file.url,),
        file.path,
        digest=f"sha256:{file.digest}",
        size=f"{file.mib:.0f} MiB" if file.mib else "",
        elsewhere="set the environment variable TORCH_HOME to another folder",
        otherwise="give a copy as weights=PATH, or use weights='none' or profile='demo', which download nothing",
    )


_READ = ("safetensors", "zip", "pickle")  # what `_kind` calls the files that are read


def _read_state(path: Path, given: str) -> dict[str, Tensor]:
    """Read a state dict from a file of either kind, whatever its suffix; `given` names it in errors."""
    unreadable = f"weights={given!r} cannot be read as a state dict of tensors"
    with path.open("rb") as file:
        start, size = file.read(512), os.fstat(file.fileno()).st_size
    kind = _kind(start, size)
    if kind not in _READ:
        raise ValueError(f"{unreadable}: it is {kind}")
    program = False
    try:
        if kind == "zip":
            with zipfile.ZipFile(path) as archive:
                program = any(name.endswith("/constants.pkl") for name in archive.namelist())
        if kind == "safetensors":
            state: Any = safetensors.torch.load_file(path)
        elif kind == "zip" and not program and path.suffix != ".safetensors":  # torch goes by that suffix
            # Mapped, so that a checkpoint's optimizer is not even read.
            state = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        elif not program:
            with path.open("rb") as file:
                state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # what a damaged file raises depends on where its bytes go wrong
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        why = (
            f"it holds Python objects ({foreign[1]}), which could run code, so that it was not loaded: where you "
            "trust it, load the model and save its weights alone, torch.save(model.state_dict(), PATH)"
            if foreign
            else f"it is damaged, cut short or no file of torch.save ({size} bytes): fetch or copy it again"
        )
        raise ValueError(f"{unreadable}: {why}") from None  # torch's own message advises to switch the check off
    if program:
        raise ValueError(f"{unreadable}: it is a TorchScript program; save the state_dict() of its model instead")
    return _checked_state(state, given)


def _kind(start: bytes, size: int) -> str:
    """Say what a file is by its first bytes: one of `_READ`, or what it is instead."""
    if not start:
        return "an empty file: fetch or copy it again"
    # The length of a JSON header, of up to 100 MB, and that; first, since a length may look like anything else.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= 100_000_000:
        return "safetensors"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS: run git lfs pull to get the file itself"
    if start.lstrip()[:1] == b"<":
        return "a web page: download the file itself"
    if start.startswith(b"PK"):
        return "zip"
    if start.startswith(b"\x80") and len(start) > 1 and start[1] <= pickle.HIGHEST_PROTOCOL:
        return "pickle"  # torch.save's form before PyTorch 1.6; resnet50-0676ba61.pth has it
    if all(32 <= byte < 127 or byte in b"\t\n\f\r" for byte in start):
        return f"text, beginning {start.decode().strip()[:40]!r}"
    return f"neither a safetensors file nor one of torch.save: its {size} bytes begin {start[:8].hex()}"


def _checked_state(state: Any, given: str) -> dict[str, Tensor]:
    """Return a state dict's own copy, or raise ValueError: not tensors, within something else, not finite."""
    none = f"weights={given!r} holds no state dict: expected names mapped to tensors"
    if not isinstance(state, Mapping):
        raise ValueError(f"{none}, found {_article(type(state).__name__)}")
    if not state:
        raise ValueError(f"{none}, found an empty one")
    others = [f"{name!r} is {_article(type(v).__name__)}" for name, v in state.items() if not _plain(name, v)]
    if others:
        places = list(_states(state))
        if places:
            raise ValueError(
                f"{none}, found them within, under {' and '.join(places)}. Save them alone: "
                f"torch.save(torch.load({given!r}, weights_only=True){places[0]}, PATH)"
            )
        more = f", and {len(others) - 3} more" if len(others) > 3 else ""
        raise ValueError(f"{none}, but {', '.join(others[:3])}{more}")
    broken = [name for name, value in state.items() if not _finite(value)]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise ValueError(
            f"weights={given!r} holds NaN or infinite values in {', '.join(broken[:3])}{more}: the training that "
            "they come from failed, or the file is damaged; use weights from before"
        )
    return {name: value.clone() for name, value in state.items()}  # no longer tied to a mapped file


def _plain(name: Any, value: Any) -> bool:
    """Say whether an entry is a name with an ordinary tensor."""
    if not isinstance(name, str) or not isinstance(value, Tensor):
        return False
    return value.layout == torch.strided and not value.is_meta and not value.is_quantized


def _finite(value: Tensor) -> bool:
    # Of floats of 8 bits not all kinds know the question.
    wide = value.float() if value.is_floating_point() and value.element_size() == 1 else value
    return bool(wide.isfinite().all())


def _states(held: Mapping[Any, Any], place: str = "", depth: int = 3) -> Iterator[str]:
    """Yield where state dicts lie within a checkpoint, as the keys that lead to them: `['model']`."""
    for key, value in held.items():
        if isinstance(value, Mapping) and value:
            here = f"{place}[{key!r}]"
            if all(_plain(name, each) for name, each in value.items()):
                yield here
            elif depth > 1:
                yield from _states(value, here, depth - 1)


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _torchvision_weights(recipe: Recipe) -> Any:
    model = recipe.model.removeprefix("se_")
    entries = {entry.name.lower(): entry for entry in torchvision.models.get_model_weights(model)}
    if recipe.weights not in entries:
        raise ValueError(f"torchvision has no {recipe.weights} weights for {model}: use {', '.join(entries)}")
    return entries[recipe.weights]


def _weights_file(recipe: Recipe) -> Path:
    try:
        path = Path(recipe.weights).expanduser()
        folder, there = path.is_dir(), path.is_file()
    except (OSError, RuntimeError):  # a name too long for a file, a ~user who is not known
        folder, there = False, False
    if not there:
        raise FileNotFoundError(
            f"weights={recipe.weights!r} is no file{' but a folder' if folder else ''}: give the path of a state "
            "dict, or one of imagenet1k_v1, imagenet1k_v2, none"
        )
    return path


def fold(trunk: M, dtype: torch.dtype = torch.float32) -> M:
    """Return an inference copy of a frozen trunk: BatchNorm folded into its convolution, in `dtype`.

    The same function up to rounding, with a third of the memory traffic. The copy is never what is saved.
    """
    folded = copy.deepcopy(trunk)
    for parent in list(folded.modules()):
        previous_name, previous = "", None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and isinstance(previous, nn.Conv2d):
                setattr(parent, previous_name, fuse_conv_bn_eval(previous, child))
                setattr(parent, name, nn.Identity())
            previous_name, previous = name, child
    return _channels_last(folded.to(dtype))


def batchnorms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return the BatchNorm layers of a module, in order."""
    return [found for found in module.modules() if isinstance(found, nn.modules.batchnorm._BatchNorm)]


@torch.no_grad()
def recalibrate(trunk: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the trunk's BatchNorm statistics to those of prepared images, in one pass without labels.

    For trunks whose statistics come from other images (or, with random weights, from none); Li et al. 2017,
    arXiv 1603.04779. Means and variances are averaged over the batches; afterwards the trunk is frozen again.
    """
    norms = batchnorms(trunk)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
        norm.train()
    try:
        for batch in batches:
            trunk(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Return (all parameters, trainable parameters)."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trainable in sizes if trainable)


def room(recipe: Recipe, weights: Mapping[str, Tensor] | None = None) -> tuple[int, int]:
    """Return how many bytes a run keeps on disk, and how many more its training needs there.

    Args:
        recipe: What is trained.
        weights: A backbone's state to be compared with the recipe's model, as `load_weights` returns it.

    Raises:
        ValueError: `weights` do not fit the recipe's model.
    """
    if weights is not None:
        with torch.device("meta"):  # the shapes alone
            build(recipe, 2, {key: value.to("meta") for key, value in weights.items()})
    total, trainable = _sizes(recipe.model, recipe.trainable, recipe.se_ratio)
    return 4 * total, 3 * 4 * 3 * trainable  # three checkpoints of weights and Adam's two moments


@functools.cache
def _sizes(model: str, trainable: str, se_ratio: int) -> tuple[int, int]:
    """Return what `count_parameters` does, of recipes that differ in nothing else that counts."""
    with torch.device("meta"):
        return count_parameters(build(Recipe(name="any", model=model, trainable=trainable, se_ratio=se_ratio), 2))


def room_of(times: Mapping[Recipe, int]) -> tuple[int, int]:
    """Return how many bytes so many runs of each recipe keep on disk, and how many more are needed at work."""
    rooms = [(n, *room(recipe)) for recipe, n in times.items()]
    return sum(n * kept for n, kept, _ in rooms), max((at_work for *_, at_work in rooms), default=0)


@torch.no_grad()
def multiply_adds(model: nn.Module, image_size: int) -> int:
    """Count the multiply-adds of convolutions and linear layers that the prediction of one image takes."""
    x = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
    was_training = model.training
    model.eval()
    with FlopCounterMode(display=False) as counter:
        model(x)
    model.train(was_training)
    return counter.get_total_flops() // 2
