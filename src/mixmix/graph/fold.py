"""Folding of BatchNorm into preceding layers."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from mixmix.graph.batch_norm import is_batch_norm
from mixmix.graph.calls import count_calls, module_of
from mixmix.graph.capture import check_outputs

__all__ = ["fold_batch_norms", "normalizes_outputs"]


def fold_batch_norms(graph_module: fx.GraphModule, example: Tensor) -> dict[str, str]:
    """Fold every BatchNorm after a convolution or linear layer into that layer, in place.

    Args:
        graph_module: from ``capture``.
        example: normalized images on which the outputs are checked.

    Returns:
        From names of folded BatchNorms to names of layers.

    Raises:
        CaptureError: if the outputs differ afterwards.
    """
    with torch.no_grad():
        before = graph_module(example)
    modules = dict(graph_module.named_modules())
    calls = count_calls(graph_module)
    folded: dict[str, str] = {}
    for node in list(graph_module.graph.nodes):
        norm = module_of(node, modules)
        if not is_batch_norm(norm):
            continue
        source = node.args[0]
        layer = module_of(source, modules)
        alone = len(source.users) == 1 and calls[str(source.target)] == 1
        if not alone or calls[str(node.target)] > 1 or not normalizes_outputs(layer, source):
            continue
        fused: nn.Module
        if isinstance(layer, nn.Conv2d):
            fused = fuse_conv_bn_eval(layer, norm)
        else:
            assert isinstance(layer, nn.Linear)
            fused = fuse_linear_bn_eval(layer, _affine(norm))
        graph_module.set_submodule(str(source.target), fused)
        modules[str(source.target)] = fused
        node.replace_all_uses_with(source)
        graph_module.graph.erase_node(node)
        folded[str(node.target)] = str(source.target)
    graph_module.graph.eliminate_dead_code()
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()
    graph_module.requires_grad_(False)
    name, factor = max(
        ((name, _largest_factor(modules[name])) for name in folded),
        key=lambda each: each[1],
        default=("", 0.0),
    )
    hint = f"{name} multiplies by up to {factor:.1e}: check its running variance in the checkpoint"
    check_outputs(graph_module, example, before, step="folding BatchNorm", hint=hint)
    return folded


def normalizes_outputs(layer: nn.Module | None, call: fx.Node) -> bool:
    """Whether a BatchNorm after a call of a layer normalizes the layer's output channels.

    After a linear layer, it normalizes tokens of (N, T, C) instead.
    """
    return isinstance(layer, nn.Conv2d) or (
        isinstance(layer, nn.Linear) and call.meta.get("ndim", 2) == 2
    )


def _affine(norm: _BatchNorm) -> _BatchNorm:
    """A BatchNorm with a weight and a bias, which PyTorch needs to fold it into a linear layer."""
    if norm.weight is not None and norm.bias is not None:
        return norm
    full = copy.deepcopy(norm)
    assert norm.running_mean is not None
    for name, default in (("weight", torch.ones_like), ("bias", torch.zeros_like)):
        if getattr(norm, name) is None:
            setattr(full, name, nn.Parameter(default(norm.running_mean)))
    return full


def _largest_factor(norm: nn.Module) -> float:
    assert isinstance(norm, _BatchNorm) and norm.running_var is not None
    factors = (norm.running_var + norm.eps).rsqrt()
    return float((factors if norm.weight is None else factors * norm.weight.detach().abs()).max())
