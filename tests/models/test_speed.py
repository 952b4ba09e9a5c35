"""Compiled and laid out otherwise, a base computes the same, whatever adapter guides it; bits may differ."""

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from fdi_lib.core.decision import Decision
from fdi_lib.errors import ManifestError
from fdi_lib.manifest import ClassifySettings, RestoreManifest, RestoreSettings
from fdi_lib.models import speed
from fdi_lib.models.adapter import AdapterConfig, FDIAdapter
from fdi_lib.models.attach import attached
from fdi_lib.models.base import COMPACT_SCHEDULE, COMPACT_UNET, Base
from fdi_lib.models.restorer import Restorer
from fdi_lib.models.stable_diffusion import load_base
from jobs.parts import numeric_profile
from tests.tiny_checkpoints import KINDS

IMAGE = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
COMPILED = RestoreSettings(compile="default")
FAST = RestoreSettings(compile="default", channels_last=True)


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def _adapters(base: Base, **form) -> list[FDIAdapter]:
    """Two that change what the base says, by as much as its own output."""
    torch.manual_seed(0)
    configs = [AdapterConfig.for_base(base, name, (8, 32), **form) for name in ("haze", "noise")]
    made = [FDIAdapter(config, torch.randn(config.fdi_shape)) for config in configs]
    for adapter in made:
        for parameter in adapter.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return made


@torch.inference_mode()
def _passes(base: Base, adapters: list[FDIAdapter]) -> list[torch.Tensor]:
    """A whole pass guided by each adapter, and one that isn't guided."""
    z, t_B = base.encode(IMAGE), torch.tensor([400, 400])
    made = []
    for adapter in adapters:
        with attached(base, adapter.guidance(IMAGE)):
            made.append(base.decode(base.predict_clean(z, t_B)))
    return [*made, base.decode(base.predict_clean(z, t_B))]


@pytest.mark.slow  # a C++ compiler at work
@pytest.mark.timeout(1200)
def test_compiled_and_channels_last_agree_on_a_small_base():
    torch.manual_seed(0)
    small = {
        "block_out_channels": [16, 32],
        "down_block_types": ["DownBlock2D"] * 2,
        "up_block_types": ["UpBlock2D"] * 2,
    }
    base = Base._of(COMPACT_UNET | small, COMPACT_SCHEDULE).eval().requires_grad_(False)
    adapters = _adapters(base, widths=(16, 16), blocks=(1, 1))
    expected = _passes(base, adapters)
    found = _passes(speed.prepare(base, FAST), adapters)
    assert base.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert counters["stats"]["unique_graphs"] > 0
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected[0], expected[1], atol=1e-2) and not torch.allclose(expected[0], expected[2])


def test_another_adapter_compiles_nothing_and_guides_as_it_should(folders, graphs_only):
    base = load_base(folders["sd21"])
    adapters = _adapters(base)
    expected = _passes(base, adapters)
    found = _passes(speed.prepare(base, COMPILED), adapters)
    compiled = counters["stats"]["unique_graphs"]
    # The trifle that is tried first; encoder, decoder, UNet guided and bare.
    assert compiled == 1 + 4 and not counters["graph_break"]
    again = _passes(base, adapters[::-1])
    assert counters["stats"]["unique_graphs"] == compiled
    for a, b, c in zip(expected, found, (again[1], again[0], again[2]), strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


def test_a_restorer_computes_as_set(models, graphs_only):
    settings = RestoreSettings(tile_px=64, overlap_px=16)
    image = np.random.default_rng(0).integers(0, 256, (90, 100, 3), dtype=np.uint8)
    decision = Decision("single", (("noise", 1.0),))
    plain = Restorer.from_settings(models, ClassifySettings(), settings, batch=2).restore([image], [decision])
    assert not counters["stats"]
    compiled = settings.model_copy(update={"compile": "default"})
    found = Restorer.from_settings(models, ClassifySettings(), compiled, batch=2).restore([image], [decision])
    assert counters["stats"]["unique_graphs"] == 2 and np.array_equal(plain, found)


@pytest.mark.parametrize(("dtype", "exact"), [("bf16", False), ("fp16", True)])
def test_a_vae_may_compute_as_all_else_but_in_float16_it_would_overflow(folders, dtype, exact):
    base = load_base(folders["sdxl"])
    with torch.inference_mode():
        expected = base.decode(base.encode(IMAGE))
    speed.prepare(base, RestoreSettings(dtype=dtype, vae="dtype"))
    with torch.inference_mode():
        found = base.decode(base.encode(IMAGE))
    assert torch.equal(found, expected) is exact
    assert (found - expected).abs().mean() < 0.02


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vae", ["auto", "dtype"])
def test_weights_are_of_the_arithmetic_and_nothing_between_is_cast(folders, kind, dtype, vae):
    base = speed.prepare(load_base(folders[kind]), RestoreSettings(dtype=dtype, vae=vae))
    half = DTYPES[dtype]
    exact = torch.float32 if vae == "auto" or dtype == "fp16" else half
    seen: dict[str, set] = {"unet": set(), "vae": set()}
    for name in seen:
        for module in getattr(base, name).modules():
            if isinstance(module, (torch.nn.GroupNorm, torch.nn.LayerNorm, torch.nn.Linear, torch.nn.Conv2d)):
                module.register_forward_hook(
                    lambda module, inputs, output, name=name: seen[name].update(
                        (
                            module.weight.dtype,
                            *(x.dtype for x in inputs),
                            output.dtype,
                            torch.is_autocast_enabled("cpu"),
                        )
                    )
                )
    made = _passes(base, [_adapters(base)[0], _adapters(base, modulator="literal")[0]])
    assert seen == {"unet": {half, False}, "vae": {exact, False}}
    assert {x.dtype for x in (*made, base.encode(IMAGE), base.alphas, base.prompt)} == {torch.float32}
    assert all(x.isfinite().all() for x in made) and not torch.equal(made[0], made[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_float32_from_half_weights_and_back_gives_the_same_bits(folders, dtype):
    base = speed.prepare(load_base(folders["sdxl"]), RestoreSettings(dtype=dtype, vae="dtype"))
    before = {name: (tensor.dtype, tensor.clone()) for name, tensor in base.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), base.computing_in(torch.float32):
        for name, tensor in base.state_dict().items():
            assert tensor.dtype == torch.float32 and torch.equal(tensor, before[name][1].float())
        raise RuntimeError("stop")
    assert base.dtype == DTYPES[dtype] and base.vae.dtype == (torch.float32 if dtype == "fp16" else torch.bfloat16)
    for name, tensor in base.state_dict().items():
        assert tensor.dtype == before[name][0] and torch.equal(tensor, before[name][1])


def test_a_machine_without_a_compiler_says_so_at_once(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no g++\nand more")

    monkeypatch.setattr(speed.torch, "compile", fails)
    with pytest.raises(ManifestError, match=r"restore\.compile.*RuntimeError: no g\+\+\).*restore\.compile=off"):
        speed.prepare(Base.compact(), FAST)


def test_what_changes_bits_is_in_the_numeric_profile():
    base = {"kind": "restore", "source": {"uri": "/in"}, "output": {"uri": "/out"}}
    plain, fast = (
        numeric_profile(RestoreManifest.model_validate(base | {"restore": restore}))["restore"]
        for restore in ({}, {"compile": "reduce_overhead", "channels_last": True, "vae": "dtype"})
    )
    assert (plain["compile"], plain["channels_last"], plain["vae"]) == ("off", False, "auto")
    assert (fast["compile"], fast["channels_last"], fast["vae"]) == ("reduce_overhead", True, "dtype")
