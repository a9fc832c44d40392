import math

import pytest
import torch
from torch import nn

from hsvdet.detector import create
from hsvdet.errors import ConfigError
from hsvdet.models import MODELS, find
from hsvdet.structures import Target
from hsvdet.training.ema import AveragedNet
from hsvdet.training.optimizer import (
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    parameter_groups,
    rate_factor,
    warmup_length,
)
from hsvdet.training.recipe import RECIPES, Recipe, find_recipe
from tiny_runs import tiny


def test_every_model_names_a_recipe_that_exists():
    assert {model.recipe for model in MODELS.values()} <= RECIPES.keys()


def test_an_unknown_recipe_or_number_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="Did you mean plain"):
        find_recipe("plane")
    with pytest.raises(ConfigError, match="Did you mean mosaic"):
        find_recipe("plain", {"mozaic": 0.5})
    with pytest.raises(ConfigError, match="mosaic expects a number from 0 to 1"):
        find_recipe("plain", {"mosaic": 2.0})
    with pytest.raises(ConfigError, match="warmup_steps expects a whole number"):
        find_recipe("plain", {"warmup_steps": "many"})
    assert find_recipe("plain", {"weight_decay": 0}).weight_decay == 0.0


@pytest.mark.parametrize("name", ["yolov8-n", "hsv-det-n"])
def test_an_object_between_the_anchors_is_learned_unless_the_recipe_says_otherwise(name):
    net = tiny(name).net.eval()
    output = net(torch.rand(1, 3, 64, 64))
    box = torch.tensor([[32.0, 32, 6, 6]]) / 64  # the nearest anchors are 4 px away in x and y
    targets = [Target(torch.tensor([0]), box)]

    def box_loss(recipe):
        return find(name).criterion(recipe)(output, targets)["box"].item()

    recipe = find_recipe(find(name).recipe)
    assert recipe.smallest_side == 16 and box_loss(recipe) > 0
    assert box_loss(find_recipe(recipe, {"smallest_side": 0})) == 0
    with pytest.raises(ConfigError, match="smallest_side expects 0 or more"):
        find_recipe("plain", {"smallest_side": -1})


def test_images_are_mixed_only_in_the_hybrid_stage():
    recipe = RECIPES["three-stage"]
    stages = [recipe.stage(epoch, 100) for epoch in range(100)]
    assert [stages.count(name) for name in ("integrate", "hybrid", "settle")] == [10, 70, 20]
    assert sorted(set(stages), key=stages.index) == ["integrate", "hybrid", "settle"]
    for epoch, mixed in ((9, False), (10, True), (79, True), (80, False)):
        augmentation = recipe.augmentation(epoch, 100)
        assert bool(augmentation.mosaic + augmentation.mixup + augmentation.copy_paste) == mixed
        assert augmentation.flip == recipe.flip
    assert [RECIPES["plain"].stage(epoch, 300) for epoch in (0, 289, 290)] == ["hybrid", "hybrid", "settle"]


def test_the_rate_rises_to_its_height_and_falls_along_a_cosine_to_its_end():
    recipe = Recipe(warmup_epochs=3.0, warmup_steps=1000, warmup_share=0.1, cosine_until=0.8, final_rate=0.01)
    warmup = warmup_length(recipe, steps=1000, steps_per_epoch=20)
    assert warmup == 60
    factors = [rate_factor(step, 1000, warmup, recipe) for step in range(1000)]
    assert factors[0] == pytest.approx(1 / 60) and max(factors) == factors[59] == factors[60] == 1
    middle = 60 + (800 - 60) // 2
    assert factors[middle] == pytest.approx((1 + 0.01) / 2)
    assert all(factor == pytest.approx(0.01) for factor in factors[800:])
    assert warmup_length(recipe, steps=10, steps_per_epoch=1) == 1


def test_gates_learn_faster_and_only_matrices_decay():
    net = tiny("hsv-det-n+", gate="scalar").net
    recipe = Recipe(weight_decay=0.05)
    groups = parameter_groups(net, recipe, trained_backbone=False)
    by_name = {name: group for group in groups for name in group["names"]}
    assert by_name.keys() == dict(net.named_parameters()).keys()
    for name, parameter in net.named_parameters():
        matrix = parameter.ndim > 1 and not name.endswith("registers")
        assert by_name[name]["weight_decay"] == (0.05 if matrix else 0.0), name
        assert by_name[name]["scale"] == (10.0 if name.endswith("gate") else 1.0), name


def test_the_backbone_of_a_warm_network_learns_slower():
    groups = parameter_groups(tiny("yolov8-n").net, Recipe(), trained_backbone=True)
    slow = {name.split(".")[0] for group in groups if group["scale"] == 0.1 for name in group["names"]}
    assert slow == {"stem", "stage2", "stage3", "stage4", "stage5"}
    optimizer = make_optimizer(tiny("yolov8-n").net, Recipe(), warm=True)
    assert optimizer.defaults["lr"] == 2e-4


def test_a_backbone_from_imagenet_learns_at_its_own_rate_and_the_rest_as_new():
    recipe = RECIPES["deformable-detr"]
    net = create("deformable-detr-tiny", ["a"]).net
    optimizer = make_optimizer(net, recipe, warm=False, trained_backbone=True)
    scale = {name: group["scale"] for group in optimizer.param_groups for name in group["names"]}
    assert optimizer.defaults["lr"] == 2e-4
    for name, value in scale.items():
        slow = name.startswith(("backbone.", "reference.")) or ".sampling_offsets." in name
        assert value == (0.1 if slow else 1.0), name
    assert len(set(scale.values())) == 2 and any("sampling_offsets" in name for name in scale)
    # As the paper's, and unlike the others: everything decays.
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}
    unaware = parameter_groups(net, RECIPES["small-data"], trained_backbone=False)
    assert {group["scale"] for group in unaware} == {1.0}


def test_papers_keep_the_rate_and_drop_it_once():
    recipe = RECIPES["dab-detr"]
    warmup = warmup_length(recipe, steps=5000, steps_per_epoch=100)
    factors = [rate_factor(step, 5000, warmup, recipe) for step in range(5000)]
    assert set(factors[:4000]) == {1.0} and set(factors[4000:]) == {0.1}
    constant = RECIPES["rt-detr"]
    assert rate_factor(2000, 100_000, 2000, constant) == rate_factor(99_999, 100_000, 2000, constant) == 1


def test_without_an_average_the_weights_themselves_are_validated():
    net = nn.Linear(3, 3)
    average = AveragedNet(net, decay=RECIPES["detr"].ema_decay, ramp=2000.0)
    for _ in range(3):
        with torch.no_grad():
            net.weight.add_(torch.randn(3, 3))
        average.update()
        assert torch.equal(average.net.weight, net.weight)


@pytest.mark.parametrize("name", MODELS)
def test_a_models_own_recipe_suits_the_images_it_was_designed_for(name):
    recipe = RECIPES[MODELS[name].recipe]
    for epoch in (0, recipe.epochs // 2, recipe.epochs - 1):
        recipe.augmentation(epoch, recipe.epochs).check(MODELS[name].preprocess)


def test_restored_moments_continue_as_if_nothing_had_happened():
    def step(net, optimizer, seed):
        torch.manual_seed(seed)
        net(torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    def fresh():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
        return net, make_optimizer(net, Recipe(), warm=False)

    net, optimizer = fresh()
    step(net, optimizer, 1)
    weights, moments = ({k: v.clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
                        for tensors in (net.state_dict(), optimizer_tensors(optimizer)))  # fmt: skip
    step(net, optimizer, 2)
    other, restored = fresh()
    other.load_state_dict(weights)
    load_optimizer_tensors(restored, moments, "state")
    step(other, restored, 2)
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_the_average_follows_weights_and_running_statistics_by_its_ramp():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = AveragedNet(net, decay=0.9, ramp=3.0)
    expected = {name: value.clone() for name, value in net.state_dict().items()}
    for t in range(1, 6):
        net(torch.randn(4, 2))
        with torch.no_grad():
            net[0].weight.add_(torch.randn(2, 2))
        average.update()
        decay = 0.9 * (1 - math.exp(-t / 3))
        for name, value in net.state_dict().items():
            counts = not value.is_floating_point()
            expected[name] = value.clone() if counts else decay * expected[name] + (1 - decay) * value
    for name, value in average.net.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert average.net[1].num_batches_tracked == 5 and not average.net.training
