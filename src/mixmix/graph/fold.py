"""Folding of BatchNorm into preceding layers."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from mixmix.graph.batch_norm import is_batch_norm
from mixmix.graph.calls import count_calls, module_of
from mixmix.graph.capture import check_outputs

__all__ = ["fold_batch_norms"]


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
        if not alone or calls[str(node.target)] > 1:
            continue
        if isinstance(layer, nn.Conv2d):
            fused: nn.Module = fuse_conv_bn_eval(layer, norm)
        elif isinstance(layer, nn.Linear):
            fused = fuse_linear_bn_eval(layer, norm)
        else:
            continue
        graph_module.set_submodule(str(source.target), fused)
        modules[str(source.target)] = fused
        node.replace_all_uses_with(source)
        graph_module.graph.erase_node(node)
        folded[str(node.target)] = str(source.target)
    graph_module.graph.eliminate_dead_code()
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()
    graph_module.requires_grad_(False)
    hint = "a running variance near zero is the usual cause: check the checkpoint"
    check_outputs(graph_module, example, before, step="folding BatchNorm", hint=hint)
    return folded
