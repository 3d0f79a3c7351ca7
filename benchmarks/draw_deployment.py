"""Draw the table of a record of ``deployment.py`` into a Markdown file, between its two marks.

``python benchmarks/draw_deployment.py benchmarks/records/DATE_deployment/result.json
benchmarks/records/DATE_deployment/README.md``
"""

from __future__ import annotations

from typing import Any

from draw_table import draw_into_document, table


def draw(record: dict[str, Any]) -> str:
    """A row for every file, and how it was made."""
    header = (
        "network | bits | for | size | of floats | integer MACs | ms | speed-up | top-1 % "
        "| in PyTorch"
    )
    lines = [
        [
            row["model"],
            row["setting"],
            row["optimize_for"],
            f"{row['size_bytes'] / 1e6:.2f} MB",
            f"{row['size_ratio']:.3f}",
            f"{row['integer_mac_share']:.0%}",
            f"{row['latency_ms']:.2f}",
            f"{row['speedup']:.2f}×",
            f"{row['top1']:.2f}" if "top1" in row else "–",
            f"{row['top1_in_pytorch']:.2f}" if "top1" in row else "–",
        ]
        for row in record["rows"]
    ]
    machine = record["machine"]
    made = (
        f"`{record['command']}`, {record['date']}, on {machine['cores']} cores ({machine['cpu']})."
    )
    return f"{table(header, lines)}\n\n{made}"


if __name__ == "__main__":
    draw_into_document(__doc__, draw)
