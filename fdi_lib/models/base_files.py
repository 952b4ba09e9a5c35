"""Where a base's weights lie and what they are: a compact folder, or Stable Diffusion's. Loads no tensor."""

from __future__ import annotations

from pathlib import Path

from fdi_lib.errors import WeightsError
from fdi_lib.models.checkpoints import fetched, identity_of, is_repository, weight_files

COMPACT_FILE = "base.safetensors"
_PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
_OPTIONAL = {"text_encoder_2": "model"}  # SDXL has two
_VARIANTS = ("", ".fp16")
_CONFIGS = ["config.json", "model_index.json", "*/config.json", "scheduler/scheduler_config.json", "tokenizer*/*.json",
            "tokenizer*/*.txt"]  # fmt: skip


def fetch_base(uri: str, revision: str | None = None, sha256: str | None = None) -> Path:
    """Return a base's folder, from the Hub where ``uri`` is a repository's id, complete and as expected.

    Args:
        uri: folder, or id (``owner/name``) of a Hub repository.
        revision: commit (best), tag or branch of the repository.
        sha256: what :func:`base_sha256` must find, if known.

    Raises:
        WeightsError: it can't be had, lacks weights, holds only pickles, or has another hash.
    """
    folder = fetched(uri, revision, _patterns(_VARIANTS[0]))
    if is_repository(uri) and not is_compact(folder) and not _has(folder / "unet", _PARTS["unet"]):
        folder = fetched(uri, revision, _patterns(_VARIANTS[1]))
    base_files(folder)
    if sha256 is not None and sha256 != base_sha256(folder):
        raise WeightsError(
            f"{folder}: expected the base with sha256 {sha256}, found {base_sha256(folder)}; "
            "name the checkpoint that was meant, or its own hash"
        )
    return folder


def is_compact(folder: Path) -> bool:
    """Whether a folder holds a base of our own, not a Stable Diffusion checkpoint."""
    return (folder / COMPACT_FILE).is_file()


def base_files(folder: Path) -> list[Path]:
    """Weight files of a base, each part's in turn.

    Raises:
        WeightsError: there are none, a part is missing, or has only pickles.
    """
    if is_compact(folder):
        return [folder / COMPACT_FILE]
    if not (folder / "unet").is_dir():
        raise WeightsError(
            f"{folder}: expected {COMPACT_FILE} or a diffusers checkpoint (unet/, vae/, ...), found neither"
        )
    more = {part: stem for part, stem in _OPTIONAL.items() if (folder / part).is_dir()}
    return [path for part, stem in (_PARTS | more).items() for path in part_files(folder, part, stem)]


def part_files(folder: Path, part: str, stem: str) -> list[Path]:
    """Weight files of one part of a checkpoint; half-precision ones (``*.fp16.safetensors``) where there are no other.

    Raises:
        WeightsError: there are none, or only pickles.
    """
    found = [f"{stem}{variant}" for variant in _VARIANTS if _has(folder / part, f"{stem}{variant}")]
    return weight_files(folder / part, found[0] if found else stem)


def base_sha256(folder: Path) -> str:
    """Identity of a base: its file's SHA-256; of several files, that of their hashes and places, by place.

    Raises:
        WeightsError: weights are missing.
    """
    return identity_of(base_files(folder), folder)  # by place: unet and VAE call their files the same


def _has(folder: Path, stem: str) -> bool:
    return any((folder / f"{stem}.safetensors{end}").is_file() for end in ("", ".index.json"))


def _patterns(variant: str) -> list[str]:
    parts = (_PARTS | _OPTIONAL).items()
    weights = [f"{part}/{stem}{variant}{end}" for part, stem in parts
               for end in (".safetensors", ".safetensors.index.json", "-?????-of-?????.safetensors")]  # fmt: skip
    return [*_CONFIGS, COMPACT_FILE, *weights]
