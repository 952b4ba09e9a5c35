"""The demo's archive: a few photographs that scikit-image bundles, degraded, packed into tar shards, with their truth.

Deterministic to the byte. It does not know how the archive is restored; the truth lies beside the shards, never inside.
"""

from __future__ import annotations

import csv
import io
import tarfile
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np
import pyvips
import skimage.data

from fdi_lib.core.degrade import degrade
from fdi_lib.core.protocol import key_seed

SINGLES = ("noise", "jpeg", "haze", "low_light", "scratch")
MIXTURES = (("haze", "noise"), ("low_light", "scratch"))  # in the order in which the damage happens
_SHARDS = 4
_SIDE_PX = (256, 384)
_SEVERITY = (0.2, 0.9)
_COLOUR = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
_GREY = "camera.png"
_DPI = 300
_PNG_LEVEL = 1  # half the time of the default; noise doesn't get smaller anyway


@dataclass(frozen=True)
class Amounts:
    """How many images of each kind, and the single degradations; two scans and three broken files come on top."""

    single: int = 16
    mixture: int = 8
    clean: int = 24
    singles: tuple[str, ...] = SINGLES

    @property
    def images(self) -> int:
        """Images of the archive, the broken files among them."""
        return self.single * len(self.singles) + self.mixture * len(MIXTURES) + self.clean + 5


@dataclass(frozen=True)
class Truth:
    """One image of the archive: what was done to it, and where its clean reference is."""

    image_id: str
    applied: str  # degradations in order of damage joined by ">"; "" for none
    reference: str  # path below the demo's folder; "" for a broken file
    broken: str = ""  # why it cannot be read; "" for an image

    @property
    def names(self) -> tuple[str, ...]:
        """The degradations applied, in order."""
        return tuple(n for n in self.applied.split(">") if n)


@dataclass(frozen=True)
class _Member:
    name: str
    data: bytes
    applied: tuple[str, ...] = ()
    reference: np.ndarray | None = None
    broken: str = ""


def make_archive(directory: Path, amounts: Amounts = Amounts()) -> list[Truth]:
    """Write ``archive/*.tar``, ``reference/*.png``, then ``truth.tsv`` below ``directory``; or read what is there."""
    table = directory / "truth.tsv"
    if table.is_file():
        with table.open(newline="") as lines:
            return [Truth(**row) for row in csv.DictReader(lines, delimiter="\t")]
    members = [*_degraded(amounts), *_clean(amounts.clean), *_scans(), *_broken()]
    order = np.random.default_rng(0).permutation(len(members))  # so that every shard holds a bit of everything
    for folder in ("archive", "reference"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    truths: list[Truth] = []
    for shard in range(_SHARDS):
        name = f"box-{shard}.tar"
        with tarfile.open(directory / "archive" / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for member in (members[i] for i in order[shard::_SHARDS]):
                info = tarfile.TarInfo(member.name)
                info.size = len(member.data)
                tar.addfile(info, io.BytesIO(member.data))
                truths.append(_keep(directory, f"{name}/{member.name}", member))
    with table.open("w", newline="") as out:
        writer = csv.DictWriter(out, [f.name for f in fields(Truth)], delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(t) for t in truths)
    return truths


def _keep(directory: Path, image_id: str, member: _Member) -> Truth:
    """Write a member's clean reference; return its line of the truth table."""
    reference = ""
    if member.reference is not None:
        reference = f"reference/{Path(member.name).stem}.png"
        _picture(member.reference).pngsave(str(directory / reference), compression=_PNG_LEVEL)
    return Truth(image_id, ">".join(member.applied), reference, member.broken)


def _degraded(amounts: Amounts) -> list[_Member]:
    kinds: list[tuple[str, ...]] = [(name,) for name in amounts.singles for _ in range(amounts.single)]
    kinds += [pair for pair in MIXTURES for _ in range(amounts.mixture)]
    members = []
    for i, applied in enumerate(kinds):
        clean = _crop(_COLOUR[i % len(_COLOUR)], i)
        name = f"{'-'.join(applied)}-{i:03d}.png"
        members.append(_Member(name, _png(_quantise(_damage(clean, applied, i), 255)), applied, clean))
    return members


def _clean(count: int) -> list[_Member]:
    """Half as PNG, half as JPEG of a quality at which nothing can be seen."""
    members = []
    for i in range(count):
        clean = _crop(_COLOUR[i % len(_COLOUR)], 1000 + i)
        jpeg = i % 2
        data = _picture(clean).jpegsave_buffer(Q=97, subsample_mode="off") if jpeg else _png(clean)
        members.append(_Member(f"clean-{i:03d}.{'jpg' if jpeg else 'png'}", data, (), clean))
    return members


def _scans() -> list[_Member]:
    """A scratched grey scan of 8 bits and a noisy colour scan of 16 bits, both TIFF with their resolution."""
    grey, colour = _crop(_GREY, 2000), _crop("coffee.png", 2001)
    scratched = _quantise(_damage(np.repeat(grey[..., None], 3, axis=2), ("scratch",), 2000)[..., 1], 255)
    noisy = _quantise(_damage(colour, ("noise",), 2001), 65535)
    return [
        _Member("scan-grey.tif", _tiff(scratched), ("scratch",), grey),
        _Member("scan-16bit.tif", _tiff(noisy), ("noise",), colour),
    ]


def _broken() -> list[_Member]:
    whole = _picture(_crop("astronaut.png", 3000)).jpegsave_buffer(Q=95)
    return [
        _Member("cut-short.jpg", whole[: len(whole) // 2], broken="truncated"),
        _Member("empty.png", b"", broken="empty_file"),
        _Member("letter.png", b"Dear archivist, this is a text and not a picture.\n", broken="not_an_image"),
    ]


def _crop(file: str, key: int) -> np.ndarray:
    """Cut a rectangle at a place and of a size that depend on the key; uint8 HW or HW3."""
    picture = _load(file)
    rng = np.random.default_rng(key_seed("crop", file, key))
    height, width = (int(rng.integers(_SIDE_PX[0], min(_SIDE_PX[1], side) + 1)) for side in picture.shape[:2])
    top, left = (int(rng.integers(0, s - n + 1)) for s, n in zip(picture.shape[:2], (height, width), strict=True))
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


@cache
def _load(file: str) -> np.ndarray:
    picture = pyvips.Image.new_from_file(str(Path(skimage.data.__file__).parent / file)).numpy()
    return np.asarray(picture[..., :3] if picture.ndim == 3 else picture)


def _damage(clean: np.ndarray, names: tuple[str, ...], key: int) -> np.ndarray:
    image = clean.astype(np.float32) / 255
    for name in names:
        rng = np.random.default_rng(key_seed("damage", name, key))
        image = degrade(name, image, rng, float(rng.uniform(*_SEVERITY)))
    return image


def _quantise(image: np.ndarray, top: int) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * top).astype(np.uint8 if top == 255 else np.uint16)


def _picture(pixels: np.ndarray) -> pyvips.Image:
    grey, deep = pixels.ndim == 2, pixels.dtype == np.uint16
    space = ("grey16" if deep else "b-w") if grey else ("rgb16" if deep else "srgb")
    return pyvips.Image.new_from_array(np.ascontiguousarray(pixels), interpretation=space)


def _png(pixels: np.ndarray) -> bytes:
    return bytes(_picture(pixels).pngsave_buffer(compression=_PNG_LEVEL))


def _tiff(pixels: np.ndarray) -> bytes:
    per_mm = _DPI / 25.4
    return bytes(_picture(pixels).copy(xres=per_mm, yres=per_mm).tiffsave_buffer(compression="deflate", resunit="inch"))
