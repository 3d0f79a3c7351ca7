"""Entropy of patches: of a known density, and where there is structure."""

from __future__ import annotations

import torch

from mixmix.synthesis.terms.patches import patch_entropy


class TestPatchEntropy:
    def test_of_a_known_density(self) -> None:
        # Tokens at right angles: every cosine is 0, and what is left is the kernel, normal.
        found = patch_entropy([torch.eye(9).expand(2, 9, 9)])
        expected = 0.5 * torch.log(torch.tensor(2 * torch.pi * torch.e * 0.05**2))
        torch.testing.assert_close(found, expected.expand(2), atol=1e-2, rtol=0)

    def test_two_kinds_of_patches_have_more(self) -> None:
        torch.manual_seed(0)
        noise = 0.3 * torch.randn(1, 32, 64)
        alike = 1 + noise
        two_kinds = torch.cat([alike[:, :16], alike[:, 16:] * torch.linspace(-1, 1, 64)], dim=1)
        assert patch_entropy([two_kinds]) > patch_entropy([alike]) + 0.3

    def test_layers_with_a_single_place_do_not_count(self) -> None:
        tokens = torch.randn(3, 20, 8, generator=torch.Generator().manual_seed(0))
        single = torch.randn(3, 1, 8)
        torch.testing.assert_close(patch_entropy([tokens, single]), patch_entropy([tokens]))
        assert patch_entropy([single]).tolist() == [0, 0, 0]
