"""Which encoder a setting means, where its files lie and what it is: the compact one's folder, or a BLIP-2 checkpoint.

The one place that tells them apart. Finding one reads configurations and, for its identity, hashes files; tensors are
read by :meth:`EncoderFiles.load` alone, where the model lives.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdi_lib.core.views import ViewSpec
from fdi_lib.errors import WeightsError
from fdi_lib.manifest import CheckpointSettings
from fdi_lib.models import blip2
from fdi_lib.models.checkpoints import fetched, identity_of, is_repository
from fdi_lib.models.configs import read_config
from fdi_lib.models.device import accelerator

if TYPE_CHECKING:
    from fdi_lib.models.encoder import Encoder

log = logging.getLogger(__name__)
COMPACT_FILE = "encoder.safetensors"


@dataclass(frozen=True)
class EncoderFiles:
    """An encoder that was found.

    Args:
        origin: where; workers on other machines find it there themselves.
        folder: that holds the files on this machine.
        weights: files with its tensors.
        config: as :class:`Encoder` takes it.
    """

    origin: CheckpointSettings
    folder: Path
    weights: tuple[Path, ...]
    config: dict[str, Any]

    @property
    def view_spec(self) -> ViewSpec:
        """The views that it takes."""
        return ViewSpec.from_encoder(self.config)

    @cached_property
    def sha256(self) -> str:
        """Its identity, in banks, adapters and ``run.json``: see :func:`fdi_lib.models.checkpoints.identity_of`."""
        return identity_of(self.weights)

    def load(self) -> Encoder:
        """Load it, frozen, onto the accelerator: float32, but on a GPU a BLIP-2's vision model is float16.

        That is what BLIP-2 was trained in; its Q-Former, and every mean of features, stays in float32.

        Raises:
            WeightsError: tensors are missing, too many or of other shapes.
        """
        from fdi_lib.models.encoder import Encoder  # transformers is imported only where a model lives

        if self.weights[0].name == COMPACT_FILE:
            return Encoder.from_pretrained(self.folder).to(accelerator())
        encoder, device = blip2.read_encoder(self.weights, self.config), accelerator()
        if device.type == "cuda":
            encoder.vision_model.half()
        return encoder.to(device)


def find_encoder(encoder: CheckpointSettings | Path | str) -> EncoderFiles:
    """Find an encoder; from the Hub, fetch what is needed of it.

    Args:
        encoder: a folder (``encoder.safetensors``, or a BLIP-2 checkpoint), or the id of a Hub repository with either.

    Raises:
        WeightsError: there is none, its files are of another kind, or not those that ``sha256`` says.
    """
    given = encoder if isinstance(encoder, CheckpointSettings) else CheckpointSettings(uri=str(encoder))
    folder = _from_hub(given) if is_repository(given.uri) else fetched(given.uri, None, ())
    if (folder / COMPACT_FILE).is_file():
        found = EncoderFiles(given, folder, (folder / COMPACT_FILE,), read_config(folder))
    elif (folder / "config.json").is_file():
        found = EncoderFiles(given, folder, tuple(blip2.encoder_files(folder)), blip2.encoder_config(folder))
    else:
        raise WeightsError(
            f"models.encoder: {folder / COMPACT_FILE} not found, nor config.json of a BLIP-2 checkpoint; reinstall "
            "fdi-restore, or set models.encoder to a folder or Hub id of either"
        )
    if given.sha256 not in (None, found.sha256):
        named = found.weights[0] if len(found.weights) == 1 else f"{folder}, {len(found.weights)} files together"
        raise WeightsError(f"models.encoder: {named}: expected sha256 {given.sha256}, found {found.sha256}")
    return found


def load_encoder(encoder: CheckpointSettings | Path | str) -> Encoder:
    """Find and load an encoder; see :func:`find_encoder` and :meth:`EncoderFiles.load`."""
    return find_encoder(encoder).load()


def _from_hub(given: CheckpointSettings) -> Path:
    """Fetch small files first: they say which of the large ones hold the encoder; a language model's stay there."""
    if given.revision is None and given.sha256 is None:
        log.warning("models.encoder: %s: no revision given; its weights may change between runs", given.uri)
    folder = fetched(given.uri, given.revision, blip2.CONFIG_FILES)
    if not (folder / "config.json").is_file():
        raise WeightsError(f"models.encoder: {given.uri}: no config.json; expected a BLIP-2 or a compact encoder")
    wanted = blip2.file_names(folder) if blip2.is_blip2(folder) else [COMPACT_FILE]
    return fetched(given.uri, given.revision, ["config.json", *wanted])
