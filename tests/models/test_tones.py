"""What an encoder sees of tones: measures of known pictures, their quantiles, and what becomes of its features."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fdi_lib.models.encoder import COMPACT, Encoder
from fdi_lib.models.tones import Tones, measures, quantiles

VIEWS = np.random.default_rng(0).integers(0, 256, (2, 5, 96, 96, 3), np.uint8)


def flat(*rgb: float) -> torch.Tensor:
    return torch.tensor(rgb).reshape(1, 3, 1, 1).expand(1, 3, 12, 12).contiguous()


def test_measures_of_one_colour() -> None:
    least, most, dark, saturation, mean, contrast = measures(flat(0.2, 0.5, 0.8))[0].mean((1, 2)).tolist()
    assert np.allclose([least, most, dark, mean], [0.2, 0.8, 0.2, 0.5])
    assert abs(saturation - 0.75) < 1e-2
    assert contrast < 1e-3


def test_one_dark_pixel_darkens_the_dark_channel_around_it_and_nowhere_else() -> None:
    view = flat(0.6, 0.6, 0.6)
    view[0, 1, 6, 6] = 0.1
    dark = measures(view)[0, 2]
    assert torch.allclose(dark[4:9, 4:9], torch.tensor(0.1))
    assert torch.allclose(dark[:4], torch.tensor(0.6))
    assert torch.allclose(dark[9:], torch.tensor(0.6))


def test_contrast_is_the_deviation_of_the_mean_colour() -> None:
    view = flat(0.5, 0.5, 0.5)
    view[:, :, :, ::2] = 0.7
    inside = measures(view)[0, 5, 4:8, 4:8]
    share = 3 / 7  # of seven columns, three or four are bright
    assert torch.allclose(inside, torch.tensor(0.2 * (share * (1 - share)) ** 0.5), atol=1e-5)


def test_quantiles_are_of_one_measure_after_the_other_and_rise() -> None:
    found = quantiles(torch.rand(2, 3, 32, 32)).unflatten(1, (6, 13))
    assert (found.diff(dim=2) >= 0).all()
    assert (found[:, 0] <= found[:, 1]).all(), "the least colour and the largest"


def test_they_are_of_values_not_of_where_they_lie() -> None:
    view = torch.rand(2, 3, 32, 32)
    assert torch.allclose(quantiles(view), quantiles(view.rot90(1, (2, 3)).flip(3)), atol=1e-5)
    assert not torch.allclose(quantiles(view), quantiles(0.5 * view), atol=1e-2)


def test_what_comes_out_is_bounded_and_nearly_nothing_where_damage_is_unthinkable() -> None:
    tones = Tones(8, 3)
    torch.nn.init.zeros_(tones.out.weight)
    tones.out.bias.data = torch.tensor([-10.0, -2, 10])
    assert torch.allclose(tones(torch.rand(4, 78)), torch.tensor([0.0, 2, 4]).expand(4, 3), atol=2e-3)


def test_an_encoder_with_it_says_more_and_all_else_as_before(tmp_path: Path) -> None:
    torch.manual_seed(0)
    blind = Encoder(COMPACT).eval()
    seeing = blind.with_tones(Tones(16, 5))
    tokens, q = seeing.features(VIEWS)
    before = blind.features(VIEWS)
    assert torch.equal(tokens, before[0])
    assert q.shape == (2, seeing.width) == (2, blind.width + 5)
    assert torch.equal(q[:, : blind.width], before[1])
    assert not any(p.requires_grad for p in seeing.parameters())

    seeing.save_pretrained(tmp_path)
    torch.testing.assert_close(Encoder.from_pretrained(tmp_path).features(VIEWS)[1], q, rtol=0.02, atol=0.02)
    again = seeing.with_tones(Tones(16, 5))  # in place of the one that it has
    assert torch.equal(again.features(VIEWS)[0], tokens)
    assert not torch.equal(again.features(VIEWS)[1], q)


def test_only_the_whole_view_has_tones() -> None:
    encoder = Encoder(COMPACT | {"tones": {"width": 16, "size": 5}}).eval()
    other = VIEWS.copy()
    other[:, 1:] //= 2
    assert torch.equal(encoder.features(VIEWS)[1][:, -5:], encoder.features(other)[1][:, -5:])
    other[:, 0] //= 2
    assert not torch.equal(encoder.features(VIEWS)[1][:, -5:], encoder.features(other)[1][:, -5:])


def test_numbers_that_are_none_are_refused() -> None:
    encoder = Encoder(COMPACT | {"tones": {"width": 16, "size": 5}}).eval()
    assert encoder.tones is not None
    torch.nn.init.constant_(encoder.tones.out.bias, float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        encoder.features(VIEWS)
