"""The command `train`: from its arguments to recipes, models and files."""

import csv
import itertools
import re

import keras
import numpy as np
import pytest
from PIL import Image

from keras_encnet import EncNet
from keras_encnet.cli import main
from keras_encnet.cli_arguments import make_parser
from keras_encnet.command_training import chosen_recipe, compiled_model, make_optimizer
from keras_encnet.demo import scenes
from keras_encnet.training import SGD, MeanIoU

TRAIN = "train --images i --masks m --labels a,b --out x"
TINY = "--backbone resnet18 --width 0.125 --head-channels 8"


def parsed(command):
    return make_parser().parse_args(command.split())


def recipe_of(options):
    return chosen_recipe(parsed(f"{TRAIN} {options}"))


@pytest.fixture(scope="module")
def drawn():
    return scenes(6, size=(64, 80))


@pytest.fixture(scope="module")
def files(drawn, tmp_path_factory):
    here = tmp_path_factory.mktemp("scenes")
    for name in ("images", "masks"):
        (here / name).mkdir()
    for i, (image, mask) in enumerate(drawn):
        Image.fromarray(image).save(here / "images" / f"{i}.png")
        Image.fromarray(mask).save(here / "masks" / f"{i}.png")
    return here


# === Recipes ===


def test_without_a_recipe_it_is_mmsegmentations_for_images_of_any_size():
    own = recipe_of("")
    assert (own.batch_size, own.epochs, own.steps, own.size) == (8, 40, None, (512, 512))
    assert own.resize is None and own.backbone_weights is None and own.evaluation is None
    assert (own.momentum, own.weight_decay, own.aux_weight, own.se_weight) == (0.9, 5e-4, 0.4, 0.2)
    assert own.settings()["recipe"] == "own"


def test_options_change_parts_of_a_recipe():
    published = recipe_of("--recipe ade20k_r50_512x512_80k")
    assert (published.steps, published.batch_size, published.resize) == (80000, 16, (2048, 512))
    changed = recipe_of(
        "--recipe ade20k_r50_512x512_80k --batch-size 8 --accumulate 2 --epochs 3 --resize 1024 256 "
        "--scale 1 1.5 --flip 0 --no-photometric --loss cross_entropy dice:0.5 --seed 7 "
        "--learning-rate 5e-5 --backbone-weights none --set weight_decay=1e-4 head_factor=10 "
        "--set max_class_share=0.9 --dtype mixed_bfloat16"
    )
    assert (changed.batch_size, changed.accumulation, changed.epochs, changed.steps) == (8, 2, 3, None)
    assert (*changed.resize,) == (1024, 256) and (*changed.scale,) == (1.0, 1.5)
    assert (changed.flip, changed.photometric, changed.seed) == (0.0, False, 7)
    assert changed.loss == {"cross_entropy": 1.0, "dice": 0.5}
    assert changed.learning_rate == changed.end == 5e-5 and changed.backbone_weights is None
    assert (changed.weight_decay, changed.head_factor, changed.max_class_share) == (1e-4, 10, 0.9)
    assert changed.dtype == "mixed_bfloat16" and changed.name == published.name
    assert recipe_of("--loss focal").loss == "focal"
    assert recipe_of("--loss focal:2").loss == {"focal": 2.0}
    with pytest.raises(ValueError, match="that can be given are .*momentum.* Received: mometum"):
        recipe_of("--set mometum=0.8")
    with pytest.raises(ValueError, match="name of a published model. Received: 'ade'"):
        recipe_of("--recipe ade")


# === Models and optimizers ===


def model_of(options, pairs):
    arguments = parsed(f"{TRAIN} {TINY} --size 48 64 --batch-size 2 {options}")
    recipe = chosen_recipe(arguments)
    return compiled_model(arguments, recipe, pairs, recipe.batches(pairs))


def test_the_seed_decides_the_weights(drawn):
    first, again, other = (model_of(f"--seed {seed}", drawn).get_weights() for seed in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(a != c) for a, c in zip(first, other, strict=True))


def optimizer_of(options, pairs):
    arguments = parsed(f"{TRAIN} --size 48 64 --batch-size 2 --epochs 4 {options}")
    recipe = chosen_recipe(arguments)
    made = make_optimizer(arguments, recipe, recipe.batches(pairs))
    return made, made.get_config()["learning_rate"]


@pytest.mark.parametrize(
    "options, kind, rate, end",
    [
        ("", keras.optimizers.AdamW, 1e-3, 0.0),
        ("--backbone-weights imagenet", SGD, 0.01, 1e-4),
        ("--preset ade20k_r50", SGD, 0.01, 1e-4),
        ("--recipe ade20k_r50 --backbone-weights none", SGD, 0.01, 1e-4),
        ("--preset a --optimizer adamw --learning-rate 3e-4", keras.optimizers.AdamW, 3e-4, 0.0),
        ("--optimizer sgd", SGD, 0.01, 1e-4),
        ("--optimizer sgd --learning-rate 5e-5", SGD, 5e-5, 5e-5),
    ],
)
def test_the_optimizer_fits_the_weights_that_training_starts_from(drawn, options, kind, rate, end):
    made, schedule = optimizer_of(options, drawn)
    schedule = keras.optimizers.schedules.deserialize(schedule)
    assert isinstance(made, kind) and schedule.steps == 12  # 4 epochs of 6 pairs, 2 at a time
    assert (schedule.initial, schedule.end) == (rate, end)


@pytest.mark.parametrize("kind, steps", [("sgd", 12), ("adamw", 24)])
def test_a_schedule_ends_with_the_last_update_when_gradients_are_accumulated(drawn, kind, steps):
    # `SGD` counts updates, and Keras's own optimizers count batches.
    made, schedule = optimizer_of(f"--optimizer {kind} --accumulate 2", drawn)
    assert keras.optimizers.schedules.deserialize(schedule).steps == steps
    assert made.gradient_accumulation_steps == 2


def test_schedules_averages_and_clipping(drawn):
    for kind in ("sgd", "adamw"):
        made, rate = optimizer_of(f"--optimizer {kind} --lr-schedule constant --ema --clip 2", drawn)
        assert rate == pytest.approx(0.01 if kind == "sgd" else 0.001)
        assert (made.use_ema, made.ema_momentum, made.global_clipnorm) == (True, 0.99, 2.0)
        made, rate = optimizer_of(f"--optimizer {kind} --lr-schedule cosine --ema 0.9", drawn)
        rate = keras.optimizers.schedules.deserialize(rate)
        assert (rate.decay_steps, made.ema_momentum, made.global_clipnorm) == (12, 0.9, None)


def test_layers_are_frozen_up_to_a_stage(drawn):
    def frozen(options):
        layers = model_of(options, drawn).backbone.layers
        return {layer.name.split("_")[0] for layer in layers if layer.weights and not layer.trainable}

    assert frozen("") == set()
    assert frozen("--freeze stage2") == {"stem", "stage1", "stage2"}
    model = model_of("--freeze backbone", drawn)
    assert not model.backbone.trainable_weights and model.trainable_weights


def test_a_backbone_without_stages_is_frozen_as_one(drawn, tmp_path):
    pixels = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(8, 8, strides=8, padding="same")(pixels)
    backbone = keras.Model(pixels, [features, features])
    preset = tmp_path / "preset"
    EncNet(backbone, len(drawn.labels), labels=drawn.labels, head_channels=8).save_to_preset(preset)

    def compiled(stage):
        arguments = parsed(f"{TRAIN} --preset {preset} --size 48 64 --batch-size 2 --freeze {stage}")
        recipe = chosen_recipe(arguments)
        return compiled_model(arguments, recipe, drawn, recipe.batches(drawn))

    with pytest.raises(ValueError, match="--freeze stage1 needs a ResNet of .* Take --freeze backbone"):
        compiled("stage1")
    assert not compiled("backbone").backbone.trainable


# === Runs ===


def run(files, out, options):
    labels = ",".join(scenes(1).labels)
    return main(
        f"train --images {files}/images --masks {files}/masks --labels {labels} --out {out} {TINY} "
        f"--size 48 64 {options}".split()
    )


def rows(out):
    with open(out / "training" / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_recipe_runs_on_own_images_and_resumes_with_more_steps(files, tmp_path, capsys):
    options = (
        "--recipe ade20k_r50_512x512_80k --backbone-weights none --resize 80 64 --batch-size 2 "
        "--accumulate 2 --validate-every 2 --val-share 0.34 --freeze stage1 --ema --clip 5 "
        "--loss cross_entropy dice:0.5 --pictures 2 --set evaluation=null"
    )
    assert run(files, tmp_path, f"{options} --steps 4") == 0
    text = capsys.readouterr().out
    for line in ("Data .*4 images.*2 images for validation", "all classes"):
        assert re.search(line, text), text
    assert f"Curves: {tmp_path}/training/curves.png" in text
    assert "- loss: " in text and "- val_miou: " in text and "pixel_loss" not in text
    # Steps are updates, of two batches each.
    assert [float(row["epoch"]) for row in rows(tmp_path)] == [1, 2]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "epoch-0001.png",
        "epoch-0002.png",
    ]
    assert run(files, tmp_path, f"{options} --steps 6") == 0
    assert len(rows(tmp_path)) == 3 and "was started for" in capsys.readouterr().err
    assert run(files, tmp_path, f"{options} --steps 6 --clip 4") == 1
    assert "clip: 5.0 then, 4.0 now" in capsys.readouterr().err


def test_the_best_model_is_kept_and_early_stopping_ends_the_run(files, tmp_path, capsys, monkeypatch):
    # Scores that fall: the first validation is the best one.
    numbers = itertools.count(2)
    monkeypatch.setattr(MeanIoU, "result", lambda self: 1 / next(numbers))
    options = f"--batch-size 2 --epochs 6 --val-images {files}/images --val-masks {files}/masks"
    assert run(files, tmp_path, f"{options} --early-stopping 2 --pictures 0") == 0
    assert len(rows(tmp_path)) == 3 and not (tmp_path / "pictures").exists()
    text = capsys.readouterr().out
    assert "best of the epochs, epoch 1 with mIoU" in text
    best = keras.saving.load_model(tmp_path / "training" / "best.keras")
    kept = EncNet.from_preset(tmp_path / "model")
    for a, b in zip(best.get_weights(), kept.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
