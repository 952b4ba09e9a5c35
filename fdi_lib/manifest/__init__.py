"""Manifests: the one dial of every job. Importing this imports neither torch, ray, pyvips nor pyarrow."""

from fdi_lib.manifest.data import EvaluateDataSettings
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
from fdi_lib.manifest.restoring import AdapterSettings, GateSettings, RestoreSettings
from fdi_lib.manifest.settings import (
    CheckpointSettings,
    ClassifyPool,
    ClassifySettings,
    DecodePool,
    ImageSettings,
    Limits,
    ModelSettings,
    OutputSettings,
    Pools,
    RestorePool,
    SourceSettings,
    StorageSettings,
)

__all__ = [
    "KINDS",
    "AdapterSettings",
    "BankManifest",
    "BenchManifest",
    "CheckpointSettings",
    "ClassifyPool",
    "ClassifySettings",
    "DecodePool",
    "EvaluateDataSettings",
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
