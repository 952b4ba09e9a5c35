"""Manifests: the one dial of every job. Importing this imports neither torch, ray, pyvips nor pyarrow."""

from fdi_lib.manifest.kinds import (
    KINDS,
    BankManifest,
    BenchManifest,
    EvaluateManifest,
    Manifest,
    RestoreManifest,
    TrainManifest,
)
from fdi_lib.manifest.load import load_manifest
from fdi_lib.manifest.settings import (
    CheckpointSettings,
    ClassifyPool,
    ClassifySettings,
    DecodePool,
    GateSettings,
    ImageSettings,
    Limits,
    ModelSettings,
    OutputSettings,
    Pools,
    RestorePool,
    RestoreSettings,
    SourceSettings,
    StorageSettings,
)

__all__ = [
    "KINDS",
    "BankManifest",
    "BenchManifest",
    "CheckpointSettings",
    "ClassifyPool",
    "ClassifySettings",
    "DecodePool",
    "EvaluateManifest",
    "GateSettings",
    "ImageSettings",
    "Limits",
    "Manifest",
    "ModelSettings",
    "OutputSettings",
    "Pools",
    "RestoreManifest",
    "RestorePool",
    "RestoreSettings",
    "SourceSettings",
    "StorageSettings",
    "TrainManifest",
    "load_manifest",
]
