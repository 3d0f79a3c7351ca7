"""How many of its weights should each layer keep in unstructured pruning?

``python benchmarks/weight_allocation.py --weights-dir WEIGHTS --data CIFAR10 --work WORK
--out benchmarks/records/DATE_weight_allocation``

See ``pruning_parts.choices``. A run adds the missing rows to an existing record.
"""

from __future__ import annotations

import itertools

from pruning_parts.cells import RECOVERY_STEPS
from pruning_parts.choices import Choice, choice_parser, compare

from mixmix import Prune

QUESTION = "How many of its weights should each layer keep, where zeros may be anywhere?"
# Suffix of a recovery: prune in one round.
AT_ONCE = "-at-once"


def main() -> None:
    parser = choice_parser(__doc__)
    parser.add_argument("--sparsities", default="0.95,0.9,0.8")
    parser.add_argument("--recoveries", default=f"bn,reconstruction{AT_ONCE},reconstruction")
    parser.add_argument("--criteria", default="magnitude")
    parser.add_argument("--allocations", default="global,sqrt-lamp,lamp")
    arguments = parser.parse_args()
    choices = [
        Choice(
            f"unstructured-{100 * sparsity:g}",
            recovery,
            {"criterion": criterion, "allocation": allocation},
            Prune(
                sparsity,
                criterion=criterion,
                allocation=allocation,
                rounds=1 if recovery.endswith(AT_ONCE) else None,
                recovery=RECOVERY_STEPS[recovery.removesuffix(AT_ONCE)],
            ),
        )
        for sparsity, recovery, criterion, allocation in itertools.product(
            map(float, arguments.sparsities.split(",")),
            arguments.recoveries.split(","),
            arguments.criteria.split(","),
            arguments.allocations.split(","),
        )
    ]
    compare(QUESTION, choices, arguments)


if __name__ == "__main__":
    main()
