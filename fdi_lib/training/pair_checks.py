"""Which pairs are fit to learn from: one report for each pair, with reasons and numbers, and the pairs that are left.

Left out are pairs without a counterpart, unreadable, of different sizes, smaller than a crop, misaligned, of different
pictures, without any damage, or there twice. Exposure is only remarked on: fading and low light *are* exposure shifts,
so what is odd is a pair that differs from its set. ``check_pair`` looks at one pair alone, anywhere; ``compare_all``
needs all reports (tiny). Does NOT know where the table goes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from fdi_lib.core.alignment import LIMIT_PX, align
from fdi_lib.core.floats import to_float_rgb
from fdi_lib.core.metrics import psnr
from fdi_lib.errors import ItemError
from fdi_lib.storage.pairs import PairRef, Read, Unpaired, decode_upright, read_pairs
from fdi_lib.storage.store import Store
from fdi_lib.training.crops import Pair
from fdi_lib.training.pairs import check_enough

_SAME = 1.5 / 255  # pictures whose samples differ by less nowhere are the same: no damage to learn from
_ODD_EV = 1.0  # exposure shifts that differ by less from the set's median are not remarked on ...
_ODD_SPREADS = 4.0  # ... nor those within so many of the set's standard deviations (from the median deviation)
_BLACK = 1 / 255


@dataclass(frozen=True)
class PairReport:
    """What was found of one pair; a row of the table.

    Args:
        name: the pair's.
        reasons: why it is left out, in words; empty when it is kept.
        remarks: what is odd about it, without being a reason.
        width: px of the clean picture, upright; 0 where it can't be read, like the other numbers.
        height: px.
        shift_px: (down, right), None where it can't be told.
        exposure_ev: log2 of degraded over clean mean brightness.
        psnr_db: of degraded against clean.
        degraded_hash: of the upright pixels.
        clean_hash: of the upright pixels.
        group: the first pair with the same clean picture; what a split keeps together.
    """

    name: str
    reasons: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    width: int = 0
    height: int = 0
    shift_px: tuple[float, float] | None = None
    exposure_ev: float = 0.0
    psnr_db: float = 0.0
    degraded_hash: str = ""
    clean_hash: str = ""
    group: str = ""

    @property
    def ok(self) -> bool:
        """Whether the pair is kept."""
        return not self.reasons


def check_pair(read: Read, crop_px: int, max_pixels_mp: float = 400) -> tuple[PairReport, Pair | None]:
    """Look at one pair; duplicates and odd exposures are told by :func:`compare_all`.

    Args:
        read: as :func:`fdi_lib.storage.pairs.read_pairs` gives it.
        crop_px: side of the crops that the pair has to give.
        max_pixels_mp: limit for one picture, megapixels.

    Returns:
        The report, and the decoded pictures (degraded, clean) of a pair that is kept.
    """
    sides, wrong = [], []
    for side, data in (("degraded", read.degraded), ("clean", read.clean)):
        try:
            if isinstance(data, ItemError):
                raise data
            sides.append(decode_upright(data, max_pixels_mp))
        except ItemError as error:
            wrong.append(f"{side}: {error}")
    if wrong:
        return PairReport(read.ref.name, tuple(wrong)), None
    report = check_pixels(read.ref.name, sides[0], sides[1], crop_px)
    return report, (sides[0], sides[1]) if report.ok else None


def check_pixels(name: str, degraded: np.ndarray, clean: np.ndarray, crop_px: int) -> PairReport:
    """Look at one decoded pair: HW or HW3, uint8 or uint16, upright."""
    height, width = clean.shape[:2]
    report = PairReport(name, (), (), width, height, None, 0.0, 0.0, _hash(degraded), _hash(clean))
    if degraded.shape[:2] != (height, width):
        there = f"{degraded.shape[1]} x {degraded.shape[0]} px"
        return replace(report, reasons=(f"sizes differ: degraded {there}, clean {width} x {height} px",))
    reasons = (
        [f"smaller than a crop: {width} x {height} px, a crop has {crop_px}"] if min(height, width) < crop_px else []
    )
    a, b = to_float_rgb(degraded), to_float_rgb(clean)
    if np.abs(a - b).max() < _SAME:
        return replace(report, reasons=(*reasons, "identical: degraded and clean are the same picture"), psnr_db=99.0)
    found, remarks = align(a, b), []
    if found.unrelated:
        reasons.append("different pictures: no part of one is found in the other")
    elif found.misaligned and found.shift_px is not None:
        length = float(np.hypot(*found.shift_px))
        how = f"by {length:.1f} px" if length >= LIMIT_PX else "in different directions (scale, or a turn)"
        reasons.append(f"misaligned {how}")
    elif found.shift_px is None:
        remarks.append("alignment can't be told")
    ev = float(np.log2(max(a.mean(), _BLACK) / max(b.mean(), _BLACK)))
    return replace(
        report,
        reasons=tuple(reasons),
        remarks=tuple(remarks),
        shift_px=found.shift_px,
        exposure_ev=round(ev, 2),
        psnr_db=round(float(psnr(a, b)), 2),
    )


def check_pairs(store: Store, refs: Iterable[PairRef], crop_px: int, max_pixels_mp: float = 400) -> list[PairReport]:
    """Read and check pairs one after the other, in this process; then compare them."""
    return compare_all([check_pair(read, crop_px, max_pixels_mp)[0] for read in read_pairs(store, refs)])


def report_unpaired(unpaired: Iterable[Unpaired]) -> list[PairReport]:
    """Reports of what never was a pair."""
    return [PairReport(item.name, (item.detail,)) for item in unpaired]


def compare_all(reports: Sequence[PairReport]) -> list[PairReport]:
    """Find duplicates, shared clean pictures and odd exposures among reports of one degradation; order is kept.

    A pair that is there twice is left out the second time. Several degraded versions of one clean picture are welcome,
    and form a group.
    """
    first_clean: dict[str, str] = {}
    first_pair: dict[tuple[str, str], str] = {}
    kept = [r.exposure_ev for r in reports if r.ok]
    middle = float(np.median(kept)) if kept else 0.0
    spread = 1.4826 * float(np.median(np.abs(np.array(kept) - middle))) if kept else 0.0
    compared = []
    for report in reports:
        if report.ok:
            key = (report.degraded_hash, report.clean_hash)
            twin = first_pair.setdefault(key, report.name)
            group = first_clean.setdefault(report.clean_hash, report.name)
            remarks = report.remarks
            if twin != report.name:
                report = replace(report, reasons=(f"duplicate of {twin}",))
            elif group != report.name:
                remarks += (f"same clean picture as {group}",)
            if abs(report.exposure_ev - middle) > max(_ODD_EV, _ODD_SPREADS * spread):
                remarks += (f"exposure shift of {report.exposure_ev:+.1f} EV, the set's median is {middle:+.1f}",)
            report = replace(report, remarks=remarks, group=group)
        compared.append(report)
    return compared


def accepted(refs: Iterable[PairRef], reports: Iterable[PairReport], uri: str, key: str = "data.uri") -> list[PairRef]:
    """Return the pairs that are kept, with their groups, in order.

    Raises:
        ManifestError: fewer than ``MIN_PAIRS`` are left.
    """
    by_name = {report.name: report for report in reports}
    found = [(ref, by_name[ref.name]) for ref in refs if ref.name in by_name]  # what came or went meanwhile is left out
    kept = [replace(ref, group=report.group) for ref, report in found if report.ok]
    bad = [report for report in by_name.values() if not report.ok]
    first = f", the first: {bad[0].name}: {bad[0].reasons[0]}" if bad else ""
    check_enough(len(kept), f"{len(bad)} left out{first}", "repair them, or add pairs", key, uri)
    return kept


COLUMNS = ("name", "status", *(f.name for f in fields(PairReport) if f.name not in ("name", "group")))


def table(reports: Iterable[PairReport]) -> str:
    """Reports as a TSV with a header; lists are joined by ``;``."""
    lines = ["\t".join(COLUMNS)]
    for report in reports:
        shift = "" if report.shift_px is None else "{:.2f},{:.2f}".format(*report.shift_px)
        row = {
            "status": "ok" if report.ok else "left_out",
            "reasons": "; ".join(report.reasons),
            "remarks": "; ".join(report.remarks),
            "shift_px": shift,
        }
        cells = (str(row.get(column, getattr(report, column, ""))) for column in COLUMNS)
        lines.append("\t".join(" ".join(cell.split()) for cell in cells))
    return "\n".join(lines) + "\n"


def _hash(pixels: np.ndarray) -> str:
    """Equal for the same pixels, whatever file they come from."""
    digest = hashlib.blake2b(f"{pixels.shape} {pixels.dtype}".encode(), digest_size=12)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
