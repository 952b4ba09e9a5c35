"""An adapter that is carried over to another FDI does what it did; where it can't, it is refused."""

import pytest
import torch

from fdi_lib.errors import WeightsError
from fdi_lib.models.adapter import AdapterConfig, FDIAdapter
from fdi_lib.models.carry import carried

CONFIG = AdapterConfig("haze", (48, 96, 128, 160), encoder_sha256="old")


@pytest.fixture(scope="module")
def adapter() -> FDIAdapter:
    torch.manual_seed(0)
    made = FDIAdapter(CONFIG, torch.randn(16, 128))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.06)
    return made.eval().requires_grad_(False)


def _guidance(adapter: FDIAdapter) -> list[torch.Tensor]:
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = adapter.guidance(image)
    return [*found.additions, *(part for modulation in found.modulations for part in modulation)]


def test_guidance_stays_though_the_fdi_is_another(adapter, tmp_path):
    tokens, before = 5 * torch.randn(16, 128), _guidance(adapter)
    made = carried(adapter, tokens, "new")
    made.save_pretrained(tmp_path)
    for other in (made, FDIAdapter.from_pretrained(tmp_path)):
        assert other.config.encoder_sha256 == "new"
        torch.testing.assert_close(other.fdi_TD, tokens / tokens.std())
        for part, right in zip(_guidance(other), before, strict=True):
            torch.testing.assert_close(part, right, rtol=0, atol=5e-3 * float(right.abs().max()))
    with_other_tokens = FDIAdapter(CONFIG, tokens)
    with_other_tokens.load_state_dict(adapter.state_dict())
    assert (_guidance(with_other_tokens)[-1] - before[-1]).abs().max() > 0.02 * before[-1].abs().max()
    assert all(torch.equal(part, right) for part, right in zip(_guidance(adapter), before, strict=True))


@pytest.mark.parametrize("shape", [(8, 128), (16, 64)])
def test_an_fdi_of_another_shape_is_refused(adapter, shape):
    with pytest.raises(WeightsError, match=r"adapter haze: FDI tokens of shape .* expected .*train it anew"):
        carried(adapter, torch.randn(shape), "new")


def test_what_can_t_be_stored_is_refused(adapter):
    tokens = torch.randn(16, 128)
    tokens[1] = tokens[0] + 1e-5 * torch.randn(128)
    with pytest.raises(WeightsError, match="can't tell its queries apart"):
        carried(adapter, tokens, "new")


def test_tokens_that_are_one_can_t_stand_for_sixteen(adapter):
    with pytest.raises(WeightsError, match="can't tell its queries apart"):
        carried(adapter, torch.randn(1, 128).expand(16, 128) * torch.linspace(1, 2, 16)[:, None], "new")
