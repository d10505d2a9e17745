import dataclasses
import inspect
import math

import pytest
import torch

from tests.training.ssl.problems import (
    CLASSES,
    FEATURES,
    ask,
    descend,
    found_classes,
    pictures,
    small_method,
    tiny_backbone,
)
from training.errors import ConfigError
from training.pretrain_config import MethodConfig
from training.ssl import byol, moco, simclr, simsiam, supervised, swav
from training.ssl.methods import METHODS, build_method, check_method

CLASSES_OF_METHODS = {
    "simsiam": simsiam.SimSiam,
    "simclr": simclr.SimCLR,
    "moco": moco.MoCo,
    "byol": byol.BYOL,
    "swav": swav.SwAV,
    "supervised": supervised.Supervised,
}
NAMES = sorted(METHODS)


@pytest.mark.parametrize("name", NAMES)
def test_default_settings_fit_every_method_at_the_papers_batch(name: str):
    check_method(name, MethodConfig(), 256)


@pytest.mark.parametrize("name", NAMES)
def test_settings_of_a_method_are_the_arguments_of_its_class(name: str):
    arguments = inspect.signature(CLASSES_OF_METHODS[name]).parameters.values()
    keywords = {a.name: a.default for a in arguments if a.kind is a.KEYWORD_ONLY}
    assert set(METHODS[name].settings) == set(keywords)
    defaults = {f.name: f.default for f in dataclasses.fields(MethodConfig)}
    assert set(METHODS[name].settings) <= set(defaults)
    for setting, default in keywords.items():
        assert defaults[setting] in (None, default)


def test_every_setting_is_of_some_method():
    settings = {setting for entry in METHODS.values() for setting in entry.settings}
    assert settings == {field.name for field in dataclasses.fields(MethodConfig)}


@pytest.mark.parametrize("name", NAMES)
def test_method_by_name_is_of_its_class(name: str):
    assert type(small_method(name, tiny_backbone())) is CLASSES_OF_METHODS[name]


def test_settings_reach_the_method():
    config = MethodConfig(
        hidden=12,
        projection=6,
        temperature=0.3,
        prototypes=5,
        epsilon=0.04,
        sinkhorn_steps=2,
        freeze_steps=7,
    )
    made = build_method(
        "swav",
        tiny_backbone(),
        config,
        num_features=FEATURES,
        num_classes=CLASSES,
        batch_size=64,
    )
    assert isinstance(made, swav.SwAV)
    assert made.prototypes.shape == (5, 6)
    assert made.projector[0].weight.shape == (12, FEATURES)
    found = (made.temperature, made.epsilon, made.sinkhorn_steps, made.freeze_steps)
    assert found == (0.3, 0.04, 2, 7)


def test_unknown_method_lists_the_valid_ones():
    with pytest.raises(
        ConfigError, match=r"'simsam'.*'byol', 'moco', 'simclr', 'simsiam', 'supervised', 'swav'"
    ):
        check_method("simsam", MethodConfig(), 256)
    with pytest.raises(ConfigError, match="unknown --method 'dino'"):
        build_method(
            "dino", tiny_backbone(), MethodConfig(), num_features=16, num_classes=2, batch_size=4
        )


@pytest.mark.parametrize(
    ("name", "wrong", "flag"),
    [
        ("simclr", {"temperature": 0.0}, "--temperature"),
        ("moco", {"temperature": math.nan}, "--temperature"),
        ("swav", {"temperature": math.inf}, "--temperature"),
        ("moco", {"momentum": 1.0}, "--momentum"),
        ("byol", {"momentum": -0.1}, "--momentum"),
        ("byol", {"momentum": math.nan}, "--momentum"),
        ("byol", {"hidden": 0}, "--hidden"),
        ("simsiam", {"projection": 0}, "--projection"),
        ("moco", {"queue": 65535}, "--queue"),
        ("moco", {"queue": 128}, "--queue"),
        ("moco", {"queue": 0}, "--queue"),
        ("swav", {"prototypes": 1}, "--prototypes"),
        ("swav", {"epsilon": 0.0}, "--epsilon"),
        ("swav", {"sinkhorn_steps": 0}, "--sinkhorn-steps"),
        ("swav", {"freeze_steps": -1}, "--freeze-steps"),
    ],
)
def test_number_out_of_its_range_is_refused(name: str, wrong: dict[str, float], flag: str):
    with pytest.raises(ConfigError, match=f"^{flag} is"):
        check_method(name, MethodConfig(**wrong), 256)


def test_ends_of_the_ranges_are_allowed():
    check_method("moco", MethodConfig(momentum=0.0, queue=256), 256)
    check_method("swav", MethodConfig(prototypes=2, sinkhorn_steps=1, freeze_steps=0), 256)
    check_method("simsiam", MethodConfig(hidden=1, projection=1), 256)


@pytest.mark.parametrize(("queue", "such_as"), [(1000, 1024), (100, 256), (700, 768)])
def test_refused_queue_is_told_a_length_that_fits(queue: int, such_as: int):
    with pytest.raises(ConfigError, match=f"--batch-size, 256, such as {such_as}"):
        check_method("moco", MethodConfig(queue=queue), 256)
    check_method("moco", MethodConfig(queue=such_as), 256)


@pytest.mark.parametrize(
    ("name", "foreign", "owners"),
    [
        ("simsiam", {"queue": 1024}, "--queue is a setting of --method moco"),
        ("simclr", {"momentum": 0.9}, "--momentum is a setting of --method moco, byol"),
        ("byol", {"temperature": 0.2}, "--temperature is a setting of --method simclr, moco, swav"),
        ("moco", {"sinkhorn_steps": 4}, "--sinkhorn-steps is a setting of --method swav"),
        ("supervised", {"hidden": 64}, "--hidden is a setting of"),
    ],
)
def test_setting_of_another_method_is_refused(name: str, foreign: dict[str, float], owners: str):
    with pytest.raises(ConfigError, match=f"^{owners}.*{name} has none"):
        check_method(name, MethodConfig(**foreign), 256)


@pytest.mark.parametrize("name", NAMES)
def test_loss_falls_and_the_backbone_finds_what_the_pictures_are_of(name: str):
    assert found_classes(tiny_backbone()) < 0.7
    losses, backbone = descend(name)
    assert all(math.isfinite(loss) for loss in losses)
    settled = losses[3]  # MoCo's queue is random before
    assert losses[-1] < settled - 0.3 * abs(settled)
    assert found_classes(backbone) > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_two_images_are_enough(name: str):
    backbone = tiny_backbone()
    method = small_method(name, backbone, batch_size=2)
    views, labels = pictures(2)
    loss = ask(method, backbone, views, labels)
    loss.backward()
    assert loss.shape == ()
    assert loss.isfinite()


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_float32_and_near_itself_under_autocast(name: str):
    backbone = tiny_backbone()
    method = small_method(name, backbone).eval()
    views, labels = pictures()
    expected = ask(method, backbone, views, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ask(method, backbone, views, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_method_holds_no_online_backbone_and_all_of_it_is_in_the_state(name: str):
    backbone = tiny_backbone()
    method = small_method(name, backbone)
    own = {id(parameter) for parameter in method.parameters()}
    assert own.isdisjoint({id(parameter) for parameter in backbone.parameters()})
    views, labels = pictures()
    ask(method, backbone, views, labels)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1)
    method.update(backbone, 0, 10)
    other = small_method(name, tiny_backbone())
    other.load_state_dict(method.state_dict())
    torch.testing.assert_close(
        ask(other, backbone, views, labels), ask(method, backbone, views, labels), atol=0, rtol=0
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_that_moves_gets_a_gradient(name: str):
    backbone = tiny_backbone()
    method = small_method(name, backbone)
    views, labels = pictures()
    ask(method, backbone, views, labels).backward()
    for parameter in method.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
