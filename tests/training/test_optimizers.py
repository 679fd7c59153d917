"""SGD against torch.optim.SGD in float64."""

import pathlib
import re

import keras
import numpy as np
import pytest
from tiny import tiny

from backend import numpy
from golden.weights import noise
from keras_encnet.training.optimizers import HEADS, SGD
from keras_encnet.training.schedules import PolynomialDecay

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "training.npz")
RECIPES = np.load(pathlib.Path(__file__).parents[1] / "golden" / "recipes.npz")
CASES = sorted({key.split("/")[1] for key in GOLDEN.files if key.startswith("sgd/")})


@pytest.mark.parametrize("name", CASES)
def test_sgd_agrees_with_pytorch_while_the_rate_changes(name):
    case = {key.split("/")[2]: GOLDEN[key] for key in GOLDEN.files if key.startswith(f"sgd/{name}/")}
    variable = keras.Variable(case["start"].astype("float32"))
    optimizer = SGD(1.0, momentum=float(case["momentum"]), weight_decay=float(case["weight_decay"]))
    for rate, gradient, after in zip(case["rates"], case["gradients"], case["steps"], strict=True):
        optimizer.learning_rate = float(rate)
        if "matrix" in case:
            gradient = case["matrix"] @ numpy(variable.value) - case["vector"]
        gradient = keras.ops.convert_to_tensor(gradient.astype("float32"))
        optimizer.apply([gradient], [variable])
        np.testing.assert_allclose(numpy(variable.value), after, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_nesterov_agrees_with_pytorch(weight_decay):
    torch = pytest.importorskip("torch")
    options = {"momentum": 0.8, "weight_decay": weight_decay, "nesterov": True}
    rng = np.random.default_rng(0)
    start = rng.normal(size=5)
    theirs = torch.nn.Parameter(torch.tensor(start))
    torch_optimizer = torch.optim.SGD([theirs], 1.0, **options)
    ours = keras.Variable(start.astype("float32"))
    optimizer = SGD(1.0, **options)
    for rate in (0.1, 0.1, 0.05, 0.2):
        gradient = rng.normal(size=5)
        torch_optimizer.param_groups[0]["lr"] = optimizer.learning_rate = rate
        theirs.grad = torch.tensor(gradient)
        torch_optimizer.step()
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype("float32"))], [ours])
        np.testing.assert_allclose(numpy(ours.value), theirs.detach().cpu().numpy(), atol=1e-6)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.nesterov is True


PATHS = ("backbone/kernel", "backbone/bias", "head/kernel", "head/bias")


def variables():
    """Variables of `PATHS`, with the values from which the originals started."""
    found = []
    for path in PATHS:
        scope, name = path.split("/")
        with keras.name_scope(scope):
            found.append(keras.Variable(noise(f"updates/{path}", (4,)).astype("float32"), name=name))
    return found


@pytest.mark.parametrize(
    "case, options",
    [
        ("plain", {}),
        ("nesterov", {"nesterov": True}),
        ("groups", {"learning_rate_factors": {"^head/": 10.0}}),
        ("clipped", {"global_clipnorm": 0.5}),
    ],
)
def test_agrees_with_pytorch_in_groups_and_clipped(case, options):
    ours = variables()
    assert tuple(variable.path for variable in ours) == PATHS
    optimizer = SGD(1.0, momentum=0.9, weight_decay=0.05, **options)
    if case == "groups":
        optimizer.exclude_from_weight_decay(var_list=ours[1:2], var_names=["^bias"])
        optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    for step in range(5):
        optimizer.learning_rate = 0.1 * 0.8 ** (step + 1)
        gradients = [noise(f"updates/{path}/gradient", (4,), step).astype("float32") for path in PATHS]
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], ours)
        for path, variable in zip(PATHS, ours, strict=True):
            expected = RECIPES[f"updates/{case}/{step}/{path}"]
            np.testing.assert_allclose(numpy(variable.value), expected, rtol=0, atol=1e-6)


def test_excluded_variables_do_not_decay():
    variables = [keras.Variable(np.float32([8.0]), name=name) for name in ("weight", "bias", "other")]
    optimizer = SGD(0.5, momentum=0.0, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=variables[2:], var_names=["bias"])
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    optimizer.apply([keras.ops.zeros(1)] * 3, variables)
    assert [float(numpy(v.value)[0]) for v in variables] == [6.0, 8.0, 8.0]
    with pytest.raises(ValueError, match=r"`exclude_from_weight_decay` must be called before training"):
        optimizer.exclude_from_weight_decay(var_names=["weight"])


def test_factors_and_exclusions_hold_in_a_model_and_after_loading(tmp_path):
    model = tiny()
    optimizer = SGD(0.1, momentum=0.0, weight_decay=0.5, learning_rate_factors={HEADS: 0.0})
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta"])
    model.compile(optimizer)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == optimizer.get_config()
    # Masks that are ignored give no gradient: what moves, decays.
    images, masks = np.zeros((2, 32, 48, 3), "uint8"), np.full((2, 32, 48), 255, "uint8")
    before = [numpy(variable.value) for variable in loaded.trainable_variables]
    for one in (model, loaded):
        one.train_on_batch(images, masks)
        moved = {
            variable.path
            for variable, value in zip(one.trainable_variables, before, strict=True)
            if (numpy(variable.value) != value).any()
        }
        assert moved == {"conv1/kernel", "conv2/kernel", "conv3/kernel"}


@pytest.mark.parametrize("options", [{}, {"laterals": True}, {"se_head": False, "aux_head": False}])
def test_the_pattern_of_heads_is_in_all_paths_behind_the_backbone(options):
    model = tiny(**options)
    paths = [variable.path for variable in model.trainable_variables]
    found = [path for path in paths if re.search(HEADS, path)]
    assert found == paths[len(model.backbone.trainable_variables) :]


def test_a_pattern_in_no_path_is_warned_about():
    optimizer = SGD(learning_rate_factors={"haeds": 10.0})
    with pytest.warns(UserWarning, match=r"must be in the path.*'backbone/kernel'.*'haeds'"):
        optimizer.build(variables())


def test_clipping_by_norm_is_pytorchs():
    torch = pytest.importorskip("torch")
    ours = variables()
    optimizer = SGD(1.0, momentum=0.0, weight_decay=0.0, clipnorm=0.7)
    gradients = [noise(f"clip/{path}", (4,)) for path in PATHS]
    before = [numpy(variable.value) for variable in ours]
    optimizer.apply([keras.ops.convert_to_tensor(g.astype("float32")) for g in gradients], ours)
    for variable, start, gradient in zip(ours, before, gradients, strict=True):
        theirs = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
        theirs.grad = torch.from_numpy(gradient)
        torch.nn.utils.clip_grad_norm_([theirs], 0.7)
        np.testing.assert_allclose(start - numpy(variable.value), theirs.grad.numpy(), atol=1e-6)


def test_arguments_of_keras_optimizers_have_their_effect():
    variable = keras.Variable(np.float32([8.0]))
    # The gradient of 4 is clipped to 1, before the weight decay of 4 is added.
    optimizer = SGD(0.5, momentum=0.0, weight_decay=0.5, clipvalue=1.0, use_ema=True, ema_momentum=0.5)
    optimizer.apply([4 * keras.ops.ones(1)], [variable])
    assert float(numpy(variable.value)[0]) == 8 - 0.5 * (1 + 4)
    optimizer.finalize_variable_values([variable])
    assert float(numpy(variable.value)[0]) == 5.5  # the average's first value


@pytest.mark.parametrize(
    "options, message",
    [
        ({"weight_decay": -1e-4}, r"`weight_decay`.*from 0 up.*-0.0001"),
        ({"weight_decay": float("nan")}, r"`weight_decay`.*from 0 up.*nan"),
        ({"weight_decay": "a"}, r"`weight_decay`.*from 0 up.*'a'"),
        ({"learning_rate_factors": {"a": -1.0}}, r"`learning_rate_factors`.*from 0 up.*'a': -1.0"),
        ({"learning_rate_factors": {"(": 1.0}}, r"`learning_rate_factors`.*regular expressions.*'\('"),
        ({"learning_rate_factors": 10.0}, r"`learning_rate_factors` must map.*10.0"),
        ({"momentum": 0.0, "nesterov": True}, r"`momentum` must be above 0.*nesterov"),
    ],
)
def test_invalid_arguments_of_sgd_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SGD(**options)
    assert SGD(weight_decay=None).get_config()["weight_decay"] == 0.0


def test_config_round_trip():
    schedule = PolynomialDecay(0.02, steps=30, end=1e-3, power=0.5, warmup=3)
    optimizer = SGD(schedule, momentum=0.8, weight_decay=1e-3, clipnorm=2.0)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is SGD
    assert again.get_config() == optimizer.get_config()
    assert (again.momentum, again.gradient_decay, again.clipnorm) == (0.8, 1e-3, 2.0)
    assert float(again._learning_rate(7)) == float(schedule(7))
