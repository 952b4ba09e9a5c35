"""Model checkpoints in the Hugging Face layout: where they lie, which file holds a tensor, what they are.

Only safetensors is ever read; a checkpoint that has nothing but pickles is refused. Knows no model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from fdi_lib.errors import WeightsError

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def is_repository(uri: str) -> bool:
    """Whether this is the id (``owner/name``) of a Hub repository, and no folder at hand."""
    return not Path(uri).is_dir() and _REPOSITORY.fullmatch(uri) is not None


def fetched(uri: str, revision: str | None, patterns: Collection[str]) -> Path:
    """Return the folder of a checkpoint: a path as it is, a Hub repository's files in the Hub's cache.

    Args:
        uri: folder, or id of a repository.
        revision: commit (best), tag or branch of the repository.
        patterns: of the files that are needed (``*.json`` and ``*.safetensors`` of some folders); no other is fetched.

    Raises:
        WeightsError: no such folder, or the Hub doesn't have it.
    """
    if not is_repository(uri):
        if not Path(uri).is_dir():
            raise WeightsError(f"{uri}: no such folder; name a folder, or a Hub repository as owner/name")
        return Path(uri)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(uri, revision=revision, allow_patterns=list(patterns)))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"{uri}: no folder, and not to be had from the Hub ({reason})") from error


def weight_files(folder: Path, stem: str, wanted: Callable[[str], bool] = lambda _: True) -> list[Path]:
    """Files of a model's weights: ``STEM.safetensors``, or the shards that ``STEM.safetensors.index.json`` names.

    Args:
        folder: that holds them.
        stem: of their names.
        wanted: of shards, only those are named, and must be there, that hold a tensor with such a name.

    Raises:
        WeightsError: there are none, or only pickles, or a shard is missing.
    """
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        shards = shards_of(index, wanted)
        missing = [path for path in shards if path.parent != folder or not path.is_file()]
        if missing:
            raise WeightsError(f"{index}: {missing[0].name} is missing beside it")
        return shards
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise WeightsError(
            f"{folder}: only {pickles[0]}, which may hold code and is never read; convert it to safetensors"
        )
    raise WeightsError(f"{single}: not found; only safetensors is ever read")


def shards_of(index: Path, wanted: Callable[[str], bool]) -> list[Path]:
    """The shards that an index names for tensors with wanted names; they need not be there.

    Raises:
        WeightsError: there are none, or this is no index.
    """
    try:
        names = {file for tensor, file in json.loads(index.read_text())["weight_map"].items() if wanted(tensor)}
    except (ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{index}: no index of shards ({error!r})") from error
    if not names:
        raise WeightsError(f"{index}: names no tensor of this model")
    return sorted(index.parent / name for name in names)


def tensor_names(files: Iterable[Path]) -> list[str]:
    """Names of all tensors, without reading any.

    Raises:
        WeightsError: a file is damaged, a broken download, say.
    """
    names: list[str] = []
    for path in files:
        try:
            with safe_open(path, framework="pt") as weights:
                names += weights.keys()
        except SafetensorError as error:
            raise WeightsError(f"{path}: damaged ({error}); fetch it again") from error
    return names


def read_tensors(files: Iterable[Path], prefixes: Iterable[str] = ("",)) -> dict[str, torch.Tensor]:
    """Read the tensors whose names begin with one of the prefixes, and no others; names are kept."""
    wanted = tuple(prefixes)
    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (no mapping)
                if name.startswith(wanted):
                    tensors[name] = weights.get_tensor(name)
    return tensors


def fill(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], what: str, dtype: torch.dtype) -> None:
    """Load tensors into a module and freeze it: every key must be there, with its shape, and no other.

    Args:
        module: with parameters of any kind, on the meta device too.
        tensors: by the module's own names.
        what: the checkpoint, for messages.
        dtype: of floating-point tensors, once loaded.

    Raises:
        WeightsError: keys or shapes are others; names the first.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        wrong = sorted({name for name, _ in expected.items() ^ found.items()})
        raise WeightsError(
            f"{what}: {len(wrong)} tensors don't fit; {wrong[0]}: expected {expected.get(wrong[0])}, "
            f"found {found.get(wrong[0])}"
        )
    module.load_state_dict({k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}, assign=True)
    module.eval().requires_grad_(False)


@lru_cache(maxsize=256)
def file_sha256(path: Path) -> str:
    """SHA-256 of a weights file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def identity_of(files: Iterable[Path], root: Path | None = None) -> str:
    """Identity of weights: a single file's SHA-256; of several files, that of what ``sha256sum FILES`` prints, by name.

    Args:
        files: of one model.
        root: names are paths below it; None takes the last part, where all files lie in one folder.
    """
    listed = sorted((path.relative_to(root).as_posix() if root else path.name, file_sha256(path)) for path in files)
    if len(listed) == 1:
        return listed[0][1]
    return hashlib.sha256("".join(f"{sha256}  {name}\n" for name, sha256 in listed).encode()).hexdigest()
