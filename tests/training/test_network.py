import pytest
import torch
from torch import Tensor, nn

from training.joint import conditional
from training.network import Network
from training.objectives import objective
from training.transformations import transformation_set


class MeanColour(nn.Module):
    """A backbone that can be followed by hand: the upper left pixel of a normalised image."""

    num_features = 3

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 0, 0]


def network(name: str = "sla-sd", transformations: str = "rotation", **options: object) -> Network:
    torch.manual_seed(0)
    return Network(
        MeanColour(),
        objective(name),
        num_classes=5,
        transformations=transformation_set(transformations),
        **options,
    )


def images(batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 4, 4, 3), generator=generator).to(torch.uint8)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("transformations", "m"), [("rotation", 4), ("rotation2", 2)])
def test_sla_sd_gives_both_heads(transformations: str, m: int, batch: int):
    logits = network(transformations=transformations)(images(batch))
    assert logits.single.shape == (batch, 5)
    assert logits.joint.shape == (batch, m, 5, m)


def test_baseline_gives_the_class_head_alone():
    found = network("baseline")
    logits = found(images())
    assert logits.joint is None
    assert found.joint_head is None
    assert logits.single.shape == (2, 5)


def test_class_head_reads_the_untransformed_image():
    found = network()
    expected = found.class_logits(found.features(images()))
    torch.testing.assert_close(found(images()).single, expected, atol=1e-6, rtol=0)


def test_joint_head_reads_every_transformed_copy():
    found = network()
    joint = found(images()).joint
    for copy, transform in enumerate(found.transformations):
        features = found.features(transform(images()))
        expected = found.joint_logits(features[:, None])[:, 0]
        torch.testing.assert_close(joint[:, copy], expected, atol=1e-6, rtol=0)


def test_joint_logit_of_class_i_under_transformation_j_is_output_i_times_m_plus_j():
    found = network()
    features = found.features(images())  # (B, D)
    joint = found.joint_logits(features[:, None])[:, 0]  # (B, N, M)
    for i in range(5):
        for j in range(4):
            weight, bias = found.joint_head.weight[4 * i + j], found.joint_head.bias[4 * i + j]
            expected = features @ weight + bias
            torch.testing.assert_close(joint[:, i, j], expected, atol=1e-6, rtol=0)


def test_identitys_copy_alone_answers_the_single_mode():
    found = network()
    features = found.features(images())
    alone = conditional(found.joint_logits(features[:, None]))
    torch.testing.assert_close(alone, conditional(found(images()).joint), atol=1e-6, rtol=0)


def test_pixels_are_normalised_channel_by_channel():
    found = network(mean=(10.0, 20.0, 30.0), std=(1.0, 2.0, 4.0))
    pixels = images().double()
    expected = (pixels[:, 0, 0] - torch.tensor([10, 20, 30])) / torch.tensor([1, 2, 4])
    torch.testing.assert_close(found.features(images()), expected.float(), atol=1e-6, rtol=0)


def test_default_normalisation_brings_pixels_to_one():
    found = network()
    ends = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 4, 4, 3)
    torch.testing.assert_close(
        found.features(ends), torch.tensor([[-1.0] * 3, [1.0] * 3]), atol=0, rtol=0
    )


def test_normalisation_is_in_the_checkpoint():
    assert {"mean", "std"} <= set(network(mean=(1.0, 2.0, 3.0)).state_dict())


@pytest.mark.parametrize("name", ["da", "mt"])
def test_class_head_is_asked_about_every_copy(name: str):
    found = network(name)
    logits = found(images())
    assert logits.joint is None
    assert logits.copies.shape == (2, 4, 5)
    for m, transform in enumerate(found.transformations):
        expected = found.class_logits(found.features(transform(images())))
        torch.testing.assert_close(logits.copies[:, m], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(logits.single, logits.copies[:, 0], atol=1e-6, rtol=0)


def test_transformation_head_belongs_to_mt_alone():
    assert network("mt")(images()).transformation.shape == (2, 4, 4)
    for name in ("baseline", "da", "sla", "sla-sd"):
        assert network(name)(images()).transformation is None


@pytest.mark.parametrize("name", ["baseline", "da", "mt", "sla", "sla-sd"])
def test_cosine_heads_compare_directions(name: str):
    found = network(name, cosine_heads=True)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    found = found.double()
    heads = ((found.class_head, found.class_logits), (found.joint_head, found.joint_logits))
    for head, logits in heads:
        if head is None:
            continue
        answer = logits(features).flatten(2)  # (B, M, N) or (B, M, N * M)
        for k, weight in enumerate(head.weight):
            cosine = (features @ weight) / (features.norm(dim=-1) * weight.norm())
            torch.testing.assert_close(answer[..., k], 30 * cosine)
        torch.testing.assert_close(logits(7 * features).flatten(2), answer)


def test_cosine_of_features_that_are_all_zero_is_a_number():
    found = network(cosine_heads=True)
    assert (found.class_logits(torch.zeros(2, 3)) == 0).all()


def test_heads_are_linear_unless_asked():
    assert isinstance(network().class_head, nn.Linear)
    assert isinstance(network("mt", cosine_heads=True).transformation_head, nn.Linear)


def test_sla_has_no_class_head():
    found = network("sla")
    assert found.class_head is None
    logits = found(images())
    assert (logits.single, logits.copies) == (None, None)
    assert logits.joint.shape == (2, 4, 5, 4)
