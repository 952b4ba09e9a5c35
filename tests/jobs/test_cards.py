"""A model card holds the figures of metrics.json and nothing else, and its front matter is read by ``fdi adapters``."""

import yaml

from jobs.cards import render


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
