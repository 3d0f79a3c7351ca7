"""Importance of channels against what can be computed by hand or exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixmix.compress.divergence import mean_divergence
from mixmix.compress.prune.channels.covariance import read_covariances, ridge_by_halves
from mixmix.compress.prune.channels.importance import magnitude_importance, taylor_importance
from mixmix.graph.channels.discovery import find_groups
from mixmix.graph.channels.removal import silence_channels_

IMAGES = torch.rand(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def plain(*, norm: bool = True) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False),
            nn.BatchNorm2d(6) if norm else nn.Identity(),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(1),
            nn.Linear(6, 4),
        ).eval()


@torch.no_grad()
def half_fisher(model: nn.Module, moved: Tensor) -> Tensor:
    """(channels,) of how far losing each moves the logits (N, channels, classes)."""
    p = model(IMAGES).softmax(1)[:, None]
    fisher = (p * moved.square()).sum(2) - (p * moved).sum(2).square()
    return fisher.mean(0) / 2


def test_taylor_is_half_the_fisher_information_of_a_gate() -> None:
    model = plain()
    groups, _ = find_groups(model, IMAGES)
    (score,) = taylor_importance(
        model, groups, IMAGES, generator=torch.Generator().manual_seed(1), num_directions=4000
    )
    with torch.no_grad():
        features = model[:5](IMAGES)
        moved = features[:, :, None] * model[5].weight.t()  # (N, channels, classes)
    torch.testing.assert_close(score, half_fisher(model, moved), rtol=0.05, atol=0)


class Places(nn.Module):
    """Its channels are read at each place: image by image, or at one place of all images first."""

    def __init__(self, *, images_first: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.whole = nn.Linear(6, 4)
        self.places = nn.Linear(6, 4)
        self.images_first = images_first

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x).relu()
        if not self.images_first:
            logits: Tensor = self.places(features.flatten(2).permute(2, 0, 1)).mean(0)
            return logits
        places = self.places(features.permute(0, 2, 3, 1).flatten(0, 2))
        # Read once for each image as well.
        logits = self.whole(features.mean((2, 3))) + places.view(len(x), -1, 4).mean(1)
        return logits


@pytest.mark.parametrize(("images_first", "tolerance"), [(True, 0.05), (False, 0.1)])
def test_taylor_takes_the_places_of_an_image_together(images_first: bool, tolerance: float) -> None:
    torch.manual_seed(0)
    model = Places(images_first=images_first).eval()
    groups, _ = find_groups(model, IMAGES)
    (score,) = taylor_importance(
        model, groups, IMAGES, generator=torch.Generator().manual_seed(1), num_directions=4000
    )
    with torch.no_grad():
        features = model.conv(IMAGES).relu().mean((2, 3))
        read_by = [model.places.weight, *([model.whole.weight] if images_first else [])]
        moved = features[:, :, None] * sum(read_by).t()
    torch.testing.assert_close(score, half_fisher(model, moved), rtol=tolerance, atol=0)


def test_taylor_predicts_the_divergence_where_a_channel_matters_little() -> None:
    model = plain()
    with torch.no_grad():
        model[5].weight.mul_(0.2)
    groups, _ = find_groups(model, IMAGES)
    (score,) = taylor_importance(
        model, groups, IMAGES, generator=torch.Generator().manual_seed(1), num_directions=1000
    )
    with torch.no_grad():
        wanted = model(IMAGES)
        for channel in range(6):
            silenced = plain()
            silenced.load_state_dict(model.state_dict())
            silence_channels_(silenced, groups, {groups[0].root: [channel]})
            divergence = mean_divergence(wanted, silenced(IMAGES))
            assert float(score[channel]) == pytest.approx(divergence, rel=0.15, abs=1e-6)


def test_taylor_leaves_no_hook_and_no_gradient() -> None:
    model = plain()
    groups, _ = find_groups(model, IMAGES)
    taylor_importance(model, groups, IMAGES, generator=torch.Generator().manual_seed(1))
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_magnitude_is_relative_to_the_mean_of_the_layer() -> None:
    model = plain(norm=False)
    groups, _ = find_groups(model, IMAGES)
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[0].weight[2] = 3
    (score,) = magnitude_importance(model, groups)
    torch.testing.assert_close(score, torch.tensor([1, 1, 9, 1, 1, 1]) * 6 / 14)


def test_layers_that_make_a_channel_together_count_alike() -> None:
    # Fang et al. 2023, section 3.3: the sum over the group; each relative to the mean of its layer.
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)
            self.head = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.relu(self.left(x) + self.right(x)).mean((2, 3)))
            return out

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Joined().eval()
    groups, _ = find_groups(model, IMAGES)
    (score,) = magnitude_importance(model, groups)
    sizes = [layer.weight.detach().square().sum((1, 2, 3)) for layer in (model.left, model.right)]
    torch.testing.assert_close(score, sum(size / size.mean() for size in sizes) / 2)


def test_covariances_are_those_of_what_is_read() -> None:
    model = plain()
    groups, _ = find_groups(model, IMAGES)
    (found,) = read_covariances(model, groups, IMAGES)
    with torch.no_grad():
        wanted = model[:5](IMAGES).T.double().cov(correction=0)
    wanted /= wanted.diagonal().mean()
    added = (found - wanted).diagonal()
    assert float(added.min()) > -1e-6  # the same for each: how much, the halves of the images say
    torch.testing.assert_close(
        found, wanted + added.mean() * torch.eye(6).double(), rtol=1e-4, atol=1e-6
    )
    assert not any(module._forward_pre_hooks for module in model.modules())


def halves(places: int, channels: int, *, repeated: bool) -> list[torch.Tensor]:
    """Covariances of two draws of channels, each of which has a twin or stands alone."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2, places, channels, generator=generator, dtype=torch.float64)
    if repeated:
        draws[..., channels // 2 :] = (
            draws[..., : channels // 2] + 0.1 * draws[..., channels // 2 :]
        )
    return [draw.T.cov(correction=0) for draw in draws]


@pytest.mark.parametrize(("places", "least"), [(4096, 1e-3), (48, 1.0)])
def test_channels_that_stand_alone_are_not_predicted_where_images_are_few(
    places: int, least: float
) -> None:
    assert ridge_by_halves(halves(places, 64, repeated=False)) >= least


def test_channels_that_repeat_are_predicted_by_their_twins() -> None:
    assert ridge_by_halves(halves(4096, 64, repeated=True)) <= 1e-2
    assert ridge_by_halves(halves(48, 64, repeated=True)) < 1.0


def test_halves_that_say_nothing_explain_nothing() -> None:
    nothing = torch.zeros(3, 3, dtype=torch.float64)
    assert ridge_by_halves([nothing, nothing]) >= 1
    (found,) = read_covariances(plain(), find_groups(plain(), IMAGES)[0], IMAGES[:1])
    assert bool(found.isfinite().all())
