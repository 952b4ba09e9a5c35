"""A small preset with random weights, saved as a preset is, for the tests of everything that loads models."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fdi_lib.core.similarity import Thresholds
from fdi_lib.manifest import ModelSettings
from fdi_lib.models.adapter import AdapterConfig, FDIAdapter
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.base import Base
from fdi_lib.models.checkpoints import file_sha256
from fdi_lib.models.encoder import COMPACT, Encoder
from fdi_lib.models.entry import Content, Entry
from fdi_lib.models.stable_diffusion import load_base
from tests.tiny_checkpoints import KINDS, save_checkpoint

NAMES = ("haze", "jpeg", "noise")


@pytest.fixture(scope="session")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with encoder, base, bank and three adapters whose outputs differ from the bare base's."""
    root = tmp_path_factory.mktemp("preset")
    torch.manual_seed(0)
    Base.compact().save_pretrained(root / "base")
    encoder = Encoder(COMPACT)
    encoder.save_pretrained(root / "encoder")
    encoder_sha256 = file_sha256(root / "encoder" / "encoder.safetensors")
    rng, count, width = np.random.default_rng(0), len(NAMES), 2 * encoder.token_shape[1]
    entries = tuple(
        Entry(name, rng.normal(size=(16, 128)).astype(np.float32), 9 * rng.normal(size=width),
              rng.normal(size=width) / width**0.5, 1.0, 1, 9 * rng.normal(size=(8, width)))
        for name in NAMES
    )  # fmt: skip
    thresholds = Thresholds(
        np.zeros(count), np.full(count, 3.0), 400.0, np.ones(count), np.full(count, 1e9), np.full(count, 3.0), 0.5, 1.0
    )
    content = Content(np.zeros(width), np.eye(width), np.zeros((width, width)))
    nothing = np.zeros((0, width)), np.zeros((0, count), bool)
    clean = rng.normal(size=(500, width)), np.ones(500), np.zeros(500, bool)
    bank = ReferenceBank(entries, content, *clean, *nothing, 0.01, encoder_sha256, calibrated=(thresholds, thresholds))
    bank.save_pretrained(root / "bank")
    for name in NAMES:
        config = AdapterConfig(
            name,
            (48, 96, 128, 160),
            base_sha256=file_sha256(root / "base" / "base.safetensors"),
            encoder_sha256=encoder_sha256,
        )
        adapter = FDIAdapter(config, torch.from_numpy(bank.tokens_of(name)))
        for parameter in adapter.parameters():
            torch.nn.init.normal_(parameter, std=0.03)
        adapter.save_pretrained(root / "adapters" / name)
    return root


@pytest.fixture(scope="session")
def models(preset: Path) -> ModelSettings:
    """Settings that name the small preset."""
    return ModelSettings(
        preset="custom",
        encoder={"uri": str(preset / "encoder")},
        base={"uri": str(preset / "base")},
        bank=str(preset / "bank"),
        adapters=str(preset / "adapters"),
    )


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny checkpoints by kind: sd15, sd21, sdxl."""
    return {kind: save_checkpoint(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture(scope="session")
def bases(folders) -> dict[str, Base]:
    """Return those checkpoints as bases."""
    return {kind: load_base(str(folder)) for kind, folder in folders.items()}
