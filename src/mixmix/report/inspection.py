"""What can be done with a network, in the terminal."""

from __future__ import annotations

from mixmix._display import shorten
from mixmix.evaluate.inspection import Inspection
from mixmix.report.table import print_rows

__all__ = ["print_inspection"]

_WIDTH = 60


def print_inspection(found: Inspection) -> None:
    """Print the answers, a table of the layers, and a draft of a spec file."""
    for name, value in found.facts.items():
        print(f"{name + ':':<17}{shorten(str(value), 400)}")
    if found.layers:
        print()
    print_rows(
        [
            {
                "layer": each.name,
                "kind": each.kind,
                "parameters": f"{each.num_parameters:,}",
                "MACs": f"{each.macs:,}" if each.macs else None,
                "quantize": shorten(each.quantize, _WIDTH),
                "prune weights": "yes" if each.prune_weights else None,
                "prune channels": shorten(each.prune_channels, _WIDTH),
            }
            for each in found.layers
        ]
    )
    print("\n# draft of a spec file (.toml); correct what is not so")
    print(found.draft_spec())
