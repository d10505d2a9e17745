import pytest
import torch
from torch import nn
from torch.nn import functional as F

from training.backbones import BACKBONES, BasicBlock, build_backbone, default_image_size
from training.errors import ConfigError


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet20", 0.27), ("resnet32", 0.46), ("resnet56", 0.85)],  # He et al. 2016, table 6
)
def test_resnet_has_the_papers_number_of_parameters(name: str, millions: float):
    network = build_backbone(name, (32, 32))
    classifier = 64 * 10 + 10
    assert round((parameters(network) + classifier) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("name", "millions"),
    [("wrn-40-2", 2.2), ("wrn-16-8", 11.0)],  # Zagoruyko and Komodakis 2016
)
def test_wide_resnet_has_the_papers_number_of_parameters(name: str, millions: float):
    network = build_backbone(name, (32, 32))
    classifier = network.num_features * 10 + 10
    assert round((parameters(network) + classifier) / 1e6, 1) == millions


def test_half_resnet_works_at_half_the_resolution():
    network = build_backbone("resnet8-half", (32, 32)).eval()
    with torch.no_grad():
        assert network.stem(torch.randn(1, 3, 32, 32)).shape == (1, 32, 16, 16)


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (17, 24)])
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_backbone_gives_as_many_features_as_it_says(name: str, size: tuple[int, int]):
    network = build_backbone(name, size).eval()
    with torch.no_grad():
        features = network(torch.randn(2, 3, *size))
    assert features.shape == (2, network.num_features)


@pytest.mark.parametrize("name", ["resnet20", "wrn-16-2"])
def test_three_stages_halve_the_resolution_twice(name: str):
    network = build_backbone(name, (32, 32)).eval()
    with torch.no_grad():
        maps = network.stages(network.stem(torch.randn(1, 3, 32, 32)))
    assert maps.shape == (1, network.num_features, 8, 8)


def test_shortcut_subsamples_and_pads_with_zero_channels():
    block = BasicBlock(4, 8, 2).eval()
    nn.init.zeros_(block.norm2.weight)  # leaves the shortcut alone
    x = torch.randn(2, 4, 6, 6)
    expected = torch.zeros(2, 8, 3, 3)
    for channel in range(4):
        for i in range(3):
            for j in range(3):
                expected[:, 2 + channel, i, j] = x[:, channel, 2 * i, 2 * j].clamp_min(0)
    torch.testing.assert_close(block(x).detach(), expected, atol=0, rtol=0)


def test_block_of_one_width_adds_its_input():
    block = BasicBlock(4, 4, 1).eval()
    nn.init.zeros_(block.norm2.weight)
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(block(x).detach(), F.relu(x), atol=0, rtol=0)


def test_same_seed_gives_the_same_initial_weights():
    torch.manual_seed(1)
    first = build_backbone("resnet8", (8, 8)).state_dict()
    torch.manual_seed(1)
    again = build_backbone("resnet8", (8, 8)).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize(
    "name",
    [
        "timm/test_resnet",
        "timm/test_vit",  # must know the image size beforehand
        "timm/mobilenetv3_small_050",  # gives wider features than timm's num_features says
    ],
)
def test_timm_model_gives_as_many_features_as_it_says(name: str):
    network = build_backbone(name, (48, 48)).eval()
    with torch.no_grad():
        assert network(torch.randn(2, 3, 48, 48)).shape == (2, network.num_features)


def test_unknown_backbone_lists_the_valid_ones():
    with pytest.raises(ConfigError, match=r"'resnet21'.*'resnet20', 'resnet32'.*timm/<name>"):
        build_backbone("resnet21", (32, 32))


def test_unknown_timm_model_suggests_similar_ones():
    with pytest.raises(ConfigError, match=r"'resnet18x'.*'resnet18'"):
        build_backbone("timm/resnet18x", (32, 32))


@pytest.mark.parametrize("name", ["resnet21", "timm/resnet18x"])
def test_default_image_size_refuses_unknown_names(name: str):
    with pytest.raises(ConfigError, match=name.removeprefix("timm/")):
        default_image_size(name)


def test_default_image_size_is_64_or_what_the_timm_model_was_made_for():
    assert default_image_size("resnet20") == 64
    assert default_image_size("timm/vit_tiny_patch16_224") == 224
    assert default_image_size("timm/test_vit") == 160


def test_size_that_a_timm_model_cannot_have_is_refused():
    with pytest.raises(ConfigError, match=r"cannot take 8 x 8 pixels.*--image-size 160"):
        build_backbone("timm/test_vit", (8, 8))
