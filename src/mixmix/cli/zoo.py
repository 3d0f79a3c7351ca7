"""``mixmix zoo``: the networks that can be named, and what is known of one."""

from __future__ import annotations

from mixmix.cli.command import JSON, Command
from mixmix.cli.options import Given, Option
from mixmix.cli.output import report

__all__ = ["ZOO_LIST", "ZOO_SHOW"]


def _list(given: Given) -> None:
    from mixmix.demo.bundled import bundled_names
    from mixmix.models import load_spec
    from mixmix.models.sources.imagenet import imagenet_names, is_installed

    references = [f"bundled:{name}" for name in bundled_names()]
    references += [f"imagenet:{name}" for name in imagenet_names()]
    rows = []
    for reference in references:
        kind, _, name = reference.partition(":")
        spec = load_spec(reference)
        rows.append(
            {
                "name": reference,
                "label_set": spec.label_set,
                "input_shape": list(spec.input_shape),
                "top1": spec.top1,
                "license": spec.license,
                "installed": kind == "bundled" or is_installed(name),
            }
        )
    report({"models": rows}, rows, given["json"])


def _show(given: Given) -> None:
    from mixmix.graph.costs import count_macs
    from mixmix.models import Zoo

    model = Zoo.load([given["model"]])[0]
    content = model.spec.to_dict() | {
        "num_parameters": sum(p.numel() for p in model.module.parameters()),
        "num_macs": count_macs(model.module, model.spec.input_shape),
        "num_batch_norms": len(model.batch_norms),
    }
    report(content, [{"field": k, "value": str(v)} for k, v in content.items()], given["json"])


ZOO_LIST = Command(
    "zoo list",
    help="List the networks that come with mixmix and with its extra 'imagenet'.",
    example="mixmix zoo list --json",
    options=(JSON,),
    call=_list,
)

ZOO_SHOW = Command(
    "zoo show",
    help="Show a network's spec, parameters and cost.",
    example="mixmix zoo show bundled:resnet",
    options=(Option("model", str, "A model as in other commands.", ..., ("argument",)), JSON),
    call=_show,
)
