"""``mixmix inspect`` and ``mixmix doctor``: what a network and an installation can do."""

from __future__ import annotations

from mixmix.cli.options import Given, command
from mixmix.cli.process import prepare
from mixmix.cli.results import print_facts, print_json
from mixmix.errors import InputError

__all__ = ["doctor", "inspect"]


@command(
    "inspect",
    """
    source! network: A network, or an .onnx or .pt2 file of any exporter.
    threads
    json
    NETWORK
    """,
)
def inspect(given: Given) -> None:
    """Report whether a network loads, what each method can do with it, and the time and memory.

    Example: mixmix inspect net.onnx --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    """
    from mixmix.cli.inputs import spec_fields, with_spec
    from mixmix.evaluate.inspection import inspect as inspect_network
    from mixmix.report.inspection import print_inspection

    given = with_spec(given)
    prepare("cpu", given["threads"], distributed=False)
    found = inspect_network(given["source"], **spec_fields(given.get("spec")))
    if given["json"]:
        print_json(found.to_dict())
    else:
        print_inspection(found)


@command("doctor", "json")
def doctor(given: Given) -> None:
    """Check the installation: versions, extras, processor, memory, devices, a small run.

    Example: mixmix doctor
    """
    from mixmix.report.installation import installation

    facts = installation()
    (print_json if given["json"] else print_facts)(facts)
    problems = [f"{name}: {text}" for name, text in facts.items() if str(text).startswith("FAILED")]
    if problems:
        raise InputError("; ".join(problems))
