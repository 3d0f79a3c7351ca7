"""The demo: a bundled network quantized with synthetic images, or others of equal cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixmix.compress.compress import compress
from mixmix.compress.method import Compressed, LayerRecord, Progress
from mixmix.compress.quantize.quantize import Quantize
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.data.image_set import ImageSet
from mixmix.data.images import as_image_set
from mixmix.demo.bundled import bundled_members
from mixmix.demo.cifar10 import load_calibration_pack, load_evaluation_pack
from mixmix.evaluate.evaluation import evaluate
from mixmix.export import Artifact, export
from mixmix.models import Zoo, load
from mixmix.report.page import ReportRun, write_page
from mixmix.report.record import benchmark_record
from mixmix.runtime.storage import write_json
from mixmix.runtimes.latency import compare_latency_ms
from mixmix.synthesis.recipes import recipe
from mixmix.synthesis.settings import SynthesisSettings
from mixmix.synthesis.synthesize import synthesize

__all__ = ["run_demo"]

_TARGET = "bundled:resnet"
_SETTINGS = ("W8A8", "W4A4", "W2A4")
_QUESTION = (
    "How accurate is a quantized network whose calibration images come from other networks alone?"
)


def run_demo(
    out: str | Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    compare: bool = False,
    settings: SynthesisSettings | None = None,
    reconstruction: ReconstructionSettings | None = None,
    on_progress: Progress = lambda what, fraction: None,
) -> dict[str, Any]:
    """Quantize one bundled network with images synthesized from the others.

    Args:
        out: folder for ``images/``, ``models/``, ``contact-sheet.png``, ``result.json`` and
            ``index.html``. To resume an interrupted run, repeat the call.
        seed: seed of all random draws.
        device: device for synthesis and reconstruction.
        compare: add rows for other images of equal cost (number of images and iterations): noise,
            inversion of the quantized network itself, and real images of the training split.
        settings: settings of synthesis; the number of images, batch size and iterations apply to
            all images.
        reconstruction: settings of reconstruction.
        on_progress: called with (current activity, fraction done in [0, 1]).

    Returns:
        The content of ``result.json``.
    """
    folder, settings = Path(out), settings or recipe("mixmix")
    reconstruction = reconstruction or ReconstructionSettings()
    run = _Demo(folder, seed, device, settings, reconstruction, on_progress)
    sources = ["mixmix", "deepinversion", "noise", "real"] if compare else ["mixmix"]
    run.add_float_row()
    for index, images in enumerate(sources):
        run.add_rows(images, index / len(sources), (index + 1) / len(sources))
    run.measure_latency()
    command = f"mixmix demo --out {folder} --seed {seed}" + " --compare" * compare
    return run.write(command)


@dataclass
class _Demo:
    folder: Path
    seed: int
    device: str
    settings: SynthesisSettings
    reconstruction: ReconstructionSettings
    on_progress: Progress

    def __post_init__(self) -> None:
        self.target = load(_TARGET, device=self.device)
        others = [name for name in bundled_members() if name != self.target.spec.name]
        self.zoo = Zoo.load([f"bundled:{name}" for name in others], device=self.device)
        self.evaluation_data = load_evaluation_pack()
        self.rows: list[dict[str, Any]] = []
        self.artifacts: list[Artifact] = []
        self.records: dict[str, tuple[LayerRecord, ...]] = {}
        self.data: ImageSet | None = None

    def add_float_row(self) -> None:
        self.on_progress("exporting the float model", 0.0)
        untouched = Compressed(self.target.module, self.target.spec)
        self._export_and_evaluate(untouched, "float", "float", None, {}, self._part(0.0, 0.0))

    def add_rows(self, images: str, start: float, end: float) -> None:
        """Quantize with images of one kind, while progress advances from start to end."""
        started = time.process_time()
        data, provenance = self._images(images, self._part(start, start + 0.5 * (end - start)))
        provenance["synthesis_cpu_seconds"] = round(time.process_time() - started, 1)
        if images == "mixmix":
            self.data = data
        for index, setting in enumerate(_SETTINGS):
            width = 0.5 * (end - start) / len(_SETTINGS)
            begin = start + 0.5 * (end - start) + index * width
            started = time.process_time()
            compressed = compress(
                self.target,
                data,
                Quantize(setting, reconstruction=self.reconstruction),
                seed=self.seed,
                on_progress=self._part(begin, begin + 0.6 * width),
            )
            seconds = round(time.process_time() - started, 1)
            if images == "mixmix":
                self.records[setting] = compressed.records
            self._export_and_evaluate(
                compressed,
                setting,
                images,
                data,
                provenance | {"cpu_seconds": seconds},
                self._part(begin + 0.6 * width, begin + width),
            )

    def _images(self, images: str, on_progress: Progress) -> tuple[ImageSet, dict[str, Any]]:
        if images == "real":
            pixels = load_calibration_pack()[: self.settings.num_images]
            return as_image_set(pixels, self.target), {"zoo": []}
        zoo = self.zoo if images == "mixmix" else Zoo([self.target])
        settings = self.settings
        if images != "mixmix":
            budget = ("num_images", "batch_size", "iterations")[: 2 if images == "noise" else 3]
            settings = recipe(images, **{name: getattr(self.settings, name) for name in budget})
        data = synthesize(
            zoo,
            settings,
            seed=self.seed,
            out=self.folder / ("images" if images == "mixmix" else f"images-{images}"),
            on_progress=lambda what, fraction: on_progress(f"{what} images ({images})", fraction),
        )
        return data, {"zoo": list(zoo.names)}

    def _export_and_evaluate(
        self,
        compressed: Compressed,
        setting: str,
        images: str,
        data: ImageSet | None,
        extra: dict[str, Any],
        on_progress: Progress,
    ) -> None:
        name = self.target.spec.name
        on_progress(f"exporting {setting}", 0.0)
        kind = "float" if setting == "float" else f"{setting.lower()}-{images}"
        artifact = export(
            compressed,
            self.folder / "models" / f"{name}-{kind}.onnx",
            probe=None if data is None else data.images[:256],
        )
        evaluation = evaluate(
            artifact,
            self.evaluation_data,
            reference=self.target,
            on_progress=lambda what, fraction: on_progress(what, 0.5 + 0.5 * fraction),
        )
        self.artifacts.append(artifact)
        self.rows.append(
            {
                "model": name,
                "task": "quantize",
                "setting": setting,
                "images": images,
                "num_images": 0 if data is None else len(data),
                "seed": self.seed,
                "top1": evaluation.top1,
                "num_test": evaluation.num_images,
                "agreement": evaluation.agreement,
                "size_bytes": artifact.size_bytes,
            }
            | extra
        )

    def measure_latency(self) -> None:
        """Measure all models in alternation, since timings drift."""
        self.on_progress("measuring latency", 1.0)
        latencies = compare_latency_ms([artifact.path for artifact in self.artifacts])
        for row, artifact in zip(self.rows, self.artifacts, strict=True):
            row["latency_ms"] = latencies[str(artifact.path)]

    def write(self, command: str) -> dict[str, Any]:
        assert self.data is not None
        result = benchmark_record(_QUESTION, command, self.rows)
        sheet = self.data.contact_sheet(self.folder / "contact-sheet.png")
        write_json(self.folder / "result.json", result)
        w4 = next(row for row in self.rows if row["setting"] == "W4A4")
        write_page(
            self.folder / "index.html",
            ReportRun(
                title=f"{self.target.spec.name}, quantized without data",
                summary=(
                    f"{len(self.data)} images were synthesized from {', '.join(self.zoo.names)}; "
                    f"{self.target.spec.name}, which is not among them, was quantized with these "
                    f"images: top-1 is {self.rows[0]['top1']:.1f}% in float32 and "
                    f"{w4['top1']:.1f}% at W4A4."
                ),
                rows=result["rows"],
                command=command,
                manifest=self.data.manifest,
                contact_sheet=sheet,
                records=self.records,
            ),
        )
        return result

    def _part(self, start: float, end: float) -> Callable[[str, float], None]:
        """A callback that maps the progress of one part to the overall progress."""
        return lambda what, fraction: self.on_progress(what, start + fraction * (end - start))
