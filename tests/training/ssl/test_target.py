import torch
from torch import nn

from tests.training.ssl.problems import pictures, tiny_backbone
from training.ssl.heads import mlp
from training.ssl.target import Target


def parts() -> tuple[nn.Module, nn.Module, Target]:
    """An online backbone and projector, and a target network made of them."""
    backbone, projector = tiny_backbone(), mlp((16, 8, 4))
    return backbone, projector, Target(backbone, projector)


def test_target_begins_as_the_online_network_and_shares_nothing_with_it():
    backbone, projector, target = parts()
    (view, _), _ = pictures(4)
    expected = projector(backbone(view))
    torch.testing.assert_close(target(view), expected, atol=0, rtol=0)
    with torch.no_grad():
        for parameter in (*backbone.parameters(), *projector.parameters()):
            parameter.zero_()
    torch.testing.assert_close(target(view), expected, atol=0, rtol=0)


def test_target_gives_no_gradient_even_to_its_input():
    _, _, target = parts()
    view = pictures(4)[0][0].requires_grad_()
    assert not target(view).requires_grad
    assert all(not parameter.requires_grad for parameter in target.parameters())


def test_followed_for_some_steps_it_is_the_weighted_sum_of_where_the_online_network_was():
    backbone, projector, target = parts()
    start = {name: p.clone() for name, p in target.named_parameters()}
    past = []
    for step in range(3):
        with torch.no_grad():
            for p in (*backbone.parameters(), *projector.parameters()):
                p.add_(step + 1.0)
        online = {f"backbone.{n}": p for n, p in backbone.named_parameters()}
        online |= {f"projector.{n}": p for n, p in projector.named_parameters()}
        past.append({name: p.detach().clone() for name, p in online.items()})
        target.follow(backbone, projector, momentum=0.75)
    for name, parameter in target.named_parameters():
        expected = 0.75**3 * start[name]
        for step in range(3):
            expected = expected + 0.25 * 0.75 ** (2 - step) * past[step][name]
        torch.testing.assert_close(parameter, expected)


def test_momentum_zero_copies_and_one_stays():
    backbone, projector, target = parts()
    before = target.projector[-1].weight.clone()
    with torch.no_grad():
        projector[-1].weight.add_(1)
    target.follow(backbone, projector, momentum=1.0)
    torch.testing.assert_close(target.projector[-1].weight, before, atol=0, rtol=0)
    target.follow(backbone, projector, momentum=0.0)
    torch.testing.assert_close(target.projector[-1].weight, projector[-1].weight)


def test_its_statistics_are_those_of_its_own_passes():
    backbone, projector, target = parts()
    (view, _), _ = pictures(8)
    backbone(view + 5)
    target.follow(backbone, projector, momentum=0.0)
    statistics = target.backbone[2].running_mean
    assert not statistics.any()
    target(view)
    expected = 0.1 * target.backbone[1](view.flatten(1)).mean(0)
    torch.testing.assert_close(statistics, expected.detach())
