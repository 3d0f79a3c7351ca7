"""The contenders of ``benchmarks/speed.py`` do the same job, and interrupted ones go on."""

import pytest
import torch
from torch import nn

from mixmix import Model, ModelSpec, recipe
from mixmix.models.model import normalize
from mixmix.runtime.storage import read_json
from mixmix.synthesis.terms.bn import bn_statistics_loss
from mixmix.synthesis.terms.prior import total_variation_loss

pytestmark = pytest.mark.usefixtures("importable_benchmarks")
SPEC = ModelSpec("net", "module", (3, 8, 8), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), 4)


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def test_the_plain_loop_has_the_losses_of_the_engine(network):
    from speed_parts.plain_loop import _total_variation, observed_copy

    images = torch.rand(16, *SPEC.input_shape)
    observed, hooks = observed_copy(network)
    observed(normalize(images, SPEC))
    distance = sum(hook.distance() for hook in hooks)
    expected = bn_statistics_loss(Model(network, SPEC).observe(images).statistics)
    torch.testing.assert_close(distance, expected)
    torch.testing.assert_close(_total_variation(images), total_variation_loss(images))


def test_the_plain_loop_lowers_its_loss(network):
    from speed_parts.plain_loop import invert_plainly

    losses = []
    for iterations in (1, 40):
        settings = recipe("deepinversion", num_images=16, batch_size=8, iterations=iterations)
        images, last = invert_plainly(network, SPEC, settings, seed=0)
        losses.append(sum(last))
    assert images.shape == (16, *SPEC.input_shape)
    assert losses[1] < losses[0]


@pytest.mark.parametrize("name", ["deepinversion", "zeroq", "genie"])
def test_an_interrupted_peer_ends_with_the_same_images(network, name, tmp_path, monkeypatch):
    from speed_parts import peers

    monkeypatch.setattr(peers, "_CHECKPOINT_EVERY", 2)

    def images(folder):
        return peers.generate(
            name, network, SPEC, tmp_path / folder, num_images=8, iterations=6, seed=0
        )[0]

    whole = images("whole")
    kind, step = peers.PEERS[name], peers.PEERS[name].step

    def fail(self, iteration):
        if iteration == 5:
            raise KeyboardInterrupt
        step(self, iteration)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "step", fail)
        with pytest.raises(KeyboardInterrupt):
            images("interrupted")
    torch.rand(3)
    assert torch.equal(images("interrupted"), whole)


def test_exponents_are_slopes_of_the_logarithms():
    from speed_parts.growth import _exponent

    assert _exponent([1, 2, 4], [3, 12, 48]) == 2.0
    assert _exponent([1, 2], [0.0, 1.0]) is None


def test_a_record_keeps_the_rows_of_other_parts_and_of_others_than_the_selected(tmp_path):
    import speed

    path = tmp_path / "result.json"

    def write(command, rows, images=()):
        speed._Record(path, command).replace(rows[0]["part"], rows, selected={"b": images})

    mixmix, genie = {"part": "b", "images": "mixmix"}, {"part": "b", "images": "genie"}
    write("first", [{"part": "c", "value": 1}])
    write("second", [mixmix | {"top1": 1}, genie | {"top1": 2}])
    write("third", [genie | {"top1": 3}], images=("genie",))
    write("fourth", [{"part": "c", "value": 4}])
    record = read_json(path)
    assert record["rows"] == [
        mixmix | {"top1": 1},
        genie | {"top1": 3},
        {"part": "c", "value": 4},
    ]
    commands = {part: run["command"] for part, run in record["runs"].items()}
    assert commands == {"b": "third", "c": "fourth"}
