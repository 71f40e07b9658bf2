"""The recipes against the documents' tables, and everything a user may get wrong in an override."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import fields, replace
from typing import Any

import pytest

from cifarlib import documented, recipes
from cifarlib.recipes import (
    ARMS,
    LEVEL1,
    LEVEL1_ARMS,
    LEVEL2,
    LEVEL3,
    LEVEL3_ARMS,
    Profile,
    Recipe,
    documented_recipe,
    origin,
    resolve,
)

NAN, INF = math.nan, math.inf
FIELDS = [f.name for f in fields(Recipe)]

# Typed from the documents: level 1, sections 3 to 5; level 2, sections 2 to 5; level 3, sections 2 to 4;
# level 4, section 3. What a level does not repeat is the level before.
TABLE: dict[str, dict[str, Any]] = {
    "level1": {
        "model": "resnet50",
        "weights": "imagenet1k_v1",
        "trainable": "head",
        "image_size": 224,
        "augment": False,
        "optimizer": "adam",
        "learning_rate": 0.001,
        "weight_decay": 0.0,
        "schedule": "constant",
        "epochs": 5,
        "batch_size": 64,
    },
    "level2": {
        "model": "resnet50",
        "weights": "imagenet1k_v1",
        "trainable": "layer4",
        "image_size": 224,
        "augment": True,
        "flip": True,
        "optimizer": "adamw",
        "learning_rate": 0.0003,
        "weight_decay": 0.0001,
        "schedule": "cosine",
        "epochs": 10,
        "batch_size": 64,
    },
    "level3": {
        "model": "se_resnet50",
        "weights": "imagenet1k_v1",
        "trainable": "layer4",
        "image_size": 224,
        "augment": True,
        "optimizer": "adamw",
        "learning_rate": 0.0003,
        "weight_decay": 0.0001,
        "schedule": "cosine",
        "epochs": 12,
        "batch_size": 64,
    },
    "efficientnet": {
        "model": "efficientnet_b0",
        "weights": "imagenet1k_v1",
        "trainable": "all",
        "image_size": 224,
        "epochs": 10,
        "batch_size": 64,
    },
}

# What no document gives.
ASSUMED = {
    "weights",  # ImageNet's, but which of torchvision's two sets is not said
    "batchnorm",
    "dilation",
    "se_ratio",
    "se_init",
    "interpolation",
    "crop_padding",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "precision",
    "seed",
}


# --- The documents -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
def test_the_full_profile_trains_what_the_documents_say(name: str) -> None:
    for recipe in (documented_recipe(name), resolve("full")[1][name]):
        assert {field: getattr(recipe, field) for field in TABLE[name]} == TABLE[name]


@pytest.mark.parametrize("name", ["level1", "level2", "level3"])
def test_a_recipe_agrees_with_the_configuration_in_documented(name: str) -> None:
    level, recipe = documented.LEVELS[name], documented_recipe(name)
    assert (recipe.epochs, recipe.batch_size) == (level.epochs, level.batch_size)
    assert (recipe.learning_rate, recipe.weight_decay) == (level.learning_rate, level.weight_decay)
    assert level.optimizer is not None
    assert recipe.optimizer == level.optimizer.lower()
    assert recipe.schedule == {"none": "constant", "cosine annealing": "cosine"}[str(level.schedule)]
    assert level.trainable is not None
    assert recipe.trainable == ("layer4" if "layer4" in level.trainable else "head")
    assert (recipe.model == "se_resnet50") == ("se" in level.trainable)
    assert recipe.image_size == documented.DATASET["image_size"]
    if level.augmentation is not None:
        assert recipe.augment == bool(level.augmentation)


def test_level_4_trains_its_member_for_the_documented_epochs() -> None:
    assert documented_recipe("efficientnet").epochs == documented.LEVELS["level4"].epochs


def test_a_level_changes_only_what_its_document_changes() -> None:
    def changed(a: Recipe, b: Recipe) -> set[str]:
        return {name for name in FIELDS if getattr(a, name) != getattr(b, name)} - {"name"}

    assert changed(LEVEL1, LEVEL2) == {
        "trainable",
        "augment",
        "optimizer",
        "learning_rate",
        "weight_decay",
        "schedule",
        "epochs",
    }
    assert changed(LEVEL2, LEVEL3) == {"model", "epochs"}
    assert changed(LEVEL2, documented_recipe("efficientnet")) == {"model", "trainable"}


@pytest.mark.parametrize("recipe", [LEVEL1, LEVEL2], ids=lambda r: r.name)
def test_origin_marks_exactly_what_the_documents_leave_open(recipe: Recipe) -> None:
    assert {name for name in FIELDS if origin(recipe, name) == "assumed"} == ASSUMED


def test_origin_of_level_3_leaves_augmentation_open_as_its_document_does() -> None:
    assert documented.LEVELS["level3"].augmentation is None
    assumed = {name for name in FIELDS if origin(LEVEL3, name) == "assumed"}
    assert assumed - {"flip"} == ASSUMED | {"augment"}


def test_origin_of_level_4s_member_is_documented_for_the_model_and_the_epochs_alone() -> None:
    member = documented_recipe("efficientnet")
    assert {name for name in FIELDS if origin(member, name) == "documented"} == {"model", "epochs"}


@pytest.mark.parametrize("name", ["convnext", "pretrain"])
def test_nothing_is_documented_of_recipes_the_documents_do_not_have(name: str) -> None:
    assert {origin(documented_recipe(name), field) for field in FIELDS} == {"assumed"}


@pytest.mark.parametrize("profile", ["full", "demo"])
def test_every_level_names_recipes_that_exist(profile: str) -> None:
    _, resolved = resolve(profile)
    assert {name for names in recipes.LEVELS.values() for name in names} <= set(resolved)
    same = {name: recipe.name for name, recipe in resolved.items() if recipe.name != name}
    assert same == ({"level3_plain": "level2"} if profile == "demo" else {})
    assert list(recipes.LEVELS) == list(documented.LEVELS)


# --- The arms of the ablation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [{}, {"level2.epochs": 3, "learning_rate": 1e-4, "image_size": 96}, {"level2.batch_size": 16}],
)
def test_the_arms_differ_from_level_2_in_the_two_factors_alone(overrides: dict[str, Any]) -> None:
    _, resolved = resolve("full", overrides=overrides)
    factors = {}
    for name in ARMS:
        arm = resolved[name]
        factors[name] = (arm.augment, arm.trainable)
        assert replace(arm, name="level2", augment=True, trainable="layer4") == resolved["level2"]
    assert factors == {
        "level2_noaug_frozen": (False, "head"),
        "level2_frozen": (True, "head"),
        "level2_noaug": (False, "layer4"),
        "level2": (True, "layer4"),
    }
    for key, value in overrides.items():
        assert getattr(resolved["level2_noaug_frozen"], key.removeprefix("level2.")) == value


@pytest.mark.parametrize(
    ("level", "arm", "field", "value"),
    [
        ("level1", "level1_batchnorm", "batchnorm", "train"),
        ("level1", "level1_32px", "image_size", 32),
        ("level3", "level3_plain", "model", "resnet50"),
        ("level3", "level3_full", "trainable", "all"),
    ],
)
def test_the_other_arms_differ_from_their_level_in_one_field(level: str, arm: str, field: str, value: Any) -> None:
    _, resolved = resolve("full", overrides={f"{level}.epochs": 3, "level2.epochs": 4})
    found, base = resolved[arm], resolved[level]
    assert (getattr(found, field), found.epochs, found.name) == (value, 3, arm)
    assert replace(found, name=level, **{field: getattr(base, field)}) == base
    assert documented_recipe(arm) == replace(found, epochs=documented_recipe(level).epochs)


def test_the_converged_head_is_solved_whatever_its_level_trains() -> None:
    changes = {"augment": True, "level1.trainable": "layer4", "level1.epochs": 3, "batchnorm": "train"}
    _, resolved = resolve("full", overrides=changes)
    found, base = resolved["level1_probe"], resolved["level1"]
    assert (found.optimizer, found.trainable, found.augment, found.epochs) == ("lbfgs", "head", False, 1)
    assert replace(found, name="level1", **{f: getattr(base, f) for f in LEVEL1_ARMS["level1_probe"]}) == base


@pytest.mark.parametrize("changes", [{"trainable": "layer4"}, {"augment": True}])
def test_what_is_solved_has_features_that_stay_as_they_are(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="optimizer='lbfgs' solves the head on features that stay as they are"):
        replace(LEVEL1, optimizer="lbfgs", **changes)


def test_an_arm_that_is_the_very_training_of_a_level_is_that_level() -> None:
    """Nothing is trained twice under two names; what differs in one field stays an arm."""
    overrides = {"level3.epochs": 10, "level1.image_size": 32, "level1.batchnorm": "train"}
    _, resolved = resolve("full", overrides=overrides)
    assert resolved["level3_plain"] is resolved["level2"]
    assert resolved["level1_32px"] is resolved["level1_batchnorm"] is resolved["level1"]
    assert resolved["level3_full"].name == "level3_full"
    assert resolve("full", overrides={"level3.epochs": 10, "level3.hue": 0.2})[1]["level3_plain"].name != "level2"


def test_what_a_notebook_asks_for_are_arms_and_each_has_one_parameter() -> None:
    asked = [arm for parameters in recipes.ASKED_FOR.values() for arms in parameters.values() for arm in arms]
    # Level 2 compares with the converged head of level 1 too.
    assert sorted(asked) == sorted([*LEVEL1_ARMS, *ARMS, *LEVEL3_ARMS, "convnext", "level1_probe"])
    assert set(recipes.BY_DEFAULT) < {name for parameters in recipes.ASKED_FOR.values() for name in parameters}


# --- Values ------------------------------------------------------------------------------------------------

NOT_TEXT: list[Any] = [None, 1, ""]
NOT_INTEGER: list[Any] = [True, 2.0, "64", None, NAN, INF, -1]
NOT_NUMBER: list[Any] = [True, "1e-3", None, NAN, INF, -INF, -0.001]
NOT_BOOLEAN: list[Any] = [0, 1, 1.0, "true", None]

BAD: dict[str, list[Any]] = {
    "name": NOT_TEXT,
    "model": [*NOT_TEXT, "resnet18", "ResNet50"],
    "weights": NOT_TEXT,
    "trainable": [*NOT_TEXT, "layer3", "fc"],
    "batchnorm": [*NOT_TEXT, "frozen"],
    "dilation": NOT_BOOLEAN,
    "se_ratio": [*NOT_INTEGER, 0],
    "se_init": [*NOT_TEXT, "zero"],
    "image_size": [*NOT_INTEGER, 31],
    "interpolation": [*NOT_TEXT, "nearest"],
    "augment": NOT_BOOLEAN,
    "crop_padding": NOT_INTEGER,
    "flip": NOT_BOOLEAN,
    "brightness": [*NOT_NUMBER, 1.01],
    "contrast": [*NOT_NUMBER, 1.01],
    "saturation": [*NOT_NUMBER, 1.01],
    "hue": [*NOT_NUMBER, 0.51],
    "optimizer": [*NOT_TEXT, "sgd", "Adam"],
    "learning_rate": [*NOT_NUMBER, 0, 0.0],
    "weight_decay": NOT_NUMBER,
    "schedule": [*NOT_TEXT, "none", "step"],
    "epochs": [*NOT_INTEGER, 0],
    "batch_size": [*NOT_INTEGER, 0, 1],
    "precision": [*NOT_TEXT, "bf16", "16"],
    "seed": NOT_INTEGER,
}


def test_the_bad_values_below_leave_no_field_out() -> None:
    assert set(BAD) == set(FIELDS)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_value_is_refused_by_field_and_value(name: str, value: Any) -> None:
    values = {"name": "level2", "weight_decay": 0.1, name: value}
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r} must be ")):
        Recipe(**values)
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r} must be ")):
        Recipe.from_dict(values)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("model", "resnet18", "one of resnet50, se_resnet50, efficientnet_b0, convnext_tiny"),
        ("trainable", "layer3", "one of head, layer4, all"),
        ("epochs", 0, "an integer of at least 1"),
        ("hue", 0.6, "a number from 0 up to 0.5"),
        ("learning_rate", 0, "a number above 0"),
        ("flip", 1, "true or false"),
        ("weights", "", "one of imagenet1k_v1, imagenet1k_v2, none, pretrain, or the path of a state dict"),
    ],
)
def test_the_message_says_what_the_value_may_be(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"recipe 'r': {name}={value!r} must be {allowed}") + "$"):
        Recipe(**{"name": "r", name: value})


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "epochs", "hue"])
def test_a_number_given_as_text_is_explained(name: str) -> None:
    with pytest.raises(ValueError, match=r"it is text: YAML reads 1e-3 as text, write 0\.001"):
        Recipe(**{"name": "r", name: "1e-3"})


@pytest.mark.parametrize(("name", "value"), [("model", "resnet18"), ("learning_rate", -1.0), ("augment", "true")])
def test_the_hint_about_numbers_is_kept_for_numbers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match="must be") as refused:
        Recipe(**{"name": "r", name: value})
    assert "1e-3" not in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        {"hue": 0.5, "brightness": 1, "contrast": 0, "saturation": 1.0},
        {"learning_rate": 1, "weight_decay": 0},
        {"crop_padding": 0, "se_ratio": 1, "seed": 0, "epochs": 1, "batch_size": 2, "image_size": 32},
        {"weights": "runs/my weights.safetensors"},
        {"learning_rate": 5e-324},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(values: dict[str, Any]) -> None:
    recipe = Recipe(name="r", **values)
    assert {name: getattr(recipe, name) for name in values} == values


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ValueError, match="recipe 'level2'") as refused:
        replace(LEVEL2, epochs=0, hue=NAN, optimizer="sgd")
    for part in ("epochs=0", "hue=nan", "optimizer='sgd'"):
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"model": "efficientnet_b0", "trainable": "layer4"},
            "model is 'efficientnet_b0': use 'head' or 'all'",
        ),
        ({"model": "convnext_tiny", "trainable": "layer4"}, "model is 'convnext_tiny': use 'head' or 'all'"),
        ({"model": "efficientnet_b0", "dilation": True}, "dilation=True needs a ResNet"),
        ({"model": "se_resnet50", "trainable": "head"}, "trainable must be 'layer4' or 'all'"),
    ],
)
def test_values_that_do_not_go_together_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Recipe(name="r", **values)


def test_a_recipe_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LEVEL1.epochs = 6  # type: ignore[misc]


# --- JSON --------------------------------------------------------------------------------------------------

EVERY_RECIPE = [recipe for profile in ("full", "demo") for recipe in resolve(profile, seed=3)[1].values()]


@pytest.mark.parametrize(
    "recipe",
    [
        *EVERY_RECIPE,
        replace(LEVEL2, weights='C:\\weights\\"größe".pth', learning_rate=0.1 + 0.2, weight_decay=5e-324),
        replace(LEVEL2, learning_rate=1, hue=0, seed=2**63 - 1),
    ],
    ids=lambda r: r.name,
)
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict(), allow_nan=False)))
    assert again == recipe
    assert {name: type(getattr(again, name)) for name in FIELDS} == {
        name: type(getattr(recipe, name)) for name in FIELDS
    }


def test_from_dict_refuses_a_name_it_does_not_know_and_says_the_nearest() -> None:
    values = LEVEL1.to_dict()
    values["learnin_rate"] = values.pop("learning_rate")
    with pytest.raises(ValueError, match=r"'learnin_rate': did you mean 'learning_rate'\?"):
        Recipe.from_dict(values)
    with pytest.raises(ValueError, match="'zzzz': known are name, model, weights"):
        Recipe.from_dict({"name": "r", "zzzz": 1})


def test_documented_recipe_refuses_an_unknown_name_and_says_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'levle2': did you mean 'level2'\?"):
        documented_recipe("levle2")


# --- Profiles and overrides --------------------------------------------------------------------------------


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown profile 'fulll': use one of full, demo, or auto"):
        resolve("fulll")


@pytest.mark.parametrize("profile", ["full", "demo"])
def test_a_narrow_override_wins_over_a_broad_one_in_either_order(profile: str) -> None:
    pairs = [("epochs", 7), ("level2.epochs", 2)]
    for overrides in (dict(pairs), dict(reversed(pairs))):
        _, resolved = resolve(profile, overrides=overrides)
        assert resolved["level2"].epochs == resolved["level2_frozen"].epochs == 2
        assert {resolved[name].epochs for name in ("level1", "level3", "efficientnet", "convnext")} == {7}


def test_the_users_override_wins_over_the_profiles() -> None:
    profile, plain = resolve("demo")
    assert "level2.epochs" in profile.overrides  # a narrow one of the profile, which a broad one must beat
    assert "image_size" in profile.overrides
    _, resolved = resolve("demo", overrides={"epochs": 1, "image_size": 48})
    for name, recipe in resolved.items():
        if name not in ("pretrain", "level1_32px"):
            assert recipe == replace(plain[name], epochs=1, image_size=48)


def test_a_profiles_own_overrides_are_applied() -> None:
    profile, resolved = resolve("demo")
    for key, value in profile.overrides.items():
        name, dot, field = key.rpartition(".")
        assert getattr(resolved[name if dot else "level2"], field) == value


def test_overrides_are_not_kept_between_calls() -> None:
    before = resolve("demo")
    overrides = {"epochs": 1, "train_size": 99, "level2.hue": 0.0}
    given = dict(overrides)
    assert resolve("demo", overrides=overrides) != before
    assert overrides == given
    assert resolve("demo") == before
    assert resolve("demo", overrides={}) == before


def test_profile_fields_are_overridden_by_their_name() -> None:
    sizes = {
        "train_size": 20,
        "val_size": 10,
        "test_size": 30,
        "store_size": 64,
        "split_seed": 5,
        "pretrain_size": 100,
    }
    profile, resolved = resolve("full", overrides=sizes)
    assert {name: getattr(profile, name) for name in sizes} == sizes
    assert resolved == resolve("full")[1]
    assert resolve("demo", overrides={"train_size": None})[0].train_size is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, bad) for name in ("train_size", "val_size", "test_size") for bad in (True, 1.5, "9", 0, NAN)],
        ("train_size", 1),
        ("store_size", 7),
        ("store_size", "32"),
        ("pretrain_size", 1),
        ("split_seed", -1),
        ("split_seed", None),
    ],
)
def test_a_bad_profile_field_is_refused_by_field_and_value(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"profile 'full': {name}={value!r} must be an integer")):
        resolve("full", overrides={name: value})


def test_a_profile_checks_its_name_and_its_overrides() -> None:
    with pytest.raises(ValueError, match="name='tiny' must be one of full, demo"):
        Profile(name="tiny")
    with pytest.raises(ValueError, match="overrides=3"):
        Profile(overrides=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("epoch", "unknown override 'epoch': did you mean 'epochs'?"),
        ("train_sizes", "unknown override 'train_sizes': did you mean 'train_size'?"),
        ("level2.epoch", "unknown override 'level2.epoch': did you mean 'epochs'?"),
        ("levl2.epochs", "unknown recipe 'levl2' in override 'levl2.epochs': did you mean 'level2'?"),
        (".epochs", "unknown recipe '' in override '.epochs': known are level1"),
        ("a.level2.epochs", "unknown recipe 'a.level2'"),
        ("level2.train_size", "unknown override 'level2.train_size'"),
        ("level2_frozen.epochs", "unknown recipe 'level2_frozen'"),
        ("seed", "unknown override 'seed'"),
        ("name", "unknown override 'name'"),
        ("level1.seed", "unknown override 'level1.seed'"),
    ],
)
def test_an_unknown_override_is_refused(key: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        resolve("full", overrides={key: 1})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"level2.epochs": 0}, "recipe 'level2': epochs=0"),
        ({"level3.learning_rate": "1e-3"}, "recipe 'level3': learning_rate='1e-3'.*write 0.001"),
        ({"pretrain.hue": 2}, "recipe 'pretrain': hue=2"),
        ({"efficientnet.dilation": True}, "recipe 'efficientnet': dilation=True needs a ResNet"),
    ],
)
def test_a_bad_value_in_an_override_names_the_recipe(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve("full", overrides=overrides)


@pytest.mark.parametrize("profile", ["full", "demo"])
def test_pretraining_takes_narrow_keys_only(profile: str) -> None:
    plain = resolve(profile)[1]["pretrain"]
    broad = {"epochs": 1, "image_size": 96, "learning_rate": 0.5, "weights": "none", "augment": False}
    assert resolve(profile, overrides=broad)[1]["pretrain"] == plain
    assert resolve(profile, overrides={"pretrain.epochs": 1})[1]["pretrain"] == replace(plain, epochs=1)
    assert plain.weights == "none"


def test_a_broad_dilation_reaches_the_resnets_alone() -> None:
    _, resolved = resolve("full", overrides={"dilation": True})
    reached = {name for name, recipe in resolved.items() if recipe.dilation}
    assert reached == {"level1", "level2", "level3", *LEVEL1_ARMS, *ARMS, *LEVEL3_ARMS}


@pytest.mark.parametrize("profile", ["full", "demo"])
def test_the_seed_reaches_every_recipe_and_nothing_else(profile: str) -> None:
    chosen, resolved = resolve(profile, seed=41)
    plain, unseeded = resolve(profile)
    assert {recipe.seed for recipe in resolved.values()} == {41}
    assert {name: replace(recipe, seed=0) for name, recipe in resolved.items()} == unseeded
    assert chosen == plain  # the split has a seed of its own


@pytest.mark.parametrize("seed", ["0", 0.0, True, -1, None, 2**63])
def test_a_bad_seed_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"seed={seed!r} must be an integer from 0 to 2**63 - 1")):
        resolve("full", seed=seed)


def test_the_demo_changes_sizes_and_never_what_is_studied() -> None:
    _, full = resolve("full")
    _, demo = resolve("demo")
    assert list(demo) == list(full)
    for name, recipe in demo.items():
        for field in ("model", "trainable", "augment", "optimizer", "schedule", "weight_decay", "se_ratio"):
            assert getattr(recipe, field) == getattr(full[name], field), f"{name}.{field}"
    # Nothing to download.
    assert {recipe.weights for recipe in demo.values()} == {"none", "pretrain"}


def test_0_and_0_point_0_are_one_recipe() -> None:
    assert json.dumps(replace(LEVEL1, weight_decay=0).to_dict()) == json.dumps(LEVEL1.to_dict())


def test_a_value_of_another_type_is_named() -> None:
    recipes.expect(bool, ablation=True, all_shifts=False)
    recipes.expect(int, cam_images=12)
    with pytest.raises(ValueError, match="ablation='false' is text: write True or False, with a capital"):
        recipes.expect(bool, ablation="false")
    with pytest.raises(ValueError, match="convnext=1 is an integer"):
        recipes.expect(bool, second_seed=True, convnext=1)
    recipes.expect(int, least=0, road_images=0)
    with pytest.raises(ValueError, match="shift_images=0 is too small: give at least 1"):
        recipes.expect(int, least=1, shift_images=0)
    with pytest.raises(ValueError, match=r"cam_images=12\.5 is a number: give an integer"):
        recipes.expect(int, cam_images=12.5)
