"""``fdi bank build`` from stored pairs and from other banks; refusals name what is wrong."""

# ruff: noqa: F811 - `preset` is a fixture that lies with the tests of the models
from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdi_lib.errors import FDIError, ManifestError
from fdi_lib.manifest import BankManifest
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.encoder import Encoder
from fdi_lib.training.features import features
from jobs import bank
from tests.models.conftest import preset  # noqa: F401 - a fixture
from tests.pairs import write_pairs


def _manifest(preset: Path, output: Path, **keys: object) -> BankManifest:
    pools = {"decode": {"cpus": 0.5, "memory_gib": 0.3}, "classify": {"cpus": 0.5, "max": 1, "memory_gib": 0.5}}
    base = {"kind": "bank", "models": {"encoder": str(preset / "encoder")}, "output": str(output), "pools": pools}
    return BankManifest.model_validate(base | keys)


@pytest.mark.usefixtures("ray_local")
def test_pairs_become_a_bank_and_banks_join(preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams, pair_moments = [], bank.pair_moments
    monkeypatch.setattr(bank, "pair_moments", lambda *args: (streams.append(args[0].uri), pair_moments(*args))[1])
    made = []
    for name in ("haze", "noise"):
        uri = str(write_pairs(tmp_path / "pairs" / name, name, 24))
        made.append(tmp_path / "banks" / name)
        (tmp_path / "pairs" / name / "clean" / "alone.png").write_bytes(b"")
        pairs = [{"task": name, "uri": uri}]
        summary = bank.build(_manifest(preset, made[-1], pairs=pairs, held_out_fraction=0.3))
        assert summary["references"] + summary["held_out"] == 24 and summary["left_out"] == 1
        assert summary["held_out"] >= 4
        assert streams[-1] == uri and len(streams) == len(made)  # one stream for both sides of the split
    both = tmp_path / "banks" / "both"
    bank.build(_manifest(preset, both, merge=[str(folder) for folder in made]))
    found, haze = ReferenceBank.from_pretrained(both), ReferenceBank.from_pretrained(made[0])
    assert found.names == ("haze", "noise")
    np.testing.assert_array_equal(found.tokens_of("haze"), haze.tokens_of("haze"))

    # The FDI is the mean difference over the pairs that aren't held out: with those that are, it is another one.
    encoder = Encoder.from_pretrained(preset / "encoder")
    sides = [
        [np.asarray(Image.open(tmp_path / "pairs/haze" / side / f"{i:02d}.png")) for i in range(24)]
        for side in ("degraded", "clean")
    ]
    difference_ND = features(encoder, sides[0])[1] - features(encoder, sides[1])[1]
    held = round(haze.entries[0].held_out_MD.shape[0])
    assert haze.entries[0].pairs == 24 - held
    whole, learnt = difference_ND.mean(0), haze.entries[0].mean_D
    assert 0 < np.abs(whole - learnt).max() < 2 * difference_ND.std(0).max()
    with pytest.raises(ManifestError, match="haze is in more than one bank"):
        bank.build(_manifest(preset, tmp_path / "x", merge=[str(made[0]), str(both)]))


@pytest.mark.usefixtures("ray_local")
def test_too_few_pairs_are_refused_and_nothing_is_written(preset: Path, tmp_path: Path) -> None:
    uri = str(write_pairs(tmp_path / "few", "haze", 5))
    with pytest.raises(ManifestError, match=r"haze: \d fit pairs .* at least 4 are needed"):
        bank.build(_manifest(preset, tmp_path / "bank", pairs=[{"task": "haze", "uri": uri}]))
    assert not (tmp_path / "bank").exists()


@pytest.mark.usefixtures("ray_local")
def test_prototypes_come_from_the_same_stream_and_need_their_pairs(preset: Path, tmp_path: Path) -> None:
    pairs = [{"task": "haze", "uri": str(write_pairs(tmp_path / "pairs", "haze", 24))}]
    bank.build(_manifest(preset, tmp_path / "bank", pairs=pairs, held_out_fraction=0.3, prototypes=3))
    entry = ReferenceBank.from_pretrained(tmp_path / "bank").entries[0]
    assert entry.severities is not None and entry.severities.fdi_PD.shape == (3, len(entry.mean_D))
    weights = [len(part) for part in np.array_split(np.arange(entry.pairs), 3)]  # equally many pairs each, but for one
    np.testing.assert_allclose(np.average(entry.severities.fdi_PD, axis=0, weights=weights), entry.mean_D, rtol=1e-3,
                               atol=1e-5)  # fmt: skip
    with pytest.raises(ManifestError, match=r"haze: 1\d fit pairs to learn from, at least 32 are needed"):
        bank.build(_manifest(preset, tmp_path / "x", pairs=pairs, held_out_fraction=0.3, prototypes=8))
    assert not (tmp_path / "x").exists()


def test_an_output_that_is_something_elses_or_cannot_be_written_is_refused_first(preset: Path, tmp_path: Path) -> None:
    merge, adapter = [str(preset / "bank")], tmp_path / "adapter"
    (tmp_path / "file").write_text("")
    shutil.copytree(preset / "adapters" / "haze", adapter)
    before = (adapter / "config.json").read_bytes()
    for output, wrong in ((adapter, "no bank's"), (tmp_path / "file" / "bank", "file")):
        with pytest.raises(FDIError, match=wrong):
            bank.build(_manifest(preset, output, merge=merge))
    assert (adapter / "config.json").read_bytes() == before and not (adapter / "bank.safetensors").exists()
    with pytest.raises(ManifestError, match="is not on this machine"):
        bank.build(_manifest(preset, tmp_path / "bank", merge=["s3://b/bank"]))
    assert not (tmp_path / "bank").exists()
    bank.build(_manifest(preset, tmp_path / "bank", merge=[f"file://{preset}/bank"]))
    assert (
        ReferenceBank.from_pretrained(tmp_path / "bank").names == ReferenceBank.from_pretrained(preset / "bank").names
    )
    bank.build(_manifest(preset, tmp_path / "bank", merge=merge))  # a bank is made again


def test_banks_that_join_keep_what_is_looked_for_in_whole_pictures_only(preset: Path) -> None:
    three = ReferenceBank.from_pretrained(preset / "bank")
    shipped, own = three.without("noise"), three.without("haze").without("jpeg")
    shipped = replace(shipped, whole_only=frozenset({"jpeg"}))
    for joined in (bank._joined(own, shipped, "x"), bank._joined(shipped, own, "x")):
        assert joined.whole_only == {"jpeg"} and set(joined.names) == {"haze", "jpeg", "noise"}
        assert set(joined.detail.geometry.names) == {"haze", "noise"}


def test_banks_that_join_join_for_monochrome_images_too(preset: Path) -> None:
    three = ReferenceBank.from_pretrained(preset / "bank")
    shipped, own = three.without("noise"), three.without("haze").without("jpeg")
    copies = replace(own, entries=(replace(own.entries[0], pairs=99),))
    for other, pairs in ((own, own.entries[0].pairs), (replace(own, monochrome=copies), 99)):
        joined = bank._joined(replace(shipped, monochrome=shipped), other, "x")
        assert joined.monochrome is not None and set(joined.monochrome.names) == {"haze", "jpeg", "noise"}
        assert (joined.entry("noise").pairs, joined.monochrome.entry("noise").pairs) == (own.entries[0].pairs, pairs)
