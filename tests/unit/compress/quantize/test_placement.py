"""Where quantizers go, at which bits, and to which units they belong."""

from __future__ import annotations

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NETWORKS, tiny_network
from torch import Tensor, fx, nn
from torch.nn import functional as F

from mixmix.compress.quantize.calibrate_units import learnable_units
from mixmix.compress.quantize.insertion import input_quantizers, insert_quantizers
from mixmix.compress.quantize.learnable import LearnableActivation, Phase, set_phase
from mixmix.graph.calls import is_call_to
from mixmix.graph.capture import capture
from mixmix.graph.fold import fold_batch_norms
from mixmix.graph.ops import has_kind
from mixmix.graph.simplify import drop_identities, write_out_silu

EXAMPLE = torch.randn(4, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))


def inserted(model: nn.Module, bits: tuple[int, int] = (4, 4)) -> fx.GraphModule:
    graph_module = capture(model.eval(), EXAMPLE)
    drop_identities(graph_module, EXAMPLE)
    fold_batch_norms(graph_module, EXAMPLE)
    write_out_silu(graph_module)
    insert_quantizers(
        graph_module,
        weight_bits=bits[0],
        activation_bits=bits[1],
        first_last_bits=8,
        input_bits=8,
        per_channel=True,
        quantize_prob=0.5,
    )
    return graph_module


def bits_of(graph_module: fx.GraphModule, node: fx.Node) -> int | None:
    """Bits of what a node takes: of the quantizer that is right before it."""
    (source,) = node.all_input_nodes[:1]
    module = graph_module.get_submodule(str(source.target)) if source.op == "call_module" else None
    return module.bits if isinstance(module, LearnableActivation) else None


def quantizer_bits(graph_module: fx.GraphModule) -> list[int]:
    return [m.bits for m in graph_module.modules() if isinstance(m, LearnableActivation)]


@pytest.mark.parametrize("family", sorted(NETWORKS))
@pytest.mark.parametrize("bits", [(8, 8), (4, 4), (2, 3)])
def test_quantizers_that_are_off_change_nothing(family: str, bits: tuple[int, int]) -> None:
    model = tiny_network(family)
    graph_module = inserted(model, bits)
    torch.testing.assert_close(graph_module(EXAMPLE), model(EXAMPLE), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", sorted(NETWORKS))
def test_every_quantizer_belongs_to_one_unit(family: str) -> None:
    graph_module = inserted(tiny_network(family))
    set_phase(graph_module, Phase.QUANTIZED)
    wanted = graph_module(EXAMPLE)  # sets the ranges
    units = learnable_units(graph_module)
    found = [
        str(node.target)
        for unit in units
        for node in unit.module.graph.nodes
        if str(node.target).startswith("activation_quantizer")
    ]
    assert sorted(found) == sorted(set(found)) and len(found) == len(quantizer_bits(graph_module))
    x = EXAMPLE
    for unit in units:
        x = unit.module(x)
    assert torch.equal(x, wanted)


def test_layers_of_low_bits_read_a_stream_of_eight() -> None:
    graph_module = inserted(tiny_network("residual"))
    for name, quantizers in input_quantizers(graph_module).items():
        outer = name in ("0.0", "3.2")
        (bits,) = (graph_module.get_submodule(quantizer).bits for quantizer in quantizers)
        assert bits == (8 if outer else 4)
    sums = [node for node in graph_module.graph.nodes if "add" in node.name]
    assert sums and all(bits_of(graph_module, node) == 8 for node in sums)


def test_one_quantizer_is_enough_where_all_have_eight_bits() -> None:
    graph_module = inserted(tiny_network("residual"), (8, 8))
    for node in graph_module.graph.nodes:
        if str(node.target).startswith("activation_quantizer"):
            assert bits_of(graph_module, node) is None  # none behind another


def test_plain_chains_are_quantized_once_at_the_bits_of_their_layers() -> None:
    # The image; three layers; what is pooled, which the last layer reads in 8 bits.
    assert sorted(quantizer_bits(inserted(tiny_network("plain")))) == [4, 4, 8, 8, 8]


def test_what_is_concatenated_has_eight_bits_and_what_is_read_has_its_own() -> None:
    graph_module = inserted(tiny_network("concat"))
    joins = [node for node in graph_module.graph.nodes if is_call_to(node, torch.cat)]
    assert joins
    for node in joins:
        # The first tensor is pooled on the way, which only moves its values.
        quantized = [bits_of(graph_module, node.all_input_nodes[0])]
        modules = (graph_module.get_submodule(str(n.target)) for n in node.all_input_nodes[1:])
        assert [*quantized, *(module.bits for module in modules)] == [8, 8, 8]
        (quantizer,) = node.users
        assert graph_module.get_submodule(str(quantizer.target)).bits == 4


class Sizes(nn.Module):
    """Arithmetic on sizes, a constant, and a parameter: nothing to quantize among operands."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.offset = nn.Parameter(torch.ones(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x) + self.offset) * 0.5
        batch, channels = x.size(0), x.shape[1]
        x = x.reshape(batch, channels * 1, x.shape[2] * x.shape[3] + 0)
        out: Tensor = self.last(x.amax(2))
        return out


def test_sizes_and_constants_are_no_operands() -> None:
    graph_module = inserted(Sizes(), (8, 8))
    set_phase(graph_module, Phase.QUANTIZED)
    assert graph_module(EXAMPLE).shape == (4, 2)
    assert len(quantizer_bits(graph_module)) == 3  # of the image and of what leaves and enters


class Moves(nn.Module):
    """All that moves values between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.first(x)), 2)
        x = F.pad(F.channel_shuffle(x, 2), (0, 1, 0, 1))
        _, x = x.chunk(2, dim=1)
        out: Tensor = self.last(x.transpose(2, 3)[:, :, 1:].contiguous())
        return out


def test_what_is_only_moved_is_quantized_once() -> None:
    assert len(quantizer_bits(inserted(Moves()))) == 2


class MovesAxes(Moves):
    """Axes that come and go, a copy, and a bound that the kernel of the layer swallows."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.clip(self.first(x), 0, 4).unsqueeze(1).clone()
        x = torch.narrow(x.squeeze(1).swapaxes(2, 3), 1, 0, 4)
        out: Tensor = self.last(x.detach().unflatten(1, (2, 2)).flatten(1, 2))
        return out


def test_moved_axes_are_quantized_once() -> None:
    assert len(quantizer_bits(inserted(MovesAxes()))) == 2


@pytest.mark.parametrize("value", [1.0, -2.0])
def test_padding_with_other_values_is_no_move(value: float) -> None:
    class Padded(Moves):
        def forward(self, x: Tensor) -> Tensor:
            x = F.pad(torch.relu(self.first(x)), (1, 1), value=value)
            out: Tensor = self.last(x[:, :4])
            return out

    graph_module = inserted(Padded(), (8, 8))
    (pad,) = (node for node in graph_module.graph.nodes if is_call_to(node, F.pad))
    (user,) = pad.users
    assert bits_of(graph_module, pad) == 8 and "activation_quantizer" in str(user.target)


def test_identities_are_dropped_and_operations_in_place_are_kept() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Identity(), nn.ReLU(inplace=True), nn.Dropout(), nn.Flatten(1)
    )
    graph_module = capture(model, EXAMPLE)
    drop_identities(graph_module, EXAMPLE)
    kinds = [type(m).__name__ for m in graph_module.modules() if not next(m.children(), None)]
    assert kinds == ["Conv2d", "ReLU", "Flatten"]
    assert torch.equal(graph_module(EXAMPLE), model.eval()(EXAMPLE))


class FunctionalSilu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)


@pytest.mark.parametrize("silu", [nn.SiLU(), nn.SiLU(inplace=True), FunctionalSilu()])
def test_silu_is_written_out(silu: nn.Module) -> None:
    graph_module = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 3), silu))
    wanted = graph_module(EXAMPLE)
    write_out_silu(graph_module)
    assert [node.name for node in graph_module.graph.nodes][2:-1] == ["sigmoid", "mul"]
    torch.testing.assert_close(graph_module(EXAMPLE), wanted)


class Stream(nn.Module):
    """A residual stream that normalizations read, and one convolution."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3), norm, nn.Linear(8, 2)
        self.branches = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for branch in self.branches[:2]:
            x = x + branch(self._normalized(x))
        x = x + self.branches[2](x)
        out: Tensor = self.last(self._normalized(x).mean((2, 3)))
        return out

    def _normalized(self, x: Tensor) -> Tensor:
        if isinstance(self.norm, nn.GroupNorm):
            return self.norm(x)
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.RMSNorm(8), nn.GroupNorm(2, 8)])
def test_streams_that_normalizations_read_stay_in_float(norm: nn.Module) -> None:
    graph_module = inserted(Stream(norm), (8, 8))
    first, second, last = (n for n in graph_module.graph.nodes if has_kind(n, "add"))
    assert not any("quantizer" in str(user.target) for user in (*first.users, *last.users))
    (quantizer,) = (user for user in second.users if "quantizer" in str(user.target))
    assert [str(user.target) for user in quantizer.users] == ["branches.2"]


class Entrance(nn.Module):
    """What a layer reads in few bits begins a stream, and is not narrowed for it."""

    def __init__(self, *, is_normalized: bool) -> None:
        super().__init__()
        self.first, self.branch = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.before = nn.GroupNorm(2, 8) if is_normalized else nn.Identity()
        self.norm, self.last = nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(self.first(x))
        out: Tensor = self.last(self.norm(x + self.branch(x))).mean((2, 3))
        return out


@pytest.mark.parametrize("is_normalized", [False, True])
def test_what_begins_a_stream_is_narrowed_for_layers_alone(is_normalized: bool) -> None:
    graph_module = inserted(Entrance(is_normalized=is_normalized))
    (branch,) = (n for n in graph_module.graph.nodes if str(n.target) == "branch")
    assert bits_of(graph_module, branch) == 4
    (add,) = (n for n in graph_module.graph.nodes if has_kind(n, "add"))
    # An integer convolution gives 8 bits, a normalization floats.
    assert bits_of(graph_module, add) == (None if is_normalized else 8)


class ImageInStream(nn.Module):
    """The image is added to a stream, and read by a layer of few bits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.norm = nn.GroupNorm(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.second(torch.relu(self.first(x))) + self.second(x)
        out: Tensor = self.last(self.norm(x)).mean((2, 3))
        return out


def test_images_keep_their_bits_in_streams() -> None:
    graph_module = inserted(ImageInStream())
    found = [n for n in graph_module.graph.nodes if str(n.target) == "second"]
    assert sorted(bits_of(graph_module, node) or 0 for node in found) == [4, 8]
