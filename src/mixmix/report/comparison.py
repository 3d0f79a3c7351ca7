"""Two models side by side in the terminal."""

from __future__ import annotations

from mixmix._display import counted, percent, printable
from mixmix.evaluate.comparison import Comparison
from mixmix.report.layers import print_layer_errors
from mixmix.report.table import print_rows

__all__ = ["print_comparison"]


def print_comparison(found: Comparison) -> None:
    """Print a comparison."""
    print(printable(f"A {found.model.name}"))
    print(printable(f"B {found.reference.name}"))
    print_rows(found.rows)
    images = counted(found.num_images, "image") + " of noise" * found.on_noise
    agreement = percent(found.agreement, found.agreement_interval)
    print(f"agreement {agreement} on {images}")
    if found.layers is not None:
        print_layer_errors(found.layers.to_dict(), every=False)
    else:
        print(printable(f"layers: {found.no_layers}"))
