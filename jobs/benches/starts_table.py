"""Sampling schedules compared on one adapter: which there are, what each gives on degraded tiles, the table.

Rows are told apart by schedule; every difference is taken tile by tile from one row, that of the adapter's own
schedule. Starts no Ray. Does NOT know which adapters there are, nor where rows are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any, cast, get_args

import numpy as np
from rich.console import Console
from rich.table import Table

from fdi_lib.core import metrics
from fdi_lib.core.protocol import Sample
from fdi_lib.manifest import RestoreSettings
from fdi_lib.manifest.restoring import Init
from fdi_lib.models.device import accelerator, arithmetic
from fdi_lib.models.passes import Passes
from fdi_lib.models.presets import ModelFolders
from fdi_lib.models.residents import ResidentAdapters
from fdi_lib.models.sampling import Schedule
from fdi_lib.models.speed import prepare
from fdi_lib.models.stable_diffusion import load_base
from fdi_lib.models.tiles import Tiling
from fdi_lib.training.measure import scores

STEPS, LONG_STEPS = (1, 2, 4, 8, 20), (1, 2, 4, 8, 20, 50)
WINDOWS = (1.0, 1 / 3)
_LEVELS = (0.5, 1.5)  # times the adapter's own
_STEPS_ELSEWHERE = (1, 4)  # at a level that is not the adapter's own
_FEWEST = 2  # tiles of any schedule
_FEW = 4  # steps: tiles for the first look shrink from so many, and contenders get all tiles up to so many
_CONTENDERS, _CONTENDS_DB = 8, 2.0  # so many best get more tiles than the first, if as near to the best of all

_FIGURES = ("psnr", "ssim", "seconds", "cpu_seconds")  # of each tile

Row = dict[str, Any]


def levels(own: float) -> list[float]:
    """The adapter's own start level, half of it, and half as much again (at most 1)."""
    return list(dict.fromkeys([own, *(min(1.0, round(own * factor, 4)) for factor in _LEVELS)]))


def with_steps(start: Schedule, steps: Iterable[int]) -> list[Schedule]:
    """Every number of steps with every window, from one start; those that guide the same steps count once."""
    return _different(replace(start, steps=n, guidance_window=window) for n in steps for window in WINDOWS)


def grid(own: Schedule, steps: Sequence[int]) -> list[Schedule]:
    """The schedules of an adapter, its own first, none twice.

    All starts at its own level (pure noise has level 1 only) with all numbers of steps and windows; at other levels one
    step and four, guided throughout.
    """
    wanted = [own]
    for init in get_args(Init):
        first, *others = [1.0] if init == "pure_noise" else levels(own.start_t)
        wanted += with_steps(Schedule(init, first, 1, 1.0), steps)
        wanted += [Schedule(init, level, n, 1.0) for level in others for n in _STEPS_ELSEWHERE if n in steps]
    return _different(wanted)


def _different(schedules: Iterable[Schedule]) -> list[Schedule]:
    found: dict[tuple[str, float, int, int], Schedule] = {}
    for one in schedules:
        found.setdefault((one.init, one.start_t, one.steps, one.guided_steps), one)
    return list(found.values())


class Sampler:
    """Restores tiles as a restorer does that is told the adapter, one pass a tile, but by any schedule.

    Args:
        folders: of base and adapters, which belong together.
        tile_px: side of the tiles.

    Raises:
        WeightsError: the base is missing or altered.
    """

    def __init__(self, folders: ModelFolders, tile_px: int) -> None:
        settings, device = RestoreSettings(tile_px=tile_px, overlap_px=tile_px // 32 * 8), accelerator()
        self._base = prepare(load_base(str(folders.base)).to(device), settings)
        self._dtype = arithmetic(settings.dtype, device)
        self._residents = ResidentAdapters(folders.adapters, self._base, len(folders.adapters), device)
        tiling = Tiling(self._base, tile_px, settings.overlap_px, 1, device)
        self._passes = Passes(self._base, tiling, self._residents.get, settings.fidelity)

    def own(self, name: str) -> Schedule:
        """The schedule in an adapter's configuration.

        Raises:
            AdapterLoadError: its files are missing or don't fit the base.
        """
        config = self._residents.get(name).config
        return Schedule(cast(Init, config.init), config.start_t, config.steps, config.guidance_window)

    def restored(self, name: str, sample: Sample, schedule: Schedule) -> np.ndarray:
        """The sample restored, uint8 HW3; what comes out not finite stays as it was. Errors as above."""
        image, weight = sample.pixels, np.ones(1, np.float32)
        (made,) = self._passes.run([image], (name,), [weight], [sample.noise_key], schedule, [image], self._dtype)
        return made.pixels if made.finite == 1 else image


def measured(
    sampler: Sampler,
    wanted: Sequence[tuple[str, Schedule]],
    samples: Sequence[Sample],
    rows: list[Row],
    keep: Callable[[], None],
) -> list[Row]:
    """The rows of the schedules wanted, in that order; what they lack is measured, added and kept.

    All are tried on the first few tiles; the best there, if near to the very best, are measured on more, the fewer the
    more steps they take.

    Args:
        sampler: that restores.
        wanted: adapter and schedule; the first one, with which the others are compared, is measured on all samples.
        samples: degraded tiles.
        rows: known so far: a schedule's fields, and of each tile ``psnr`` (dB), ``ssim``, ``seconds``, ``cpu_seconds``.
        keep: called when a row was added or has grown.
    """
    found = [_row(rows, schedule) for _, schedule in wanted]
    looks = [min(len(samples), max(_FEWEST, _FEW // schedule.steps)) for _, schedule in wanted]
    tried: set[str] = set()

    def extend(i: int, count: int) -> None:
        (name, schedule), row = wanted[i], found[i]
        if len(row["psnr"]) >= count:
            return
        if not row["psnr"]:
            rows.append(row)
        if name not in tried:  # what is done once for an adapter, or a process, is no schedule's
            sampler.restored(name, samples[0], replace(schedule, steps=1))
            tried.add(name)
        for sample in samples[len(row["psnr"]) : count]:
            for key, value in _figures(sampler, name, schedule, sample).items():
                row[key].append(value)
        keep()

    for i in range(len(wanted)):
        extend(i, looks[i] if i else len(samples))
    over = [float(_over(row, found[0], look).mean()) for row, look in zip(found, looks, strict=True)]
    for i in sorted(range(len(wanted)), key=lambda i: -over[i])[:_CONTENDERS]:
        if over[i] >= max(over) - _CONTENDS_DB:
            extend(i, min(len(samples), max(_FEWEST, len(samples) * _FEW // wanted[i][1].steps)))
    return found


def _row(rows: list[Row], schedule: Schedule) -> Row:
    """The row of a schedule, an empty one if it is new."""
    key = asdict(schedule)
    return next((row for row in rows if key.items() <= row.items()), key | {name: [] for name in _FIGURES})


def _over(row: Row, own: Row, count: int | None = None) -> np.ndarray:
    """PSNR of the first tiles less that of another row, dB; of all that both have, if ``count`` is not given."""
    pairs = zip(row["psnr"][:count], own["psnr"], strict=False)
    return np.array([mine - other for mine, other in pairs])


def _figures(sampler: Sampler, name: str, schedule: Schedule, sample: Sample) -> Row:
    began, began_cpu = time.perf_counter(), time.process_time()
    image = sampler.restored(name, sample, schedule)
    spent, spent_cpu = time.perf_counter() - began, time.process_time() - began_cpu
    psnr, ssim = (float(scores(score, [sample], [image])[0]) for score in (metrics.psnr, metrics.ssim))
    return dict(zip(_FIGURES, (round(psnr, 4), round(ssim, 4), round(spent, 6), round(spent_cpu, 6)), strict=True))


def compared(rows: Sequence[Row]) -> list[Row]:
    """The rows, best first, with ``rank`` and the comparison with the first one given, which ``is_own``.

    Each has the means ``mean_psnr`` and ``mean_ssim`` over its ``tiles``; ``over_own`` is the mean of PSNR less that of
    the first row on the same tiles, dB, by which they are sorted; ``better`` counts the tiles on which it is higher.
    ``time`` and ``cpu_time`` are the medians over tiles, over those of one step from the degraded latent at the first
    row's level.
    """
    own = rows[0]
    usual = next(row for row in rows if (row["init"], row["start_t"], row["steps"]) == ("input", own["start_t"], 1))
    told = []
    for row in rows:
        over = _over(row, own)
        told.append(row | {
            "is_own": row is own, "tiles": len(over), "over_own": float(over.mean()), "better": int((over > 0).sum()),
            "mean_psnr": float(np.mean(row["psnr"])), "mean_ssim": float(np.mean(row["ssim"])),
            "time": median(row["seconds"]) / median(usual["seconds"]),
            "cpu_time": median(row["cpu_seconds"]) / median(usual["cpu_seconds"]),
        })  # fmt: skip
    told.sort(key=lambda row: (-row["over_own"], row["steps"], not row["is_own"]))
    return [row | {"rank": rank} for rank, row in enumerate(told, 1)]


def summary(task: str, psnr_in: float, told: Sequence[Row]) -> Row:
    """What one task comes to: the adapter's own schedule with its rank, the best one and what it gains, dB."""
    best, own = told[0], next(row for row in told if row["is_own"])
    return {
        "task": task, "psnr_in": psnr_in, "own": schedule_text(own), "psnr_own": own["mean_psnr"], "rank": own["rank"],
        "of": len(told), "best": schedule_text(best), "difference_db": best["over_own"], "better": best["better"],
        "tiles": best["tiles"], "time": best["time"], "cpu_time": best["cpu_time"],
    }  # fmt: skip


def schedule_text(row: Row) -> str:
    """A row's schedule in words: start, level, steps, and how many of them are guided."""
    schedule = Schedule(row["init"], row["start_t"], row["steps"], row["guidance_window"])
    steps, guided = schedule.steps, schedule.guided_steps
    return f"{schedule.init} {schedule.start_t:g}, {steps} step{'s' * (steps > 1)}" + (
        f" ({guided} guided)" if guided < steps else ""
    )


def print_table(title: str, told: Sequence[Row], whose: str) -> None:
    """Print rows that were compared; the adapter's own, called ``whose``, is marked."""
    table = Table("rank", "start, level, steps", "tiles", "PSNR", f"over {whose}, dB", "better on", "SSIM", "time",
                  "CPU time", title=title)  # fmt: skip
    for row in told:
        table.add_row(
            str(row["rank"]), schedule_text(row) + f" <- {whose}" * row["is_own"], str(row["tiles"]),
            f"{row['mean_psnr']:.2f}", f"{row['over_own']:+.2f}", str(row["better"]), f"{row['mean_ssim']:.3f}",
            f"{row['time']:.1f}", f"{row['cpu_time']:.1f}", style="bold" if row["is_own"] else None,
        )  # fmt: skip
    Console(width=130).print(table)


def print_summary(rows: Sequence[Row], whose: str) -> None:
    """Print one line a task, as :func:`summary` gives them."""
    table = Table("task", "input", whose, "PSNR", "rank", "best", "difference, dB", "better on", "CPU time",
                  title=f"Best schedule and the one that is {whose}")  # fmt: skip
    for row in rows:
        table.add_row(
            row["task"], f"{row['psnr_in']:.2f}", row["own"], f"{row['psnr_own']:.2f}", f"{row['rank']} of {row['of']}",
            row["best"], f"{row['difference_db']:+.2f}", f"{row['better']} of {row['tiles']}", f"{row['cpu_time']:.1f}",
        )  # fmt: skip
    Console(width=130).print(table)
