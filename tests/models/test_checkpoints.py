import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fdi_lib.errors import WeightsError
from fdi_lib.models.checkpoints import (
    fetched,
    file_sha256,
    fill,
    identity_of,
    is_repository,
    read_tensors,
    weight_files,
)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    save_file({"vision.a": torch.ones(2), "text.b": torch.ones(3)}, tmp_path / "model-1-of-2.safetensors")
    save_file({"vision.c": torch.zeros(2)}, tmp_path / "model-2-of-2.safetensors")
    places = {"vision.a": "model-1-of-2.safetensors", "text.b": "model-1-of-2.safetensors"}
    index = {"weight_map": places | {"vision.c": "model-2-of-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def test_shards_are_found_by_their_index_and_read_by_prefix(shards):
    files = weight_files(shards, "model")
    assert [path.name for path in files] == ["model-1-of-2.safetensors", "model-2-of-2.safetensors"]
    assert set(read_tensors(files, ["vision."])) == {"vision.a", "vision.c"}
    assert set(read_tensors(files)) == {"vision.a", "vision.c", "text.b"}


def test_a_missing_shard_is_named(shards):
    (shards / "model-2-of-2.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model-2-of-2\.safetensors is missing"):
        weight_files(shards, "model")


def test_an_index_never_leads_out_of_the_folder(shards):
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    (shards.parent / "other.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="missing beside it"):
        weight_files(shards, "model")


def test_pickles_are_refused_by_name(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"only pytorch_model\.bin.*never read"):
        weight_files(tmp_path, "model")
    with pytest.raises(WeightsError, match=r"diffusion\.safetensors: not found"):
        weight_files(tmp_path / "none", "diffusion")


def test_identity_is_the_hash_of_one_file_or_of_the_list(shards):
    one, two = weight_files(shards, "model")
    assert identity_of([one]) == file_sha256(one) == hashlib.sha256(one.read_bytes()).hexdigest()
    assert identity_of([one, two]) == identity_of([two, one])
    assert len({identity_of([one]), identity_of([two]), identity_of([one, two])}) == 3


def test_filling_is_strict_and_freezes():
    layer = nn.Linear(2, 1)
    fill(layer, {"weight": torch.ones(1, 2, dtype=torch.float16), "bias": torch.zeros(1)}, "x", torch.float32)
    assert layer.weight.dtype == torch.float32 and not layer.weight.requires_grad and not layer.training
    with pytest.raises(WeightsError, match=r"x: 1 tensors don't fit; bias: expected \(1,\), found None"):
        fill(layer, {"weight": torch.ones(1, 2)}, "x", torch.float32)


def test_a_folder_wins_over_a_repository_and_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_repository("owner/name") and not is_repository("a/b/c")
    Path("owner/name").mkdir(parents=True)
    assert not is_repository("owner/name")
    assert fetched("owner/name", None, ["*.json"]) == Path("owner/name")
    with pytest.raises(WeightsError, match="no such folder"):
        fetched("/not/here", None, ["*.json"])
