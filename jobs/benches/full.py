"""``fdi bench``, section ``full_size``, or ``python -m jobs.benches.full OUT``: models of full size on a GPU.

Weights are random. Tiles go the product's own way (:class:`fdi_lib.models.passes.Passes`): cut, guided by an adapter,
through VAE and UNet, refined, blended. They are compared with the device's own rate at multiplying matrices, and with
diffusers' models in a plain loop. It needs neither Ray nor anything that reads or writes images. Does NOT judge.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import RestoreSettings
from fdi_lib.models.device import accelerator
from fdi_lib.models.passes import Passes
from fdi_lib.models.residents import ResidentAdapters
from fdi_lib.models.sampling import Schedule
from fdi_lib.models.speed import prepare
from fdi_lib.models.tiles import Tiling
from jobs.benches.full_parts import Parts
from jobs.benches.full_shapes import FULL, WAYS, BaseShape, Shapes, make_adapter, make_encoder
from jobs.benches.timing import (
    describe,
    fitting,
    freed,
    matrix_rate,
    median_seconds,
    peak_gib,
    reset_peak,
    seconds_of,
)

DIFFUSERS = "diffusers' loop"
_HEADS = {
    "model": "model", "way": "way", "batch": "batch", "steps": "steps", "tiles_per_s": "tiles/s", "share": "share",
    "over_diffusers": "/ diffusers", "images_per_s": "images/s", "first_s": "first, s", "adapter_load_s": "load, s",
    "peak_gib": "GiB", "error": "error",
}  # fmt: skip
_Row = dict[str, Any]


def check(shapes: Shapes) -> None:
    """Refuse what would take hours.

    Raises:
        ManifestError: these shapes need a GPU, and this process sees none.
    """
    if shapes.needs_gpu and accelerator().type != "cuda":
        remedy = "run it on a machine with a CUDA device and a torch that supports it, or leave full_size out"
        raise ManifestError("full_size needs a GPU, and this process sees none", key="sections", remedy=remedy)


def measure(settings: RestoreSettings, folder: Path, shapes: Shapes = FULL) -> tuple[list[_Row], dict[str, Any]]:
    """Measure every base in every way, then the encoder.

    Args:
        settings: the manifest's; the shapes' ways change them.
        folder: where ``full_size.json`` is written after each row: it outlives a machine that is taken away.
        shapes: of the models, and how much of it is measured.

    Returns:
        Rows, and what the device is. A row of a base has ``tiles_per_s`` (whole path), ``share`` (of the matrix rate,
        by the operations of UNet and VAE), ``over_diffusers`` (ratio to diffusers' loop of the same batch and steps),
        ``first_s`` (first run, with compiling), ``adapter_load_s``, ``peak_gib``, ``ms`` and ``tflop`` (a tile's by
        part; the UNet's are of one step, ``rest`` is what of the whole path is in none) and ``finite``. What does not
        fit into memory is None; a way that fails is a row with ``error``.

    Raises:
        ManifestError: as :func:`check`.
    """
    check(shapes)
    device = accelerator()
    about = describe(device) | {"matrix_tflops": round(matrix_rate(device, shapes.matrix) / 1e12, 4)}
    rows: list[_Row] = []

    def add(row: _Row) -> None:
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        (folder / "full_size.json").write_text(json.dumps({"device": about, "full_size": rows}, indent=1) + "\n")

    for shape in shapes.bases:
        with freed():
            for row in _diffusers(shape, settings, shapes, device):
                add({"model": shape.name, "way": DIFFUSERS} | row)
    theirs = {(row["model"], row["batch"], row["steps"]): row["tiles_per_s"] for row in rows}
    with freed():
        add({"model": "BLIP-2 encoder", "way": "as set", "batch": shapes.images} | _encoder(shapes, device))
    for number, (way, change) in enumerate(shapes.ways.items()):
        batches = shapes.batches[-1:] if number else shapes.batches
        for shape in shapes.bases:
            with freed():
                try:
                    for row in _ours(shape, settings.model_copy(update=change), shapes, batches, device):
                        add({"model": shape.name, "way": way} | row | _compared(shape.name, row, theirs, about))
                # A compiler's trouble, say: the other ways are to be measured all the same.
                except (ManifestError, RuntimeError) as error:
                    add({"model": shape.name, "way": way, "error": f"{type(error).__name__}: {error}"[:2000]})
    return rows, about


def _compared(model: str, row: _Row, theirs: dict[Any, float | None], about: _Row) -> _Row:
    """A row's share of the matrix rate, and its ratio to diffusers' loop; nothing where it didn't fit into memory."""
    if row["tiles_per_s"] is None:
        return {}
    tflop, other = row["tflop"], theirs[model, row["batch"], row["steps"]]
    per_tile = tflop["encode"] + row["steps"] * tflop["unet"] + tflop["decode"]
    return {
        "share": round(row["tiles_per_s"] * per_tile / about["matrix_tflops"], 4),
        "over_diffusers": other and round(row["tiles_per_s"] / other, 3),
    }


def tables(rows: list[_Row]) -> dict[str, list[list[str]]]:
    """Two tables by title: a line of heads, then a line for each row; the second has milliseconds of parts."""

    def text(value: Any) -> str:
        return "" if value is None else str(value).splitlines()[0]

    timed = [row for row in rows if "ms" in row]
    parts = list(timed[0]["ms"]) if timed else []
    told, shown = list(_HEADS)[:4], [key for key in _HEADS if any(row.get(key) is not None for row in rows)]
    return {
        "Full size": [[_HEADS[key] for key in shown], *([text(row.get(key)) for key in shown] for row in rows)],
        "Milliseconds a tile (UNet: of one step; rest: of the whole path, in no part)": [
            [*told, *parts],
            *([*(text(row[key]) for key in told), *(text(row["ms"][part]) for part in parts)] for row in timed),
        ],
    }


@torch.inference_mode()
def _diffusers(shape: BaseShape, settings: RestoreSettings, shapes: Shapes, device: torch.device) -> Iterator[_Row]:
    """Diffusers' models in bf16 weights: encode, the scheduler's loop over the UNet, decode; from and to the CPU."""
    unet, vae = (network.to(torch.bfloat16) for network in shape.networks(device))
    scheduler, scale = shape.scheduler(), float(vae.config["scaling_factor"])
    for batch in shapes.batches:
        image = torch.rand(batch, 3, settings.tile_px, settings.tile_px) * 2 - 1
        told = shape.conditions(unet, batch, device, torch.bfloat16)
        for steps in shapes.steps:
            scheduler.set_timesteps(steps, device=device)

            def loop(image: torch.Tensor = image, told: _Row = told) -> None:
                z = vae.encode(image.to(device, torch.bfloat16)).latent_dist.mean * scale
                for t in scheduler.timesteps:
                    out = unet(z, t, **told, return_dict=False)[0]
                    z = scheduler.step(out, t, z, return_dict=False)[0].to(torch.bfloat16)
                vae.decode(z / scale, return_dict=False)[0].float().cpu()

            found = fitting(partial(median_seconds, loop, 2 * shapes.repeats, device))
            yield {"batch": batch, "steps": steps, "tiles_per_s": found and round(batch / found, 3)}


def _ours(
    shape: BaseShape, settings: RestoreSettings, shapes: Shapes, batches: tuple[int, ...], device: torch.device
) -> Iterator[_Row]:
    """The product's own way, for every batch and number of steps."""
    base = shape.base(device)
    with tempfile.TemporaryDirectory() as folder:
        make_adapter(base, shapes.encoder).save_pretrained(folder)
        residents = ResidentAdapters({"noise": Path(folder)}, base, 1, device)
        loaded = {"adapter_load_s": round(seconds_of(lambda: residents.get("noise"), device), 3)}
    parts = Parts(base, residents.get("noise"), settings.tile_px, device)
    tflop = {name: round(flops / 1e12, 6) for name, flops in parts.flops().items()}
    prepare(base, settings)
    side = 2 * settings.tile_px - settings.overlap_px  # four tiles an image
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (side, side, 3), np.uint8) for _ in range(max(map(shapes.tiles, batches)) // 4)]
    for batch in batches:
        tiling = Tiling(base, settings.tile_px, settings.overlap_px, batch, device)
        passes = Passes(base, tiling, residents.get, settings.fidelity)
        some = list(islice(images, shapes.tiles(batch) // 4))
        weights, keys = [np.ones(len(some), np.float32)], [0] * len(some)
        for steps in shapes.steps:
            schedule = Schedule("input", 0.5, steps, 1.0)
            run = partial(passes.run, some, ("noise",), weights, keys, schedule, some)
            reset_peak(device)
            took = fitting(partial(_times, run, 1 + shapes.repeats, device))
            row = {"batch": batch, "steps": steps, "tiles_per_s": None, "tflop": tflop} | loaded
            if took is None or tiling.note:  # halved: it did not fit, and would be compared with another batch
                yield row | {"peak_gib": peak_gib(device)}
                continue
            whole_s, ms = median(took[1:]), {name: 1000 * s / batch for name, s in parts.seconds(batch).items()}
            ms["rest"] = 1000 * whole_s / shapes.tiles(batch) - sum(ms.values()) - (steps - 1) * ms["unet"]
            yield row | {
                "tiles_per_s": round(shapes.tiles(batch) / whole_s, 3),
                "first_s": round(took[0], 2),
                "peak_gib": peak_gib(device),
                "ms": {name: round(value, 3) for name, value in ms.items()},
                "finite": all(out.finite == 1 for out in run()),
            }


def _times(work: Callable[[], Any], times: int, device: torch.device) -> list[float]:
    return [seconds_of(work, device) for _ in range(times)]


def _encoder(shapes: Shapes, device: torch.device) -> _Row:
    """Images per second from views to pooled features; decoding and cutting views are the job's."""
    encoder, size = make_encoder(shapes.encoder, device), shapes.encoder["vision"]["image_size"]
    shape = (shapes.images, encoder.view_spec.count, size, size, 3)
    views = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    reset_peak(device)
    took = fitting(lambda: median_seconds(lambda: encoder.features(views), shapes.repeats, device))
    return {"images_per_s": took and round(shapes.images / took, 2), "peak_gib": peak_gib(device)}


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table, write ``full_size.json``."""
    parser = argparse.ArgumentParser(prog="python -m jobs.benches.full", description=__doc__)
    parser.add_argument("out", type=Path, help="folder of full_size.json")
    parser.add_argument(
        "--ways", type=int, nargs="+", choices=range(len(WAYS)), default=range(len(WAYS)), help="only these, by number"
    )
    parser.add_argument("--bases", type=int, default=len(FULL.bases), help="only the first so many bases")
    parser.add_argument("--batches", type=int, nargs="+", default=FULL.batches, help="tiles of a forward pass")
    parser.add_argument("--steps", type=int, nargs="+", default=FULL.steps, help="forward passes of a tile")
    parser.add_argument("--tile-px", type=int, default=512)
    given = parser.parse_args(argv)
    settings = RestoreSettings(dtype="bf16", tile_px=given.tile_px, overlap_px=given.tile_px // 32 * 8)
    try:
        check(FULL)
        given.out.mkdir(parents=True, exist_ok=True)
        shapes = replace(
            FULL,
            bases=FULL.bases[: given.bases],
            batches=tuple(given.batches),
            steps=tuple(given.steps),
            ways=dict(list(WAYS.items())[number] for number in given.ways),
        )
        rows, about = measure(settings, given.out, shapes)
    except ManifestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for title, lines in tables(rows).items():
        print(f"\n{title}")
        for line in lines:
            print("| " + " | ".join(line) + " |")
    print("device: " + ", ".join(f"{key} {value}" for key, value in about.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
