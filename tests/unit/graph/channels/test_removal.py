"""Which channels go together, and that what is left computes what it should."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NETWORKS, NUM_CLASSES, tiny_network
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix.compress.prune.channels.costs import ChannelCosts
from mixmix.errors import InputError
from mixmix.graph.channels.discovery import find_groups
from mixmix.graph.channels.removal import (
    check_removal,
    disagreement,
    remove_channels,
    silence_channels_,
)
from mixmix.graph.costs import count_macs
from mixmix.graph.widths import without_fixed_widths

EXAMPLE = torch.rand(4, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
PRUNABLE = sorted(set(NETWORKS) - {"shuffle"})


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(channels, NUM_CLASSES)]


class PaddedShortcut(nn.Module):
    """A shortcut without parameters, as He et al. 2016 call option A."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Sequential(*head(16))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        out: Tensor = self.head(F.relu(self.conv(x) + shortcut))
        return out


class FixedView(nn.Module):
    """Its code says how many channels there are."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 3)
        self.third = nn.Conv2d(8, 8, 3)
        self.linear = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(torch.relu(self.second(torch.relu(self.first(x)))))
        out: Tensor = self.linear(x.mean((2, 3)).view(-1, 8))
        return out


class AddsImages(nn.Module):
    """What is added to the images has their channels."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 8, 3, padding=1)
        self.outer = nn.Conv2d(8, 3, 3, padding=1)
        self.head = nn.Sequential(*head(3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x + self.outer(torch.relu(self.inner(x))))
        return out


class Halves(nn.Module):
    """One half of the channels is multiplied by the other."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Conv2d(3, 8, 3)
        self.after = nn.Conv2d(4, 4, 3)
        self.head = nn.Sequential(*head(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.both(x)
        out: Tensor = self.head(torch.relu(self.after(x[:, :4] * x[:, 4:])))
        return out


class Dense(nn.Module):
    """BatchNorm and activation behind a concatenation (Huang et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(10)
        self.head = nn.Sequential(*head(10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.cat([x, self.second(torch.relu(x))], dim=1)
        out: Tensor = self.head(torch.relu(self.norm(x)))
        return out


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "dense": Dense,
    "flattened": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=3), nn.ReLU(), nn.Flatten(1), nn.Linear(96, 12), nn.ReLU(),
        nn.Linear(12, NUM_CLASSES),
    ),
    "group-norm": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 6, 3), *head(6)
    ),
    "grouped": lambda: nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 18, 3, groups=3), nn.PReLU(18),
        nn.Conv2d(18, 10, 1), *head(10),
    ),
    "transposed": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 8, 2, stride=2), nn.ReLU(), *head(8)
    ),
}  # fmt: skip


def network(name: str) -> nn.Module:
    if name in NETWORKS:
        return tiny_network(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return OTHERS[name]().eval()


@pytest.mark.parametrize("name", [*PRUNABLE, *OTHERS])
def test_pruned_networks_compute_what_silenced_ones_do(name: str) -> None:
    model = network(name)
    groups, _ = find_groups(model, EXAMPLE)
    assert groups
    draws = torch.Generator().manual_seed(1)
    kept, selection = [], {}
    for group in groups:
        order = torch.randperm(len(group.elements), generator=draws).tolist()
        chosen = order[: int(torch.randint(1, len(order), (), generator=draws))]
        selection[group.root] = [channel for i in chosen for channel in group.elements[i]]
        kept.append(len(order) - len(chosen))
    before = copy.deepcopy(model.state_dict())
    pruned = remove_channels(model, EXAMPLE, selection)
    check_removal(pruned, model, groups, selection, EXAMPLE)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert pruned(EXAMPLE).shape == (4, NUM_CLASSES)
    if name != "group-norm":  # statistics over fewer channels are others
        silenced = copy.deepcopy(model)
        silence_channels_(silenced, groups, selection)
        torch.testing.assert_close(pruned(EXAMPLE), silenced(EXAMPLE), atol=1e-5, rtol=1e-4)
    # The costs that are predicted are those of the network that was made.
    costs = ChannelCosts(model, INPUT_SHAPE, groups)
    assert round(float(costs.macs(kept))) == count_macs(pruned, INPUT_SHAPE)
    num_parameters = sum(p.numel() for p in pruned.parameters())
    assert round(float(costs.parameters(kept))) == num_parameters < costs.dense_parameters


def test_padded_shortcuts_leave_both_widths_free() -> None:
    model = PaddedShortcut().eval()
    assert not find_groups(model, EXAMPLE)[0]
    rewritten = without_fixed_widths(model, EXAMPLE)
    torch.testing.assert_close(rewritten(EXAMPLE), model(EXAMPLE))
    groups, _ = find_groups(rewritten, EXAMPLE)
    assert {group.root for group in groups} & {"stem"}
    assert sorted(len(group.elements) for group in groups) == [8, 16]
    selection = {group.root: [0, 3, 5] for group in groups}
    pruned = remove_channels(rewritten, EXAMPLE, selection)
    assert (pruned.stem.out_channels, pruned.conv.out_channels) == (5, 13)


def test_flattening_to_a_number_leaves_the_width_free() -> None:
    model = tiny_network("viewed")
    refused = find_groups(model, EXAMPLE)[1]
    assert "does not run with fewer" in refused["features.3"]
    rewritten = without_fixed_widths(model, EXAMPLE)
    torch.testing.assert_close(rewritten(EXAMPLE), model(EXAMPLE))
    assert {"features.0", "features.3"} == {
        group.root for group in find_groups(rewritten, EXAMPLE)[0]
    }


def test_networks_without_pads_stay_of_their_class() -> None:
    model = tiny_network("residual")
    copied = without_fixed_widths(model, EXAMPLE)
    assert type(copied) is type(model) and copied is not model


def test_elements_of_grouped_convolutions_have_a_channel_of_each_group() -> None:
    groups = {group.root: group for group in find_groups(network("grouped"), EXAMPLE)[0]}
    assert groups["0"].elements == tuple((i, i + 4, i + 8) for i in range(4))
    assert groups["2"].elements == tuple((i, i + 6, i + 12) for i in range(6))
    assert groups["4"].channels_per_element == 1


@pytest.mark.parametrize(
    ("build", "refused", "free"),
    [
        (FixedView, {"third": "does not run with fewer"}, {"first", "second"}),
        (AddsImages, {"outer": "does not run with fewer|cannot remove"}, {"inner"}),
        (Halves, {"both": "only some of its channels reach"}, {"after"}),
    ],
)
def test_channels_that_cannot_go_are_named_with_the_reason(
    build: Callable[[], nn.Module], refused: dict[str, str], free: set[str]
) -> None:
    groups, reasons = find_groups(build().eval(), EXAMPLE)
    assert {group.root for group in groups} == free
    for name, reason in refused.items():
        assert re.search(reason, reasons[name])


def test_the_classifier_keeps_its_outputs() -> None:
    _, reasons = find_groups(tiny_network("plain"), EXAMPLE)
    assert list(reasons.values()) == ["its outputs are the outputs of the network"]


def test_networks_that_cannot_be_traced_are_refused() -> None:
    class NoGradient(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).detach().mean((2, 3))

    with pytest.raises(InputError, match=r"Torch-Pruning .* cannot trace NoGradient"):
        find_groups(NoGradient(), EXAMPLE)


def test_a_wrong_network_is_refused() -> None:
    model = tiny_network("plain")
    groups, _ = find_groups(model, EXAMPLE)
    pruned = remove_channels(model, EXAMPLE, {groups[0].root: [0, 1]})
    with pytest.raises(InputError, match="with fewer channels are wrong"):
        check_removal(pruned, model, groups, {groups[0].root: [0, 2]}, EXAMPLE)


def test_normalizations_keep_values_in_range() -> None:
    """Without any division, the values of such a network overflow."""
    convs = [nn.Conv2d(8, 8, 1).double() for _ in range(3)]
    for conv in convs:
        nn.init.constant_(conv.weight, 1e200)
    blocks = [nn.Sequential(nn.GroupNorm(1, 8), conv) for conv in convs]
    network = nn.Sequential(nn.Conv2d(3, 8, 3), *blocks, *head(8)).double()
    assert disagreement(network, network, [], {}, EXAMPLE) == 0
