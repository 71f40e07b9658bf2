"""Recipes: everything that decides a training run, as plain values.

A `Recipe` is a frozen dataclass checked at construction. The study's recipes are written as differences, `LEVEL2 =
replace(LEVEL1, ...)`: the diff is the lesson. A `Profile` says where data come from and how big the runs are;
`resolve` turns a profile's name and the user's overrides into the recipes to train.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

MODELS = ("resnet50", "se_resnet50", "efficientnet_b0", "convnext_tiny")
NAMED_WEIGHTS = ("imagenet1k_v1", "imagenet1k_v2", "none", "pretrain")


def _checked(default: Any, what: str, check: Callable[[Any], bool], *, assumed: bool = False) -> Any:
    """Make a dataclass field whose value must pass `check`; `what` completes "must be ...".

    `assumed` marks what the documents leave open; every other field is `documented`.
    """
    return field(default=default, metadata={"what": what, "check": check, "assumed": assumed})


def _one_of(default: str, options: Iterable[str], *, assumed: bool = False) -> Any:
    options = tuple(options)
    return _checked(default, f"one of {', '.join(options)}", lambda v: v in options, assumed=assumed)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _integer(default: int, low: int, *, assumed: bool = False) -> Any:
    return _checked(
        default, f"an integer of at least {low}", lambda v: type(v) is int and v >= low, assumed=assumed
    )


def _number(default: float, low: float, high: float, *, assumed: bool = False, above: bool = False) -> Any:
    """A finite number in [low, high], or in (low, high] where `above` is set."""
    return _checked(
        default,
        f"a number {'above' if above else 'from'} {low:g}" + (f" up to {high:g}" if high < math.inf else ""),
        lambda v: _is_number(v) and (low < v if above else low <= v) and v <= high,
        assumed=assumed,
    )


def _boolean(default: bool, *, assumed: bool = False) -> Any:
    return _checked(default, "true or false", lambda v: type(v) is bool, assumed=assumed)


_EXPONENT = re.compile(r"[-+]?[0-9.]+[eE][-+]?[0-9]+")  # a number to Python, and text to YAML


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a training run, apart from the images themselves.

    Raises:
        ValueError: a value is out of its range; the message names the field, the value and what it may be.
    """

    name: str = _checked("", "a name", lambda v: isinstance(v, str) and v != "")
    # Model
    model: str = _one_of("resnet50", MODELS)
    weights: str = _checked(
        "imagenet1k_v1",
        f"one of {', '.join(NAMED_WEIGHTS)}, or the path of a state dict",
        lambda v: isinstance(v, str) and v != "",
        assumed=True,  # "pretrained on ImageNet": which of torchvision's two sets is not said
    )
    trainable: str = _one_of("head", ("head", "layer4", "all"))
    # Of the frozen trunk: the weights' own statistics, those of the training images, or (what freezing the
    # parameters alone leaves) those of each training batch, with running averages that drift along.
    batchnorm: str = _one_of("source", ("source", "target", "train"), assumed=True)
    dilation: bool = _boolean(False, assumed=True)
    se_ratio: int = _integer(16, 1, assumed=True)
    se_init: str = _one_of("identity", ("identity", "paper"), assumed=True)
    # Images
    image_size: int = _integer(224, 32)
    interpolation: str = _one_of("bilinear", ("bilinear", "bicubic"), assumed=True)
    augment: bool = _boolean(False)
    crop_padding: int = _integer(4, 0, assumed=True)
    flip: bool = _boolean(True)
    brightness: float = _number(0.2, 0, 1, assumed=True)
    contrast: float = _number(0.2, 0, 1, assumed=True)
    saturation: float = _number(0.2, 0, 1, assumed=True)
    hue: float = _number(0.1, 0, 0.5, assumed=True)
    # Optimisation; the loss is cross-entropy throughout
    # lbfgs solves the head on the frozen trunk's features to convergence: it has no epochs, batches or rate.
    optimizer: str = _one_of("adam", ("adam", "adamw", "lbfgs"))
    learning_rate: float = _number(1e-3, 0, math.inf, above=True)
    weight_decay: float = _number(0.0, 0, math.inf)
    schedule: str = _one_of("constant", ("constant", "cosine"))
    epochs: int = _integer(5, 1)
    batch_size: int = _integer(64, 2)
    # Execution
    precision: str = _one_of("auto", ("auto", "32-true", "16-mixed", "bf16-mixed"), assumed=True)
    seed: int = _checked(
        0, "an integer from 0 to 2**63 - 1", lambda v: type(v) is int and 0 <= v < 2**63, assumed=True
    )

    def __post_init__(self) -> None:
        wrong = []
        for f in fields(self):
            value = getattr(self, f.name)
            if not f.metadata["check"](value):
                hint = ""
                if isinstance(value, str) and type(f.default) in (int, float) and _EXPONENT.fullmatch(value):
                    hint = " (it is text: YAML reads 1e-3 as text, write 0.001)"
                wrong.append(f"{f.name}={value!r} must be {f.metadata['what']}{hint}")
            elif type(f.default) is float and type(value) is int:
                object.__setattr__(self, f.name, float(value))  # 0 and 0.0 are one recipe, and one run
        if self.trainable == "layer4" and self.model not in ("resnet50", "se_resnet50"):
            wrong.append(f"trainable='layer4' needs a ResNet, and model is {self.model!r}: use 'head' or 'all'")
        if self.dilation and self.model not in ("resnet50", "se_resnet50"):
            wrong.append(f"dilation=True needs a ResNet, and model is {self.model!r}")
        if self.model == "se_resnet50" and self.trainable == "head":
            wrong.append("model='se_resnet50' has an SE block to train: trainable must be 'layer4' or 'all'")
        if self.optimizer == "lbfgs" and (self.trainable != "head" or self.augment):
            wrong.append(
                "optimizer='lbfgs' solves the head on features that stay as they are: it needs trainable='head' "
                "and augment=False"
            )
        if wrong:
            raise ValueError(f"recipe {self.name!r}: " + "; ".join(wrong))

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON-ready values; `Recipe.from_dict` reads it back."""
        return asdict(self)

    def changed(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults: they tell recipes apart, whatever is added later."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Build a recipe from `to_dict`'s values; unknown names raise ValueError with the nearest known one."""
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"unknown recipe field {name!r}{nearest(name, known)}")
        return cls(**values)


def expect(kind: type[Any], *, least: int | None = None, **values: Any) -> None:
    """Refuse values that are not of a type, bool for instance; papermill's `-p NAME true` gives the text "true".

    Args:
        kind: The type.
        least: The smallest value that makes sense.
        values: By the name that the message is to give them.

    Raises:
        ValueError: one is of another type, or too small; the message names it.
    """
    for name, value in values.items():
        found: type[Any] = type(value)
        if found is not kind:
            remedy = "write True or False, with a capital" if kind is bool else f"give {_AN[kind]}"
            raise ValueError(f"{name}={value!r} is {_AN.get(found, found.__name__)}: {remedy}")
        elif least is not None and value < least:
            raise ValueError(f"{name}={value} is too small: give at least {least}")


_AN = {str: "text", int: "an integer", float: "a number", bool: "true or false", dict: "a mapping"}


def nearest(name: str, known: Iterable[str]) -> str:
    """Complete a message about an unknown name: the nearest known one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {close[0]!r}?" if close else f": known are {', '.join(known)}"


# --- The documents' recipes --------------------------------------------------------------------------------

LEVEL1 = Recipe(name="level1")
LEVEL2 = replace(
    LEVEL1,
    name="level2",
    trainable="layer4",
    augment=True,
    optimizer="adamw",
    learning_rate=3e-4,
    weight_decay=1e-4,
    schedule="cosine",
    epochs=10,
)
LEVEL3 = replace(LEVEL2, name="level3", model="se_resnet50", epochs=12)
EFFICIENTNET = replace(LEVEL2, name="efficientnet", model="efficientnet_b0", trainable="all")
CONVNEXT = replace(EFFICIENTNET, name="convnext", model="convnext_tiny", learning_rate=1e-4)

# Level 1 with its head solved to convergence; as a script has it that freezes the parameters and forgets
# BatchNorm; and at CIFAR-10's own size.
LEVEL1_ARMS: dict[str, dict[str, Any]] = {
    "level1_probe": {"optimizer": "lbfgs", "trainable": "head", "augment": False, "epochs": 1},
    "level1_batchnorm": {"batchnorm": "train"},
    "level1_32px": {"image_size": 32},
}

# The four arms of level 2's ablation differ from level 2 in the two factors and in nothing else.
ARMS: dict[str, dict[str, Any]] = {
    "level2_noaug_frozen": {"augment": False, "trainable": "head"},
    "level2_frozen": {"trainable": "head"},
    "level2_noaug": {"augment": False},
    "level2": {},
}

# Level 3 without what it adds, the SE block, and without what levels 2 and 3 keep, the frozen trunk.
LEVEL3_ARMS: dict[str, dict[str, Any]] = {
    "level3_plain": {"model": "resnet50"},
    "level3_full": {"trainable": "all"},
}

# By the level whose recipe they change.
_ARMS_OF = {"level1": LEVEL1_ARMS, "level2": ARMS, "level3": LEVEL3_ARMS}

# Trains the demo's stand-ins for ImageNet weights, on built-in classes that the study does not use.
PRETRAIN = Recipe(
    name="pretrain",
    weights="none",
    trainable="all",
    optimizer="adamw",
    weight_decay=0.05,
    schedule="cosine",
    epochs=2,
    image_size=32,
)

_BASE = (LEVEL1, LEVEL2, LEVEL3, EFFICIENTNET, CONVNEXT, PRETRAIN)

# What each level's notebook trains. Level 3 compares itself with level 2, level 4 votes over its members.
LEVELS: dict[str, tuple[str, ...]] = {
    "level1": ("level1",),
    "level2": ("level2",),
    "level3": ("level2", "level3"),
    "level4": ("level3", "efficientnet"),
}

# What a level's notebook trains besides, to compare with, by the parameter that asks for it.
ASKED_FOR: dict[str, dict[str, tuple[str, ...]]] = {
    "level1": {"probe": ("level1_probe",), "batchnorm": ("level1_batchnorm",), "at_32px": ("level1_32px",)},
    "level2": {"ablation": ("level1_probe", *ARMS)},
    "level3": {"plain": ("level3_plain",), "full_finetuning": ("level3_full",)},
    "level4": {"convnext": ("convnext",)},
}
BY_DEFAULT = ("probe", "ablation", "plain")
"""Those of these parameters that are on in the notebooks unless they are set."""

# The arms are trained once, under whatever seeds the levels are trained.
COMPARED = tuple(name for arms in _ARMS_OF.values() for name in arms if name not in LEVELS)


def members(name: str) -> tuple[str, ...]:
    """Return the runs whose vote `name` is: level 4's two members; any other is its own."""
    return LEVELS["level4"] if name == "level4" else (name,)


def stand_in(by_name: Mapping[str, Recipe], model: str) -> Recipe:
    """Return the training that makes the demo's stand-in for an architecture's ImageNet weights."""
    return replace(by_name["pretrain"], name=f"pretrain_{model}", model=model)


def stand_ins(by_name: Mapping[str, Recipe], chosen: Iterable[Recipe]) -> list[Recipe]:
    """Return those trainings that the chosen recipes start from, one an architecture."""
    models = {recipe.model.removeprefix("se_") for recipe in chosen if recipe.weights == "pretrain"}
    return [stand_in(by_name, model) for model in sorted(models)]


def documented_recipe(name: str) -> Recipe:
    """Return the study's own recipe of that name, as the documents have it, before any override.

    Raises:
        ValueError: no recipe has that name.
    """
    for recipe in _BASE:
        if recipe.name == name:
            return recipe
    for level, arms in _ARMS_OF.items():
        if name in arms:
            return replace(documented_recipe(level), name=name, **arms[name])
    known = [*(r.name for r in _BASE), *COMPARED]
    raise ValueError(f"unknown recipe {name!r}{nearest(name, known)}")


def origin(recipe: Recipe, name: str) -> str:
    """Say where the study's value of field `name` comes from: `documented` or `assumed`.

    Of level 4's members the documents give only the model and the epochs (Level 4, section 3).
    """
    if recipe.name in ("convnext", "pretrain"):
        return "assumed"
    if recipe.name == "efficientnet":
        return "documented" if name in ("model", "epochs") else "assumed"
    if recipe.name == "level3" and name in ("augment", "flip"):
        return "assumed"  # its document does not say whether level 2's augmentation was kept
    metadata = next(f.metadata for f in fields(Recipe) if f.name == name)
    return "assumed" if metadata["assumed"] else "documented"


# --- Profiles ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Where the images come from and how many of them are used; `overrides` changes recipe fields.

    `train_size`, `val_size` and `test_size` are upper limits, None for all. `pretrain_size` is the number of
    built-in images that the demo's stand-in for ImageNet weights is trained on. `store_size` is the side at which
    images are held in memory, in pixels: None keeps CIFAR-10's 32, or takes the recipes' image size for a folder
    of larger photographs. `seeds` is how many training seeds every level is trained under.
    """

    name: str = _one_of("full", ("full", "demo"))
    train_size: int | None = _checked(None, "an integer of at least 2, or null", lambda v: _limit(v, 2))
    val_size: int | None = _checked(None, "an integer of at least 1, or null", lambda v: _limit(v, 1))
    test_size: int | None = _checked(None, "an integer of at least 1, or null", lambda v: _limit(v, 1))
    store_size: int | None = _checked(None, "an integer of at least 8, or null", lambda v: _limit(v, 8))
    pretrain_size: int = _integer(10_000, 2)
    split_seed: int = _integer(0, 0)
    seeds: int = _integer(1, 1)
    overrides: Mapping[str, Any] = field(
        default_factory=dict, metadata={"what": "a mapping", "check": lambda v: isinstance(v, Mapping)}
    )

    def __post_init__(self) -> None:
        wrong = [
            f"{f.name}={getattr(self, f.name)!r} must be {f.metadata['what']}"
            for f in fields(self)
            if not f.metadata["check"](getattr(self, f.name))
        ]
        if wrong:
            raise ValueError(f"profile {self.name!r}: " + "; ".join(wrong))


def _limit(value: Any, low: int) -> bool:
    return value is None or (type(value) is int and value >= low)


FULL = Profile(name="full")
# Chosen under seeds 10 to 12, so that effects show in minutes on two cores; the drawings were made for that, too.
# Few images and many epochs: then fine-tuning can do what a head on frozen features cannot.
DEMO = Profile(
    name="demo",
    train_size=500,
    val_size=250,
    test_size=1000,
    store_size=48,
    pretrain_size=3000,
    overrides={
        "weights": "pretrain",
        "image_size": 48,  # leaves Grad-CAM a map of 3 x 3; from 49 on 4 x 4, at almost twice the cost
        "dilation": True,
        # In a few hundred steps a network learns little from images that are moved and recoloured far.
        "crop_padding": 1,
        "brightness": 0.05,
        "contrast": 0.05,
        "saturation": 0.05,
        "hue": 0.01,
        # Few images make few steps: smaller batches get further with them.
        "batch_size": 16,
        # A head on cached features takes milliseconds an epoch: it is trained until it has as good as converged.
        "level1.epochs": 100,
        "level1.batch_size": 64,
        "level2.learning_rate": 4e-3,
        "level2.epochs": 6,
        "level3.learning_rate": 4e-3,
        "level3.epochs": 6,
        # From scratch: so small a network learns these images as fast as it would be pretrained on others.
        "efficientnet.weights": "none",
        "efficientnet.learning_rate": 1e-3,
        "efficientnet.epochs": 12,
        # Every drawing once, in small batches: the most steps for the time.
        "pretrain.batch_size": 32,
        "pretrain.epochs": 1,
    },
)
PROFILES = {"full": FULL, "demo": DEMO}
RECIPE_FIELDS = tuple(f.name for f in fields(Recipe) if f.name not in ("name", "seed"))
"""What an override may change of a recipe."""
PROFILE_FIELDS = ("train_size", "val_size", "test_size", "store_size", "pretrain_size", "split_seed", "seeds")
"""What an override may change of the profile."""


def resolve(
    profile: str, *, seed: int = 0, overrides: Mapping[str, Any] | None = None
) -> tuple[Profile, dict[str, Recipe]]:
    """Turn a profile's name and overrides into the profile and the recipes, by recipe name.

    An override's key is a recipe field, for every recipe of the study (`epochs`), a recipe's name, a dot and a
    field, for that one alone (`level2.epochs`), or a field of the profile (`train_size`). The narrower key wins,
    the user's over the profile's. The arms follow their level; one that these settings make the same training as a
    level is that level, and has its name. Pretraining takes narrow keys only.

    Raises:
        ValueError: an unknown profile, key or a value out of range, named with what would be right.
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}: use one of {', '.join(PROFILES)}, or auto")
    overrides = dict(overrides or {})
    bases = {r.name: r for r in _BASE}
    known = [*RECIPE_FIELDS, *PROFILE_FIELDS]
    for key in overrides:
        prefix, dot, name = key.rpartition(".")
        if dot and prefix not in bases:
            raise ValueError(f"unknown recipe {prefix!r} in override {key!r}{nearest(prefix, bases)}")
        options = RECIPE_FIELDS if dot else known
        if name not in options:
            raise ValueError(f"unknown override {key!r}{nearest(name, options)}")
    chosen = PROFILES[profile]
    sizes = {key: value for key, value in overrides.items() if key in PROFILE_FIELDS}
    chosen = replace(chosen, **sizes)
    recipes: dict[str, Recipe] = {}
    for name, base in bases.items():
        values: dict[str, Any] = {"seed": seed}
        for source in (chosen.overrides, overrides):
            broad = {} if name == "pretrain" else {k: v for k, v in source.items() if k in RECIPE_FIELDS}
            if base.model not in ("resnet50", "se_resnet50"):
                broad.pop("dilation", None)  # a broad one means the ResNets
            values |= broad | {k.partition(".")[2]: v for k, v in source.items() if k.startswith(f"{name}.")}
        recipes[name] = replace(base, **values)
    levels = [recipes[level] for level in _ARMS_OF]
    for level, arms in _ARMS_OF.items():
        for arm, changes in arms.items():
            recipe = replace(recipes[level], name=arm, **changes)
            same = (each for each in levels if replace(recipe, name=each.name) == each)
            recipes[arm] = next(same, recipe)
    return chosen, recipes
