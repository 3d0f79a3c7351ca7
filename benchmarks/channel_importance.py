"""Which channels should be pruned, and how many should each layer keep?

``python benchmarks/channel_importance.py --weights-dir WEIGHTS --data CIFAR10 --work WORK
--out benchmarks/records/DATE_channel_importance``

See ``pruning_parts.choices``. A run adds the missing rows to an existing record.
"""

from __future__ import annotations

import itertools

from pruning_parts.cells import RECOVERY_STEPS
from pruning_parts.choices import Choice, choice_parser, compare

from mixmix import PruneChannels

QUESTION = "Which channels should go, and how many has a layer to keep?"


def main() -> None:
    parser = choice_parser(__doc__)
    parser.add_argument("--max-macs", default="0.3,0.5")
    parser.add_argument("--recoveries", default="reconstruction")
    parser.add_argument("--importances", default="obs,taylor,magnitude")
    parser.add_argument("--min-shares", default="0.25")
    arguments = parser.parse_args()
    choices = [
        Choice(
            f"structured-{100 * (1 - macs):g}",
            recovery,
            {"importance": importance, "min_share": min_share},
            PruneChannels(
                max_macs=macs,
                importance=importance,
                min_fraction=min_share,
                recovery=RECOVERY_STEPS[recovery],
            ),
        )
        for macs, recovery, importance, min_share in itertools.product(
            map(float, arguments.max_macs.split(",")),
            arguments.recoveries.split(","),
            arguments.importances.split(","),
            map(float, arguments.min_shares.split(",")),
        )
    ]
    compare(QUESTION, choices, arguments)


if __name__ == "__main__":
    main()
