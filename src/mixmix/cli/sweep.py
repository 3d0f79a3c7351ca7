"""``mixmix sweep``: several settings of a network side by side."""

from __future__ import annotations

from mixmix.cli.options import Given, command
from mixmix.cli.results import do
from mixmix.errors import InputError

__all__ = ["sweep"]


@command(
    "sweep",
    """
    model.reference! network: A network, named as for 'mixmix compress'.
    sweep.settings
    sweep.data
    folder --out -o: Folder for the page, a file of each setting, and the images (default: sweep).
    COMMON
    NETWORK
    [Images]
    images.folders --images
    settings.num_images -n: Number of images to synthesize (default: by the size of the network).
    settings.iterations: Optimizer steps per batch (default: by the cost of the network).
    images.held_out
    """,
)
def sweep(given: Given) -> None:
    """Compare settings: the accuracy that each loses, the size of its file, and its latency.

    Images are synthesized from the network itself, unless --images has some.

    Example: mixmix sweep bundled:resnet --settings W8A8,W4A8,W4A4 --out compared
    """
    settings = given.pop("settings", {})
    if not given.get("images", {}).get("folders"):
        given["synthesis"] = {"recipe": "auto", **settings}
    elif settings:
        raise InputError(
            "--num-images and --iterations are for synthesized images; leave them out, or --images"
        )
    sections = {"out": str(given.pop("folder")), "sweep": given.pop("sweep", {})}
    do(given | sections)
