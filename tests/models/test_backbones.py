from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from napari_sparseattn.models.backbones import (
    SmallBackbone,
    TransformersBackbone,
    backbone_from_config,
    pretrained_backbone,
)
from napari_sparseattn.models.tnet.network import TNet, TNetConfig


def test_crops_of_a_batch_do_not_influence_each_other() -> None:
    torch.manual_seed(0)
    backbone = SmallBackbone(3, (8, 8, 16)).train()
    crops = torch.randn(4, 3, 32, 32)
    together = backbone(crops)
    alone = [backbone(crop[None]) for crop in crops]
    for i, part in enumerate(together):
        torch.testing.assert_close(part, torch.cat([one[i] for one in alone]))


def test_the_map_follows_the_crop() -> None:
    torch.manual_seed(0)
    backbone = SmallBackbone(1, (8, 8, 16))
    dark, lit = torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    lit[..., 48:, :16] = torch.randn(16, 16)
    change = (backbone(lit)[0] - backbone(dark)[0]).abs().sum(1)[0]
    row, column = divmod(int(change.argmax()), change.shape[1])
    assert change.shape == (16, 16)
    assert row >= 11
    assert column < 5


@pytest.mark.parametrize("widths", [(8,), (12, 16), (8, 8192), ()])
def test_impossible_widths_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        SmallBackbone(3, widths)


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no backbone named 'big'"):
        backbone_from_config({"name": "big"}, 3)


def test_networks_of_transformers_from_their_configuration() -> None:
    pytest.importorskip("transformers", reason="needs transformers")
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [1, 1, 1]}
    resnet = {"model_type": "resnet", "layer_type": "basic", **sizes}
    # stem 4x, then 4x, 8x, 16x smaller: a map of an eighth is the last but one
    backbone = backbone_from_config({"name": "transformers", "config": resnet, "stride": 8}, 3)
    assert isinstance(backbone, TransformersBackbone)
    assert (backbone.map_channels, backbone.features) == (16, 24)
    net = TNet(TNetConfig(base=64, image_size=128, locations=(2,)), backbone.eval()).eval()
    assert net(torch.randn(1, 3, 128, 128)).logits.shape == (1, 8)


def test_a_card_rebuilds_a_network_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    torch.manual_seed(0)
    config = transformers.MobileNetV2Config(depth_multiplier=0.35, image_size=64)
    backbone = TransformersBackbone(transformers.MobileNetV2Model(config))
    told = json.loads(json.dumps(backbone.entry))
    with torch.device("meta"):
        twin = backbone_from_config(told, 3)
    twin.load_state_dict(backbone.state_dict(), assign=True)
    crops = torch.randn(2, 3, 64, 64)
    for mine, theirs in zip(twin.eval()(crops), backbone.eval()(crops), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_card_cannot_have_anything_fetched() -> None:
    pytest.importorskip("transformers", reason="needs transformers")
    wanted = {
        "auto_map": {"AutoModel": "someone/repository--code.Model"},
        "attn_implementation": "someone/kernel",
        "use_timm_backbone": True,
        "_name_or_path": "someone/else",
    }
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    entry = {"name": "transformers", "stride": 8, "config": {"model_type": "resnet", **sizes}}
    entry["config"] |= wanted
    network = backbone_from_config(entry, 3).network
    assert network.config.hidden_sizes == [8, 16]
    assert not {"auto_map", "use_timm_backbone"} & network.config.to_dict().keys()


def test_a_network_without_maps_is_refused() -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=64
    )
    with pytest.raises(ValueError, match="map"):
        TransformersBackbone(transformers.ViTModel(config))


def test_a_pretrained_folder(shared: Path) -> None:
    pytest.importorskip("transformers", reason="needs transformers")
    folder = shared / "weights" / "mobilenetv2_imagenet"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    backbone = pretrained_backbone(folder)
    assert backbone.features == 1280
    with torch.inference_mode():
        features, pooled = backbone(torch.rand(2, 3, 96, 96))
    assert features.shape == (2, backbone.map_channels, 6, 6)
    assert pooled.shape == (2, 1280)
    assert backbone.map_channels == 96


def test_a_folder_without_a_network_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs transformers")
    with pytest.raises(OSError, match=r"config\.json"):
        pretrained_backbone(tmp_path)
