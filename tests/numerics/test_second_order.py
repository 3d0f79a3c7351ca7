"""Second-order pruning against Optimal Brain Surgeon with a matrix of its own for each step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_networks import tiny_images, tiny_network, tiny_spec
from torch import nn

from mixmix import Prune, compress
from mixmix.compress.prune.weights.obs import prune_rows
from mixmix.graph.masks import Pattern

BLOCK = 128  # columns whose mask is chosen together (Frantar & Alistarh 2023, section 3.2)


def problem(rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(0)
    x = draws.normal(size=(width, width)) @ draws.normal(size=(width, 4 * width))
    x *= draws.uniform(0.1, 2.0, size=(width, 1))
    return draws.normal(size=(rows, width)), x @ x.T / x.shape[1]


def surgery(weight: np.ndarray, hessian: np.ndarray, keep: float) -> np.ndarray:
    """Hassibi & Stork 1993, eq. 5, column by column: those behind make up for what is removed.

    The saliency of a weight is ``w**2 / [H^-1]_jj``, with the columns before it fixed.
    """
    weight, width = weight.copy(), weight.shape[1]
    inverses = [np.linalg.inv(hessian[j:, j:]) for j in range(width)]
    for start in range(0, width, BLOCK):
        columns = range(start, min(start + BLOCK, width))
        scores = np.stack([weight[:, j] ** 2 / inverses[j][0, 0] for j in columns], 1)
        kept = np.zeros(scores.size, bool)
        kept[np.argsort(scores.ravel())[::-1][: round(keep * scores.size)]] = True
        kept = kept.reshape(scores.shape)
        for j in columns:
            removed = np.where(kept[:, j - start], 0.0, weight[:, j])
            weight[:, j:] -= removed[:, None] / inverses[j][0, 0] * inverses[j][0][None]
            weight[~kept[:, j - start], j] = 0.0
    return weight


@pytest.mark.parametrize("damping", [1e-2, 1.0])
@pytest.mark.parametrize("width", [12, 150])
def test_weights_are_those_of_the_surgeon(width: int, damping: float) -> None:
    weight, gram = problem(4, width)
    damped = gram + damping * gram.diagonal().mean() * np.eye(width)
    wanted = surgery(weight, damped, keep=0.5)
    found, kept = prune_rows(
        torch.from_numpy(weight),
        torch.from_numpy(gram),
        sparsity=0.5,
        pattern=Pattern(),
        damping=damping,
    )
    np.testing.assert_array_equal(kept.numpy(), wanted != 0)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-8)


def test_damping_is_relative_to_the_inputs() -> None:
    weight, gram = problem(3, 10)
    found = [
        prune_rows(
            torch.from_numpy(weight),
            torch.from_numpy(scale * gram),
            sparsity=0.4,
            pattern=Pattern(),
            damping=0.3,
        )[0]
        for scale in (1.0, 1e4)
    ]
    torch.testing.assert_close(found[0], found[1])


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    weight, gram = problem(3, 8)
    gram[2], gram[:, 2] = 0, 0
    found, _ = prune_rows(
        torch.from_numpy(weight), torch.from_numpy(gram),
        sparsity=0.5, pattern=Pattern(), damping=1e-2,
    )  # fmt: skip
    assert bool(torch.isfinite(found).all())


def test_wanda_weighs_by_inputs_relative_to_the_spread_of_outputs() -> None:
    # Sun et al. 2023, eq. 1, |w| * ||x||; rows are ranked each for itself, so a constant added
    # to what a row gives must not change what is kept of it in competition with others.
    model = tiny_network("no-batch-norm")
    images = tiny_images()
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    linear = layers[-1]
    found = compress(
        (model, tiny_spec("no-batch-norm")),
        images,
        Prune(0.5, criterion="wanda", skip=tuple(layers[:-1]), rounds=1, recovery=()),
        seed=0,
    )
    taken: list[torch.Tensor] = []
    hook = model.get_submodule(linear).register_forward_pre_hook(lambda m, x: taken.append(x[0]))
    spec = tiny_spec("no-batch-norm")
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
    with torch.no_grad():
        model((images.images - mean) / std)
    hook.remove()
    weight = model.get_submodule(linear).weight.detach()  # type: ignore[union-attr, operator]
    scores = weight.abs() * taken[0].square().mean(0).sqrt()
    kept = found.masks[f"{linear}.weight"]
    half = weight.shape[1] // 2
    wanted = torch.zeros_like(kept).scatter(1, scores.topk(half, dim=1).indices, True)
    assert torch.equal(kept.cpu(), wanted)


def test_wanda_compares_layers_by_what_their_outputs_vary() -> None:
    # Scores |w| ||x|| are divided by the deviation of what the row gives, to be comparable.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = nn.Linear(3, 6), nn.Linear(6, 4)
        second.weight.data *= 50
        first.bias.data += 3  # a mean that is no spread
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), first, nn.ReLU(), second).eval()
    spec, density = tiny_spec("plain"), 0.6
    method = Prune(1 - density, criterion="wanda", allocation="global", rounds=1, recovery=())
    found = compress((model, spec), tiny_images(), method, seed=0)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
    x = ((tiny_images().images - mean) / std).mean((2, 3))
    scores = []
    with torch.no_grad():
        for layer, inputs in ((first, x), (second, first(x).relu())):
            spread = inputs.double() @ layer.weight.double().T
            norms = inputs.double().square().mean(0).sqrt()
            score = layer.weight.abs() * norms / spread.std(0, correction=0)[:, None]
            best = torch.zeros_like(score).scatter(1, score.argmax(1, keepdim=True), 1e9)
            scores.append((score + best).flatten())
    chosen = torch.cat(scores).topk(round(density * (18 + 24))).indices
    wanted = {"2.weight": int((chosen < 18).sum()), "4.weight": int((chosen >= 18).sum())}
    kept = {name: int(mask.sum()) for name, mask in found.masks.items()}
    assert kept == wanted and wanted["4.weight"] == 19
