"""``mixmix compress``: from a network to a smaller file, with nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mixmix.cli.compression import kept_layers
from mixmix.cli.options import Given, command
from mixmix.cli.results import do
from mixmix.cli.run_file import NO_VALUE, read_toml
from mixmix.errors import InputError

__all__ = ["compress"]

_WORK_FOLDER = ".mixmix"
_SHORT_BITS = {"8": "W8A8", "int8": "W8A8"}


@command(
    "compress",
    """
    model.reference! network: A network: an .onnx or .pt2 file, timm:NAME, torchvision:NAME, hf:REPOSITORY, python:MODULE:CALLABLE@FILE for a checkpoint, bundled:NAME, or a model spec (.toml).
    file! --out -o: File to write: .onnx, .pt2 (PyTorch) or .safetensors (weights without zeros).
    quantize.bits
    search.max_size
    search.max_loss
    search.aim
    fraction --prune
    recipe --recipe
    keep
    export.optimize_for
    DEPLOYMENT
    evaluation.explain: Print the error of each layer, compared with the original.
    layers
    COMMON
    NETWORK
    [Images]
    images.folders --images
    photographs --data
    synthetic
    settings.num_images -n: Number of images to synthesize (default: by the size of the network).
    settings.iterations: Optimizer steps per batch (default: by the cost of the network).
    images.held_out
    """,  # noqa: E501
)
def compress(given: Given) -> None:
    """Compress a network from a file to a file: make images, compress, check, export, estimate.

    Images are synthesized from the network itself, unless --images or --data has some. They are
    kept beside FILE, in a folder that ends in .mixmix: repeat the command to continue after an
    interruption.

    Example: mixmix compress net.onnx -o small.onnx --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    """
    file = Path(given["file"])
    _check_other_file(given["model"]["reference"], file)
    photographs, synthetic = given.pop("photographs"), given.pop("synthetic")
    settings, images = given.pop("settings", {}), given.pop("images", {})
    folders = [*images.pop("folders", []), *photographs]
    if settings and folders and not synthetic:
        raise InputError(
            "--num-images and --iterations are for synthesized images; add --synthetic to make "
            "some in addition to those of --images and --data"
        )
    recipe = _recipe(given.pop("recipe"))
    given["methods"] = _methods(given, recipe)
    if images or folders:
        given["images"] = images | ({"folders": folders} if folders else {})
    if synthetic or not folders:
        folder = str(Path(f"{file.stem}{_WORK_FOLDER}") / "images")
        chosen = {"recipe": "auto", **recipe.get("synthesis", {}), **settings}
        given["synthesis"] = chosen | {"folder": folder}
    do(given)


def _check_other_file(reference: str, file: Path) -> None:
    if Path(reference).exists() and file.exists() and file.samefile(reference):
        raise InputError(f"--out {file} is the network itself; name another file")


def _recipe(path: str | None) -> dict[str, Any]:
    """The tables of a recipe: [[methods]] and [synthesis], as in the file of a run."""
    if path is None:
        return {}
    if not Path(path).exists() and not Path(path).suffix:
        raise InputError(
            f"--recipe takes a TOML file with [[methods]] or [synthesis], got {path!r}; for the "
            'synthesis of that name, write [synthesis] and recipe = "NAME" into one'
        )
    content = read_toml(Path(path), "the recipe")
    if unknown := sorted(content.keys() - {"methods", "synthesis"}):
        raise InputError(
            f"{path}: a recipe has [[methods]] and [synthesis], as a run file does, got "
            f"{', '.join(unknown)}"
        )
    return content


def _methods(given: Given, recipe: dict[str, Any]) -> list[Given]:
    """Pruning of channels if a fraction is given, then quantization."""
    quantize, fraction = given.pop("quantize", {}), given.pop("fraction")
    if kept := kept_layers(given.pop("keep")):
        quantize["layer_bits"] = kept
    if "methods" in recipe:
        if quantize or fraction is not None:
            raise InputError(
                "--recipe has the methods; leave out --bits, --keep and --prune, or [[methods]]"
            )
        return list(recipe["methods"])
    methods: list[Given] = []
    if fraction is not None:
        if not 0 < fraction < 1:
            raise InputError(f"--prune must be a fraction between 0 and 1, got {fraction:g}")
        methods.append({"method": "prune-channels", "max_macs": round(1 - fraction, 6)})
    bits = str(quantize.get("bits", "W8A8"))
    if bits != NO_VALUE:
        quantize["bits"] = _SHORT_BITS.get(bits.lower(), bits)
        methods.append({"method": "quantize", **quantize})
    elif kept:
        raise InputError("--keep is for quantization; leave out --bits none")
    if not methods:
        raise InputError("nothing to do: --bits none without --prune; set one of them")
    return methods
