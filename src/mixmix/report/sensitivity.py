"""Layer sensitivities as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixmix.compress.quantize.sensitivity_table import SensitivityTable
from mixmix.report.rows import ABSENT
from mixmix.report.table import print_uncut

__all__ = ["print_sensitivity"]


def print_sensitivity(
    table: SensitivityTable, console: Console, *, layer_bits: Mapping[str, str] | None = None
) -> None:
    """Print the divergence for each layer and choice of bits, in thousandths of a nat.

    Args:
        table: result of ``measure_sensitivity``.
        console: console to print to.
        layer_bits: result of ``allocate_bits``; the chosen bits are printed in bold.
    """
    chosen = layer_bits or {}
    # Layers with fixed bits have other choices.
    choices = sorted({bits for layer in table.layers for bits in layer.divergence})
    grid = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("Layer", no_wrap=True)
    for title in ("Weights", "MACs", *choices):
        grid.add_column(title, justify="right", no_wrap=True)
    for layer in table.layers:
        cells = [Text(layer.name), Text(f"{layer.num_weights:,}"), Text(f"{layer.macs:,}")]
        for bits in choices:
            value = layer.divergence.get(bits)
            text = ABSENT if value is None else f"{1e3 * value:.3g}"
            cells.append(Text(text, style="bold" if chosen.get(layer.name) == bits else ""))
        grid.add_row(*cells)
    print_uncut(grid, console)
