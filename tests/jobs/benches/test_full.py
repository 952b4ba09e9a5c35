"""Section ``full_size``: tiny shapes go through it on the CPU; the real ones need a GPU. Never how long it took."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import BenchManifest, RestoreSettings, load_manifest
from fdi_lib.models import speed
from fdi_lib.models.base import Base
from jobs import bench
from jobs.benches import full
from jobs.benches.full_shapes import FULL, SD21, SDXL, Shapes

pytestmark = pytest.mark.timeout(900)  # tracing two UNets takes a busy machine minutes
MANIFEST = Path(__file__).parents[3] / "manifests/bench/full-gpu.yaml"
_VAE = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
TINY = Shapes(
    (
        dataclasses.replace(SD21, vae=SD21.vae | _VAE, tokens=3, unet=SD21.unet | {
            "block_out_channels": (16, 16, 16, 16), "norm_num_groups": 4, "attention_head_dim": 2,
            "cross_attention_dim": 8, "sample_size": 8}),
        dataclasses.replace(SDXL, vae=SDXL.vae | _VAE, tokens=3, pooled=8, unet=SDXL.unet | {
            "block_out_channels": (16, 16, 16), "norm_num_groups": 4, "attention_head_dim": 2, "sample_size": 8,
            "cross_attention_dim": 8, "transformer_layers_per_block": 1, "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 6 * 4 + 8}),
    ),
    {
        "vision": {"image_size": 32, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 1,
                   "num_attention_heads": 2, "intermediate_size": 16, "initializer_range": 0.02},
        "qformer": {"encoder_hidden_size": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                    "intermediate_size": 16},
        "query_tokens": 2, "crops": 4, "detail_gain": 0.0,
    },
    matrix=64, batches=(1, 2), steps=(1, 2), repeats=1, images=2, needs_gpu=False,
    ways={"as set": {}, "channels last": {"channels_last": True}},
)  # fmt: skip
SETTINGS = RestoreSettings(tile_px=64, overlap_px=16, dtype="bf16")


def manifest_for(folder: Path, **settings: Any) -> BenchManifest:
    base = {"kind": "bench", "sections": ["full_size"], "output": str(folder / "out")}
    return BenchManifest.model_validate(base | {"restore": SETTINGS.model_dump()} | settings)


def test_tiny_shapes_go_through_the_whole_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = bench.run(manifest_for(tmp_path), shapes=TINY)
    assert json.loads((tmp_path / "out/bench.json").read_text()) == result
    assert json.loads((tmp_path / "out/full_size.json").read_text())["full_size"] == result["full_size"]
    rows, rate = result["full_size"], result["device"]["matrix_tflops"]
    assert rate > 0 and result["device"]["torch"] == torch.__version__
    combinations = [(batch, steps) for batch in (1, 2) for steps in (1, 2)]
    first, _ = TINY.ways
    for model in ("SD 2.1", "SDXL"):
        theirs = {(r["batch"], r["steps"]): r for r in rows if (r["model"], r["way"]) == (model, full.DIFFUSERS)}
        assert list(theirs) == combinations and all(row["tiles_per_s"] > 0 for row in theirs.values())
        for way in TINY.ways:
            ours = [row for row in rows if (row["model"], row["way"]) == (model, way)]
            assert [(r["batch"], r["steps"]) for r in ours] == combinations[0 if way == first else 2 :]
            for row in ours:
                flop = row["tflop"]
                whole = flop["encode"] + row["steps"] * flop["unet"] + flop["decode"]
                assert row["finite"] and row["share"] == pytest.approx(row["tiles_per_s"] * whole / rate, abs=1e-4)
                other = theirs[row["batch"], row["steps"]]["tiles_per_s"]
                assert row["over_diffusers"] == pytest.approx(row["tiles_per_s"] / other, abs=1e-3)
                assert set(flop) == {"encode", "guidance", "unet", "refine", "decode"}
                parts = dict(row["ms"])
                rest = parts.pop("rest") + sum(parts.values()) + (row["steps"] - 1) * parts["unet"]
                assert set(parts) == set(flop) and rest == pytest.approx(1000 / row["tiles_per_s"], rel=0.01)
                assert all(flop.values()) and row["adapter_load_s"] > 0 and row["first_s"] > 0
    (encoder,) = (row for row in rows if row["model"] == "BLIP-2 encoder")
    assert encoder["images_per_s"] > 0
    printed = capsys.readouterr().out
    assert "Full size" in printed and "share" in printed and "decode" in printed and "matrix_tflops" in printed


def test_timing_the_parts_compiles_nothing_more(tmp_path: Path, graphs_only: None) -> None:
    counters.clear()
    ways = {"compiled": {"compile": "default", "vae": "dtype"}}
    full.measure(SETTINGS, tmp_path, dataclasses.replace(TINY, bases=TINY.bases[:1], batches=(2,), ways=ways))
    assert counters["stats"]["unique_graphs"] == 1 + 3  # a trifle; encoder, decoder and guided UNet, once each


def test_what_does_not_fit_is_none_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predict = Base.predict_clean

    def short_of_memory(self: Base, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if len(z) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(self, z, t)

    monkeypatch.setattr(Base, "predict_clean", short_of_memory)
    rows, _ = full.measure(SETTINGS, tmp_path, dataclasses.replace(TINY, steps=(1,), ways={"as set": {}}))
    ours = [row for row in rows if row["way"] == "as set" and "steps" in row]
    assert [(row["batch"], row["tiles_per_s"] is None) for row in ours] == [(1, False), (2, True)] * 2
    main, parts = full.tables(rows).values()
    assert len(main) == 1 + len(rows) and len(parts) == 1 + 2


def test_a_way_that_fails_is_a_row_that_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no g++")

    monkeypatch.setattr(speed.torch, "compile", fails)
    ways = {"compiled": {"compile": "default"}, "as set": {}}
    rows, _ = full.measure(SETTINGS, tmp_path, dataclasses.replace(TINY, batches=(1,), steps=(1,), ways=ways))
    assert ["no g++" in row.get("error", "") for row in rows if row["way"] in ways][1:] == [True, True, False, False]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_without_a_gpu_it_is_refused_before_anything_is_measured(tmp_path: Path, capsys) -> None:
    gpu = load_manifest(str(MANIFEST), [f"output={tmp_path / 'out'}"])
    assert isinstance(gpu, BenchManifest)
    with pytest.raises(ManifestError, match=r"sections: .*needs a GPU.*; run it on a machine with a CUDA device"):
        bench.run(gpu)
    assert full.main([str(tmp_path / "out")]) == 2
    assert "needs a GPU" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_it_needs_neither_ray_nor_what_reads_images() -> None:
    code = (
        "import sys, jobs.benches.full; print(sorted({'ray', 'pyarrow', 'pyvips', 's3fs', 'rich'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=MANIFEST.parents[2]
    )
    assert out.stdout.strip() == "[]"


def test_the_shapes_are_the_published_ones() -> None:
    counts = []
    for shape in FULL.bases:
        unet, vae = shape.networks(torch.device("meta"))
        counts += [sum(p.numel() for p in network.parameters()) for network in (unet, vae)]
    assert counts == [865_910_724, 83_653_863, 2_567_463_684, 83_653_863]


@pytest.mark.gpu
@pytest.mark.timeout(1800)
def test_the_real_thing_runs_on_a_gpu(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("NOT RUN: full size needs a CUDA device, and this process sees none")
    ways = dict(list(FULL.ways.items())[:3])
    shapes = dataclasses.replace(FULL, batches=(4,), steps=(1,), repeats=1, ways=ways)
    rows, about = full.measure(RestoreSettings(dtype="bf16"), tmp_path, shapes)
    assert about["matrix_tflops"] > 10
    ours = [row for row in rows if row["way"] in ways and "steps" in row]
    assert len(ours) == 6 and all(row["tiles_per_s"] > 0 and row["finite"] for row in ours)
