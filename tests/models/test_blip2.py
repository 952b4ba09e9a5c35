"""BLIP-2 checkpoints load as encoders exactly as transformers computes them, or not at all."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import Blip2Config

from fdi_lib.core.views import ViewSpec
from fdi_lib.errors import WeightsError
from fdi_lib.manifest import CheckpointSettings
from fdi_lib.models import blip2
from fdi_lib.models.encoder import Encoder
from fdi_lib.models.encoders import find_encoder, load_encoder
from tests.blip2 import SHAPES, SIZE_PX, configure, rewrite, save_blip2

VIEWS = np.random.default_rng(0).integers(0, 256, (2, 5, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_blip2(tmp_path)
    return tmp_path


def expected(model: torch.nn.Module, mean: list[float], std: list[float]) -> torch.Tensor:
    """Query tokens of VIEWS by the full model: of the whole, then the mean of the crops'."""
    pixels = torch.from_numpy(VIEWS).flatten(0, 1).permute(0, 3, 1, 2) / 255
    pixels = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.inference_mode():
        if hasattr(model, "get_qformer_features"):
            tokens = model.get_qformer_features(pixels)
        else:
            seen = model.vision_model(pixels)[0]
            queries, mask = model.query_tokens.expand(len(seen), -1, -1), torch.ones(seen.shape[:2], dtype=torch.long)
            tokens = model.qformer(queries, encoder_hidden_states=seen, encoder_attention_mask=mask)[0]
    tokens = tokens.unflatten(0, VIEWS.shape[:2])
    return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1)


@pytest.mark.parametrize("saving", [{}, {"max_shard_size": "60KB"}], ids=["one", "sharded"])
@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_are_transformers_own(tmp_path, shape, saving):
    model = save_blip2(tmp_path, shape, **saving)
    assert (tmp_path / "model.safetensors").exists() != bool(saving)
    encoder = load_encoder(tmp_path)
    assert encoder.view_spec == ViewSpec(SIZE_PX, 4, 0.0) and encoder.token_shape == (2 * 4, 24)
    tokens = encoder.tokens(VIEWS)
    assert tokens.dtype == torch.float32 and encoder.features(VIEWS)[1].shape == (2, encoder.width) == (2, 2 * 24)
    torch.testing.assert_close(tokens, expected(model, *CLIP), rtol=1e-5, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert {name.partition(".")[0] for name in encoder.state_dict()} == {"vision_model", "qformer", "query_tokens"}


def test_the_image_to_text_scores_come_from_the_same_tokens(tmp_path):
    """The retrieval model's own forward: its image embeddings are a projection of these query tokens."""
    model = save_blip2(tmp_path)
    encoder = load_encoder(tmp_path)
    pixels = torch.randn(1, 3, SIZE_PX, SIZE_PX)
    with torch.inference_mode():
        out = model(pixels, input_ids=torch.tensor([[1, 2]]), attention_mask=torch.ones(1, 2, dtype=torch.long))
        tokens = model.vision_projection(encoder.tokens_of_view(pixels))
    torch.testing.assert_close(torch.nn.functional.normalize(tokens, dim=-1), out.image_embeds, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_the_checkpoints_own_normalisation_is_used(tmp_path, name):
    model = save_blip2(tmp_path)
    own = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "size": {"height": SIZE_PX, "width": SIZE_PX}}
    (tmp_path / name).write_text(json.dumps({"image_processor": own} if name.startswith("processor") else own))
    encoder = load_encoder(tmp_path)
    torch.testing.assert_close(
        encoder.tokens(VIEWS), expected(model, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": {"height": 364, "width": 364}}, "expected the vision model's size, 32, found"),
        ({"do_rescale": False}, "scaled by 1/255"),
        ({"image_std": [0.2, 0.0, 0.2]}, "three numbers"),
    ],
)
def test_preprocessing_that_is_not_ours_is_refused(folder, values, message):
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(WeightsError, match=f"preprocessor_config.json: .*{message}"):
        find_encoder(folder)


def test_half_a_vision_model_still_gives_full_tokens(folder):
    """As on a GPU: the Q-Former and the means stay in float32."""
    encoder = load_encoder(folder)
    full = encoder.tokens(VIEWS)
    encoder.vision_model.half()
    half = encoder.tokens(VIEWS)
    assert half.dtype == torch.float32 and not torch.equal(half, full)
    torch.testing.assert_close(half, full, rtol=0.02, atol=0.02)


def test_a_prefix_of_newer_releases_is_stripped(folder):
    tokens = load_encoder(folder).tokens(VIEWS)

    def prefixed(tensors: dict) -> None:
        for name in list(tensors):
            tensors[f"model.{name}"] = tensors.pop(name)

    rewrite(folder, prefixed)
    assert torch.equal(load_encoder(folder).tokens(VIEWS), tokens)


def test_values_that_are_not_finite_are_never_classified(folder):
    rewrite(folder, lambda tensors: tensors["query_tokens"].fill_(float("nan")))
    with pytest.raises(FloatingPointError, match="not finite"):
        load_encoder(folder).tokens(VIEWS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("vision_model.post_layernorm.bias"),
            r"vision_model\.post_layernorm\.bias is missing; .* of t",
        ),
        (lambda t: t.pop("query_tokens"), "expected one query_tokens, found none"),
        (lambda t: t.update({"b.query_tokens": torch.ones(1)}), r"found (b\.)?query_tokens, "),
        (lambda t: t.update({"qformer.extra.weight": torch.ones(1)}), r"qformer\.extra\.weight is not BLIP-2's"),
        (lambda t: t.update({"vision_model.x": torch.ones(1)}), r"vision_model\.x is not BLIP-2's; .* 1 others"),
        (lambda t: t.update({"query_tokens": torch.ones(1, 5, 24)}), r"expected \(1, 4, 24\), found \(1, 5, 24\)"),
        (dict.clear, "expected one query_tokens, found none"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(WeightsError, match=rf"model\.safetensors: .*{message}"):
        load_encoder(folder)


def test_what_only_text_needs_may_be_there_or_not(folder):
    tokens = load_encoder(folder).tokens(VIEWS)

    def without_text(tensors: dict) -> None:
        text = [name for name in tensors if blip2.TEXT_ONLY.fullmatch(name) or not blip2.of_encoder(name)]
        assert {"qformer.encoder.layer.0.output.dense.weight", "embeddings.word_embeddings.weight"} <= set(text)
        for name in text:
            del tensors[name]

    rewrite(folder, without_text)
    assert torch.equal(load_encoder(folder).tokens(VIEWS), tokens)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "instructblip"}, r"config\.json: expected model_type blip-2, found instructblip"),
        ({"model_type": None}, "expected model_type blip-2, found None"),
        ({"num_query_tokens": 8}, r"query_tokens: expected \(1, 8, 24\), found \(1, 4, 24\)"),
        ({"vision_config": {"hidden_size": 30, "num_attention_heads": 4, "image_size": 32}}, "no configuration of B"),
        ({"vision_config": {"image_size": [32, 16]}}, "expected square images"),
        ({"qformer_config": {"num_hidden_layers": 3}}, "is missing"),
    ],
)
def test_another_architecture_is_refused(folder, values, message):
    configure(folder, **values)
    with pytest.raises(WeightsError, match=message):
        load_encoder(folder)


def test_only_pickles_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"only pytorch_model\.bin, which may hold code"):
        find_encoder(folder)


def test_a_broken_download_is_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model\.safetensors: damaged"):
        load_encoder(folder)


def test_identity_is_that_of_the_files_with_the_encoder_in_them(tmp_path):
    save_blip2(tmp_path / "one")
    one = hashlib.sha256((tmp_path / "one/model.safetensors").read_bytes()).hexdigest()
    assert find_encoder(CheckpointSettings(uri=str(tmp_path / "one"), sha256=one)).sha256 == one
    with pytest.raises(WeightsError, match=rf"model\.safetensors: expected sha256 {'0' * 64}, found {one}"):
        find_encoder(CheckpointSettings(uri=str(tmp_path / "one"), sha256="0" * 64))

    model = save_blip2(tmp_path / "many", "generation", max_shard_size="60KB")
    tensors = {name: value.clone() for name, value in model.language_model.state_dict().items()}
    save_file(tensors, tmp_path / "many/model-text.safetensors")
    index = tmp_path / "many/model.safetensors.index.json"
    places = json.loads(index.read_text())
    text = {f"language_model.{name}": "model-text.safetensors" for name in tensors}
    index.write_text(json.dumps(places | {"weight_map": places["weight_map"] | text}))
    found = find_encoder(tmp_path / "many")
    assert len(found.weights) > 1 and all("text" not in path.name for path in found.weights)
    lines = "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in sorted(found.weights))
    assert found.sha256 == hashlib.sha256(lines.encode()).hexdigest(), "what `sha256sum SHARDS | sha256sum` prints"
    (tmp_path / "many/model-text.safetensors").unlink()
    assert find_encoder(tmp_path / "many").load().token_shape == (8, 24), "the language model may stay away"
    found.weights[-1].unlink()
    with pytest.raises(WeightsError, match="is missing beside it"):
        find_encoder(tmp_path / "many")


@pytest.mark.parametrize("sharded", [False, True])
def test_the_hub_is_asked_for_what_is_needed_at_the_pinned_revision(tmp_path, monkeypatch, sharded):
    model = save_blip2(tmp_path, "generation", **({"max_shard_size": "30KB"} if sharded else {}))
    asked = []

    def snapshot(repository, *, revision, allow_patterns):
        asked.append((repository, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    found = find_encoder(CheckpointSettings(uri="archive/blip2", revision="0123abc"))
    torch.testing.assert_close(found.load().tokens(VIEWS), expected(model, *CLIP), rtol=1e-5, atol=1e-5)
    assert found.origin.uri == "archive/blip2" and [call[:2] for call in asked] == [("archive/blip2", "0123abc")] * 2
    assert asked[0][2] == list(blip2.CONFIG_FILES), "small files first"
    assert asked[1][2] == ["config.json", *(path.name for path in found.weights)]


def test_a_compact_encoder_comes_from_the_hub_too(preset, monkeypatch, caplog):
    asked = []

    def snapshot(repository, *, revision, allow_patterns):
        asked.append((revision, allow_patterns))
        return str(preset / "encoder")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert load_encoder("archive/compact").token_shape == (16, 128)
    assert asked[1] == (None, ["config.json", "encoder.safetensors"])
    assert "archive/compact: no revision given" in caplog.text


def test_a_folder_of_neither_kind_is_refused(tmp_path, preset):
    with pytest.raises(WeightsError, match=r"models\.encoder: .*encoder\.safetensors not found, nor config\.json"):
        find_encoder(tmp_path)
    sha256 = find_encoder(preset / "encoder").sha256
    assert find_encoder(CheckpointSettings(uri=str(preset / "encoder"), sha256=sha256)).view_spec.size_px == 96
    with pytest.raises(WeightsError, match=rf"encoder\.safetensors: expected sha256 {'1' * 64}, found {sha256}"):
        find_encoder(CheckpointSettings(uri=str(preset / "encoder"), sha256="1" * 64))


def _full_size(folder: Path) -> None:
    """BLIP-2's default configuration (ViT-g, 12 layers of Q-Former, 32 queries) with random float16 weights."""
    config = Blip2Config()
    full = {"vision": {"image_size": 224}, "qformer": {"encoder_hidden_size": 1408}, "query_tokens": 32}
    with torch.device("meta"):
        empty = Encoder(full | {"crops": 4, "detail_gain": 0.0}).state_dict()
    shards: list[dict[str, torch.Tensor]] = [{}, {}]
    for i, (name, tensor) in enumerate(empty.items()):
        scale = 0.02 if tensor.ndim > 1 else float("norm" in name.lower() and name.endswith("weight"))
        random = torch.empty(tensor.shape, dtype=torch.float16).normal_(std=0.02)
        shards[i % 2][name] = random if scale == 0.02 else torch.full_like(random, scale)
    places = {}
    for i, shard in enumerate(shards):
        save_file(shard, folder / f"model-{i}.safetensors")
        places |= dict.fromkeys(shard, f"model-{i}.safetensors")
    places |= {"language_model.lm_head.weight": "model-text.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    config.save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_full_size_model_looks_at_an_image(tmp_path):
    _full_size(tmp_path)
    found = find_encoder(tmp_path)
    assert found.view_spec == ViewSpec(224, 4, 0.0, 0)
    encoder = found.load()
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert 1.08e9 < count < 1.2e9  # 986 M of ViT-g, 105 M of the Q-Former
    views = np.random.default_rng(0).integers(0, 256, (1, 5, 224, 224, 3), dtype=np.uint8)
    tokens = encoder.tokens(views)
    assert tokens.shape == (1, 64, 768) == (1, *encoder.token_shape)
    assert encoder.features(views)[1].shape == (1, 1536) and tokens.std() > 0
    for path in found.weights:  # gigabytes; the folder itself is kept for a while
        path.unlink()


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_cpu(folder, monkeypatch):
    on_gpu = load_encoder(folder)
    assert on_gpu.vision_model.dtype == torch.float16 and on_gpu.qformer.dtype == torch.float32
    monkeypatch.setattr("fdi_lib.models.encoders.accelerator", lambda: torch.device("cpu"))
    torch.testing.assert_close(on_gpu.tokens(VIEWS), load_encoder(folder).tokens(VIEWS), rtol=0.02, atol=0.02)
