import math

import pytest
import torch
from torch import Tensor, nn

from tests.training.ssl import oracles
from tests.training.ssl.problems import alone, ask, pictures, rows, small_method, tiny_backbone
from tests.training.ssl.processes import one_and_two
from training.ssl.cosine import unit
from training.ssl.moco import MoCo, moco_loss


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
@pytest.mark.parametrize(("b", "d", "k"), [(5, 4, 6), (2, 3, 2), (1, 2, 1), (3, 1, 7)])
def test_loss_matches_the_loop(b: int, d: int, k: int, temperature: float):
    queries, keys, queue = rows(b, d, seed=1), rows(b, d, seed=2), unit(rows(k, d, seed=3))
    expected = oracles.info_nce(queries, keys, queue, temperature)
    found = moco_loss(queries, keys, queue, temperature=temperature)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_loss_is_the_cross_entropy_of_the_key_in_front_of_the_queue():
    queries, keys, queue = rows(5, 4, seed=1), rows(5, 4, seed=2), unit(rows(6, 4, seed=3))
    own = (unit(queries) * unit(keys)).sum(1, keepdim=True)
    logits = torch.cat([own, unit(queries) @ queue.T], dim=1) / 0.2
    expected = nn.functional.cross_entropy(logits, torch.zeros(5, dtype=torch.int64))
    torch.testing.assert_close(moco_loss(queries, keys, queue, temperature=0.2), expected)


def test_losses_with_a_known_queue_have_their_closed_forms():
    queries = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    across = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(6, -1)
    found = moco_loss(queries, 2 * queries, across, temperature=0.5).item()
    assert found == pytest.approx(math.log(1 + 6 * math.exp(-2)), abs=1e-12)
    collapsed = moco_loss(queries, queries, queries.expand(6, -1), temperature=0.5).item()
    assert collapsed == pytest.approx(math.log(7), abs=1e-12)


def test_loss_does_not_change_when_images_or_queued_keys_change_places():
    queries, keys, queue = rows(5, 4, seed=1), rows(5, 4, seed=2), unit(rows(6, 4, seed=3))
    expected = moco_loss(queries, keys, queue, temperature=0.2)
    order = torch.tensor([3, 1, 4, 0, 2])
    found = moco_loss(queries[order], keys[order], queue.flip(0), temperature=0.2)
    torch.testing.assert_close(found, expected)


def test_no_gradient_flows_through_keys_and_queue():
    queries, keys, queue = rows(5, 4, seed=1), rows(5, 4, seed=2), unit(rows(6, 4, seed=3))
    for tensor in (queries, keys, queue):
        tensor.requires_grad_()
    moco_loss(queries, keys, queue, temperature=0.2).backward()
    assert keys.grad is None
    assert queue.grad is None
    assert (queries.grad.abs().sum(1) > 0).all()


def test_loss_stays_finite_at_a_low_temperature():
    queries = rows(5, 4, seed=1).float().requires_grad_()
    keys, queue = rows(5, 4, seed=2).float(), unit(rows(6, 4, seed=3).float())
    loss = moco_loss(queries, keys, queue, temperature=1e-3)
    loss.backward()
    assert loss.isfinite()
    assert queries.grad.isfinite().all()


def made(queue: int, batch_size: int) -> tuple[nn.Module, MoCo]:
    """A backbone and a MoCo around it."""
    backbone = tiny_backbone()
    torch.manual_seed(0)
    method = MoCo(backbone, 16, projection=4, queue=queue)
    assert queue >= batch_size
    return backbone, method


def views_of(step: int, b: int) -> tuple[Tensor, Tensor]:
    """Two views of b pictures, others at every step."""
    generator = torch.Generator().manual_seed(step)
    return tuple(torch.randn(b, 3, 8, 8, generator=generator) for _ in range(2))


def test_queue_begins_with_directions():
    _, method = made(8, 4)
    torch.testing.assert_close(method.queue.norm(dim=1), torch.ones(8))
    assert method.pointer.item() == 0


def test_keys_take_the_places_of_the_oldest_and_begin_again_at_the_end():
    backbone, method = made(12, 4)
    expected = method.queue.clone()
    for step in range(5):
        views = views_of(step, 4)
        # asked before: the forward pass changes the statistics of BatchNorm only, which train mode does not read
        keys = unit(method.target(views[1]))
        ask(method, backbone, views, torch.zeros(4))
        expected[4 * (step % 3) : 4 * (step % 3) + 4] = keys
        torch.testing.assert_close(method.queue, expected)
        assert method.pointer.item() == 4 * (step + 1) % 12


def test_batch_that_does_not_divide_the_queue_wraps_around_in_its_middle():
    backbone, method = made(7, 5)
    first, second = views_of(0, 5), views_of(1, 5)
    ask(method, backbone, first, torch.zeros(5))
    ask(method, backbone, second, torch.zeros(5))
    keys_1, keys_2 = unit(method.target(first[1])), unit(method.target(second[1]))
    expected = torch.stack([*keys_2[2:], *keys_1[3:], *keys_2[:2]])
    torch.testing.assert_close(method.queue, expected)


def test_keys_are_of_the_momentum_network_and_of_the_second_view():
    backbone, method = made(8, 4)
    views = views_of(0, 4)
    with torch.no_grad():
        method.target.projector[-1].weight.neg_()
        method.target.projector[-1].bias.neg_()
    online = unit(method.projector(backbone(views[1])))
    ask(method, backbone, views, torch.zeros(4))
    torch.testing.assert_close(method.queue[:4], -online.detach())


def test_loss_is_of_the_queue_as_it_was_before_its_own_keys():
    backbone, method = made(8, 4)
    views = views_of(0, 4)
    queries = method.projector(backbone(views[0]))
    keys, before = method.target(views[1]), method.queue.clone()
    expected = moco_loss(queries, keys, before, temperature=0.2)
    torch.testing.assert_close(ask(method, backbone, views, torch.zeros(4)), expected)


def test_queue_does_not_move_in_eval_mode():
    backbone, method = made(8, 4)
    before = method.queue.clone()
    ask(method.eval(), backbone.eval(), views_of(0, 4), torch.zeros(4))
    assert torch.equal(method.queue, before)
    assert method.pointer.item() == 0


def test_queue_and_pointer_and_target_are_in_the_state():
    backbone, method = made(8, 4)
    ask(method, backbone, views_of(0, 4), torch.zeros(4))
    _, other = made(8, 4)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.queue, method.queue)
    assert other.pointer.item() == 4
    assert "target.backbone.1.weight" in method.state_dict()


def test_update_moves_the_target_by_the_momentum():
    backbone, method = made(8, 4)
    before = method.target.backbone[1].weight.clone()
    with torch.no_grad():
        backbone[1].weight.add_(1)
    for step in (0, 9):  # the same at every step
        method.update(backbone, step, 10)
    moved = method.target.backbone[1].weight - before
    torch.testing.assert_close(moved, torch.full_like(moved, 1 - 0.999**2), atol=1e-6, rtol=0)


def test_gradient_reaches_the_backbone_by_the_first_view_alone():
    backbone, method = made(8, 4)
    views = views_of(0, 4)
    features = tuple(backbone(view).detach().requires_grad_() for view in views)
    method(features, views, torch.zeros(4), alone).backward()
    assert features[0].grad.abs().any()
    assert features[1].grad is None
    assert all(p.grad is None for p in method.target.parameters())


def test_two_processes_learn_and_remember_what_one_does():
    backbone = tiny_backbone(norm=False)
    method = small_method("moco", backbone)  # its projector has no BatchNorm
    views, labels = pictures(6)
    (loss, gradients), (two, averaged), replicas = one_and_two(method, backbone, views, labels)
    torch.testing.assert_close(two, loss)
    for found, expected in zip(averaged, gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    expected = unit(method.target(views[1]))
    for replica in replicas:
        torch.testing.assert_close(replica.queue[:6], expected)
        assert torch.equal(replica.queue[6:], method.queue[6:])
        assert replica.pointer.item() == 6
