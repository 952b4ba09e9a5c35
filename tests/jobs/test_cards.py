"""A model card holds the figures of metrics.json and nothing else, and its front matter is read by ``fdi adapters``."""

import pytest
import yaml

from fdi_lib.errors import ManifestError
from fdi_lib.models.checkpoints import file_sha256
from fdi_lib.models.presets import compact_folder
from jobs import cards
from jobs.cards import in_whole, render


def _card(measured: dict[str, str] | None) -> str:
    return render(
        licence="apache-2.0", task="noise", model_name="m", dataset="d", dataset_type="t", title="T", about="A",
        file="f", sha256="0" * 64, command="fdi train x", facts={"steps": "3"}, measured=measured,
        measured_by="By hand", unmeasured="Unmeasured.", data="s", limits="l",
    )  # fmt: skip


def test_front_matter_holds_the_measured_figures():
    text = _card({"psnr_in": "18.70", "gain_db": "9.10", "found": "0.98"})
    head = yaml.safe_load(text.split("---")[1])
    metrics = {m["type"]: m["value"] for m in head["model-index"][0]["results"][0]["metrics"]}
    assert metrics == {"psnr_in": 18.7, "gain_db": 9.1, "found": 0.98}
    assert "| 18.70 | 9.10 | 0.98 |" in text


def test_an_unmeasured_model_claims_nothing():
    text = _card(None)
    assert "model-index" not in yaml.safe_load(text.split("---")[1])
    assert "Unmeasured." in text


def test_what_whole_photographs_came_to():
    haze = {"n": 19, "psnr_in": 13.25, "gain_db": 12.75, "gain_db_classified": 9.0, "found": 0.736}
    whole = {"degradations": {"haze": haze}, "clean": {"untouched": 0.92, "n": 50}}
    (said,) = in_whole(whole, "haze").values()
    assert said == "19 of 13.2 dB: told +12.8 dB; classified +9.0 dB, found in 74%"
    assert in_whole(whole, "bank") == {"clean whole photographs left untouched": "0.920 of 50"}
    assert in_whole(whole, "encoder") == {}


def test_every_folder_of_the_preset_gets_a_card_that_names_its_weights(monkeypatch, tmp_path):
    shipped = compact_folder()
    for path in shipped.glob("**/config.json"):
        folder = tmp_path / path.parent.relative_to(shipped)
        folder.mkdir(parents=True)
        for name in (
            "config.json",
            "training.json",
            *(f"{kind}.safetensors" for kind in ("adapter", "bank", folder.name)),
        ):
            if (path.parent / name).is_file():
                (folder / name).write_bytes((path.parent / name).read_bytes())
    monkeypatch.setattr(cards, "compact_folder", lambda: tmp_path)
    row = {"n": 66, "psnr_in": 14.1, "gain_db": 9.2, "gain_db_classified": 4.0, "classical": "none", "found": 0.32}
    tiles = {"degradations": {"haze": row}, "clean": {"untouched": 0.975, "n": 474}}
    tiles["degradations"]["stain"] = row  # looked for in whole pictures only
    whole = {"degradations": {"haze": row | {"n": 19}, "stain": row | {"n": 18}}, "clean": {"untouched": 0.9, "n": 50}}
    written = cards.write_cards(tiles, whole)
    assert len(written) == 3 + len(list((shipped / "adapters").iterdir()))
    for card in written:
        (weights,) = card.parent.glob("*.safetensors")
        assert file_sha256(weights) in card.read_text()
    texts = {card.parent.name: card.read_text() for card in written}
    assert "19 of 14.1 dB" in texts["haze"] and "| 9.20 |" in texts["haze"]
    assert "| 9.20 | 4.00 | none | 0.32 |" in texts["haze"] and "| 9.20 | none |" in texts["stain"]
    later = "USFWS/trail-of-tears"  # added to the list when base and adapters had been trained
    assert later in texts["encoder"] and later in texts["bank"] and later not in texts["base"] + texts["haze"]
    assert "trained with the FDI of encoder" in texts["haze"] and "BuddiesOfBudgie" in texts["base"]
    assert file_sha256(shipped / "bank/monochrome/bank.safetensors") in texts["bank"]
    assert "18 of 14.1 dB" in texts["stain"] and "0.900 of 50" in texts["bank"] and "0.975 of 474" in texts["bank"]


def test_cards_are_of_the_test_photographs():
    with pytest.raises(ManifestError, match=r"data\.split"):
        cards.write_cards({"split": "test"}, {"split": "reserve"})
    with pytest.raises(ManifestError, match=r"data\.colour"):
        cards.write_cards({"split": "test", "colour": "toned"}, {})


def test_the_shipped_cards_are_of_the_shipped_weights():
    for card in compact_folder().glob("**/README.md"):
        named = [path for path in card.parent.glob("*.safetensors") if file_sha256(path) in card.read_text()]
        assert named, card
