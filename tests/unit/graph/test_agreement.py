"""What two outputs differ by, whatever all images share."""

import pytest
import torch

from mixmix.graph.agreement import output_error


@pytest.mark.parametrize("bias", [0.0, 3.0, 10.0])
def test_a_bias_hides_no_error(bias: float) -> None:
    reference = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]) + bias
    outputs = reference + torch.tensor([[0.1, 0.0], [0.0, 0.0]])
    assert output_error(outputs, reference) == pytest.approx(0.05, rel=1e-4)


def test_rounding_errors_of_equal_outputs_are_small() -> None:
    reference = torch.full((4, 10), 100.0)
    assert output_error(reference * (1 + 1e-6), reference) == pytest.approx(2e-5, rel=0.5)
