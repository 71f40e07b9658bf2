"""The documents' numbers against each other: what they state, and what arithmetic makes of it."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from cifarlib import documented
from cifarlib.documented import ABLATION, GAINS, LEVEL1, LEVEL2, LEVEL3, LEVEL4, LEVELS, PER_CLASS, SPLIT

HALF_UNIT = 0.005  # what rounding to two decimals can hide


def points(a: float, b: float) -> float:
    """Percentage points from b to a, to the two decimals the documents' percentages have."""
    return round(100 * (a - b), 2)


def correction(level: str, section: int, word: str) -> str:
    """The finding of the one correction of that section whose statement holds the word."""
    (found,) = [
        c.found
        for c in documented.CORRECTIONS
        if (c.level, c.section) == (level, section) and word in c.stated.lower()
    ]
    return found


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_each_curve_is_a_table_of_percentages_over_the_same_epochs(level):
    epochs = [epoch for epoch, _ in level.train_accuracy]
    assert epochs == [epoch for epoch, _ in level.val_accuracy]
    assert epochs[0] == 1
    assert epochs[-1] == level.epochs
    for _, accuracy in (*level.train_accuracy, *level.val_accuracy, (None, level.test_accuracy)):
        assert 0.7 < accuracy < 1
        assert accuracy == round(accuracy, 4)  # a percentage printed to two decimals


def test_curves_list_every_epoch_except_level_4_which_prints_three():
    for level in (LEVEL1, LEVEL2, LEVEL3):
        assert [epoch for epoch, _ in level.train_accuracy] == list(range(1, level.epochs + 1))
    assert [epoch for epoch, _ in LEVEL4.train_accuracy] == [1, 5, 10]


@pytest.mark.parametrize(
    ("level", "train", "val"),
    [
        (LEVEL1, 3.9528, 4.0350),
        (LEVEL2, 9.4500, 9.2284),
        (LEVEL3, 11.4052, 11.0631),
        (LEVEL4, 2.5739, 2.6080),
    ],
    ids=LEVELS,
)
def test_curves_add_up_to_the_totals_of_the_tables(level, train, val):
    """The totals were added up from the text of the documents, apart from the tables here."""
    assert sum(accuracy for _, accuracy in level.train_accuracy) == pytest.approx(train, abs=1e-9)
    assert sum(accuracy for _, accuracy in level.val_accuracy) == pytest.approx(val, abs=1e-9)


def test_training_accuracy_rises_at_every_level_and_epoch():
    for level in LEVELS.values():
        assert all(after > before for (_, before), (_, after) in pairwise(level.train_accuracy))


def test_every_table_gives_a_level_the_same_test_accuracy():
    for rows in documented.SUMMARIES.values():
        for name, _, accuracy in rows:
            assert accuracy == LEVELS[name].test_accuracy
    assert [row.test_accuracy for row in ABLATION] == [LEVEL1.test_accuracy, LEVEL2.test_accuracy]
    _, before, after = documented.ENHANCEMENTS[-1]
    assert [before, after] == [f"{level.test_accuracy:.2%}" for level in (LEVEL1, LEVEL2)]


def test_the_split_counts_are_two_thirds_and_two_sixths():
    images, stated, true = SPLIT["images"], SPLIT["stated"], SPLIT["true"]
    assert sum(images.values()) == documented.DATASET["images"]
    assert images["train"] + images["validation"] == documented.DATASET["official_train"]
    assert sum(stated.values()) == pytest.approx(1)
    assert {part: round(100 * share, 1) for part, share in true.items()} == {
        "train": 66.7,
        "validation": 16.7,
        "test": 16.7,
    }
    assert images["train"] / documented.DATASET["official_train"] == stated["train"]
    assert "66.7% / 16.7% / 16.7%" in correction("level1", 2, "split")


def test_level_1_validation_is_not_always_above_training():
    pairs = [(e, t, v) for (e, t), (_, v) in zip(LEVEL1.train_accuracy, LEVEL1.val_accuracy, strict=True)]
    assert [epoch for epoch, train, val in pairs if val <= train] == [3]
    assert pairs[2][1] == pairs[2][2] == 0.8016
    assert "80.16% and 80.16%" in correction("level1", 6, "consistently")


def test_level_1_does_not_improve_at_every_epoch():
    falls = {
        epoch: points(after, before)
        for (_, before), (epoch, after) in pairwise(LEVEL1.val_accuracy)
        if after < before
    }
    assert falls == {3: -0.20}
    assert "0.20 points at epoch 3" in correction("level1", 6, "steadily")


def test_the_stated_gains_against_subtraction():
    true = {
        (gain.level, gain.over): points(LEVELS[gain.level].test_accuracy, LEVELS[gain.over].test_accuracy)
        for gain in GAINS
    }
    assert true == {("level2", "level1"): 12.58, ("level4", "level3"): 0.56, ("level4", "level1"): 13.05}
    wrong = [(gain.level, gain.over) for gain in GAINS if gain.points != true[gain.level, gain.over]]
    assert wrong == [("level2", "level1"), ("level4", "level1")]
    assert "12.58" in correction("level2", 8, "+12.5%")
    assert "13.05" in correction("level4", 5, "+12.9%")


def test_level_2_and_level_3_are_nine_images_apart():
    errors = [round(10_000 * (1 - level.test_accuracy)) for level in (LEVEL2, LEVEL3)]
    assert errors == [536, 545]
    assert errors[1] - errors[0] == 9
    assert "545" in correction("level3", 8, "confusion")
    assert "536" in correction("level3", 8, "confusion")
    assert f"{points(LEVEL3.test_accuracy, LEVEL2.test_accuracy):.2f} points" in correction("level3", 11, "gains")
    assert "9 images" in correction("level3", 11, "gains")


def test_the_ablation_changes_several_things_at_once():
    assert ABLATION[0].augmentation != ABLATION[1].augmentation
    assert ABLATION[0].fine_tuning != ABLATION[1].fine_tuning
    fields = ("optimizer", "learning_rate", "weight_decay", "schedule", "epochs")
    assert all(getattr(LEVEL1, field) != getattr(LEVEL2, field) for field in fields)
    found = correction("level2", 9, "ablation")
    assert all(field.replace("_", " ") in found for field in fields)


def test_the_train_validation_gaps_the_corrections_quote():
    def gap(level: documented.DocumentedLevel, epoch: int) -> str:
        return f"{points(dict(level.train_accuracy)[epoch], dict(level.val_accuracy)[epoch]):.2f}"

    assert set(LEVEL3.trainable) - set(LEVEL2.trainable) == {"se"}
    deeper = correction("level3", 5, "deeper")
    assert all(text in deeper for text in (gap(LEVEL3, 10), gap(LEVEL2, 10), gap(LEVEL3, 12)))
    overfitting = correction("level4", 3, "overfitting")
    assert all(gap(LEVEL4, epoch) in overfitting for epoch in (1, 5, 10))


def test_every_f1_is_possible_given_its_rounded_precision_and_recall():
    """F1 rises in both, so its extremes lie at the corners of what rounding allows."""

    def f1(precision: float, recall: float) -> float:
        return 2 * precision * recall / (precision + recall)

    for name, (precision, recall, stated) in PER_CLASS.items():
        low = f1(precision - HALF_UNIT, recall - HALF_UNIT)
        high = f1(precision + HALF_UNIT, recall + HALF_UNIT)
        assert low < stated + HALF_UNIT, name
        assert high > stated - HALF_UNIT, name

    # Taken at face value the rounded precision and recall give another second decimal for two classes:
    # automobile and ship (0.96, 0.97) print 0.97 where horse, with the same pair, prints 0.96.
    differ = [name for name, (p, r, stated) in PER_CLASS.items() if round(f1(p, r), 2) != stated]
    assert differ == ["automobile", "ship"]
    assert PER_CLASS["horse"] == (0.96, 0.97, 0.96)


def test_macro_recall_and_the_predicted_counts_agree_with_level_3s_test_accuracy():
    """With 1,000 test images a class, macro recall is the accuracy, up to rounding."""
    macro_recall = sum(recall for _, recall, _ in PER_CLASS.values()) / len(PER_CLASS)
    assert macro_recall == pytest.approx(0.944, abs=1e-12)
    assert abs(macro_recall - LEVEL3.test_accuracy) == pytest.approx(0.0015)
    assert abs(macro_recall - LEVEL3.test_accuracy) < HALF_UNIT

    # True positives / precision = images predicted as the class; over all classes that is the test set.
    low, high = (
        sum(
            1000 * (recall + sign * HALF_UNIT) / (precision - sign * HALF_UNIT)
            for precision, recall, _ in PER_CLASS.values()
        )
        for sign in (-1, 1)
    )
    assert low < 10_000 < high


def test_animals_reach_the_recall_of_vehicles():
    recall = {name: row[1] for name, row in PER_CLASS.items()}
    vehicles = {name: recall[name] for name in ("airplane", "automobile", "ship", "truck")}
    assert recall["horse"] == max(vehicles.values()) == 0.97
    assert recall["frog"] > vehicles["airplane"] == vehicles["truck"] == 0.95
    assert "frog's 0.96" in correction("level3", 7, "vehicles")


def test_the_named_confused_pairs_hold_the_worst_classes():
    worst = sorted(PER_CLASS, key=lambda name: PER_CLASS[name][2])[:2]
    assert set(worst) == set(documented.CONFUSED_PAIRS[0])
    assert {name for pair in documented.CONFUSED_PAIRS for name in pair} <= set(PER_CLASS)


def test_of_level_1s_three_limitations_the_enhancements_address_two():
    """Augmentation and the frozen backbone have their rows; nothing in them is about the size of the images."""
    rows = {component: (before, after) for component, before, after in documented.ENHANCEMENTS}
    assert rows["Data Augmentation"] == ("None", "Strong")
    assert rows["Backbone Training"] == ("Fully frozen", "Partially fine-tuned")
    assert not any(
        re.search("interpol|resiz|size|resolution", " ".join(row).lower()) for row in documented.ENHANCEMENTS
    )
    found = correction("level1", 9, "limitations")
    assert "2 of the 3" in found
    sizes = (documented.DATASET["stored_size"], documented.DATASET["image_size"])
    assert "{} pixels to {}".format(*sizes) in found


def test_normalization_is_none_of_level_2s_augmentations():
    assert len(LEVEL2.augmentation) == 3
    assert not any("normal" in name for name in LEVEL2.augmentation)
    assert "only 3 are augmentations" in correction("level2", 3, "normalization")


def test_overconfidence_is_passed_on_from_level_to_level():
    """Level 2 hands it to level 3, which hands calibration to level 4, which does not address it."""
    assert "section 11 leaves calibration to level 4" in correction("level2", 10, "overconfidence")
    assert "section 7" in correction("level2", 10, "overconfidence")
    assert correction("level3", 11, "calibration").startswith("Level 4, section 7,")


def test_nothing_is_learned_about_how_to_combine_the_members():
    """Level 3's next steps name meta-learning or calibration, addressed in level 4: neither is."""
    assert {weight for *_, weight in documented.ENSEMBLE} == {0.5}
    assert "fixes both weights at 0.5" in correction("level3", 11, "meta-learning")


def test_an_se_block_has_no_spatial_focus():
    assert documented.ENSEMBLE[0][2] == "Strong spatial & channel focus"
    found = correction("level4", 2, "spatial")
    assert "channels alone" in found
    assert f"{documented.DATASET['features']} has one weight" in found


def test_the_ensemble_weights_add_up_to_one():
    assert sum(weight for *_, weight in documented.ENSEMBLE) == 1


def test_corrections_stand_in_the_documents_order_and_name_real_levels():
    places = [(c.level, c.section) for c in documented.CORRECTIONS]
    assert places == sorted(places)
    assert {level for level, _ in places} == set(LEVELS)
    assert all(re.search(r"\d", c.found) for c in documented.CORRECTIONS)
