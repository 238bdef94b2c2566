"""Files of networks that were made with timm's own options run as they were trained, or are told how they can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from fna.errors import UserError
from fna.models.timm import TimmModel

CPU: Any = {"image_size": None, "device": "cpu", "dtype": "float32", "seed": 0}
TINY = "vit_tiny_patch16_224"
CLAUSE = f"made with other options of timm? build it in your own code: fna.compare(timm.create_model('{TINY}', OPTION=...), loader)"


def stirred(name: str = TINY, **options: Any) -> Any:
    """A network of timm's with 5 classes in which no tensor is zero, one, or as it starts."""
    torch.manual_seed(1)
    net = timm.create_model(name, **{"num_classes": 5, **options}).eval()
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return net


def saved(folder: Path, net: nn.Module) -> str:
    torch.save(net.state_dict(), folder / "w.pt")
    return str(folder / "w.pt")


def built(path: str, size: int | tuple[int, int] | None = None, name: str = TINY, **options: Any) -> Any:
    return TimmModel(name, checkpoint=path, **options).build(**{**CPU, "image_size": size})


def furthest(model: Any, net: Any, size: tuple[int, int]) -> float:
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        return float((model.classify(images) - net(images)).abs().max())


MADE_WITH: list[tuple[dict[str, Any], str]] = [
    ({"no_embed_class": True}, "no_embed_class=True"),
    ({"class_token": False, "global_pool": "avg"}, "class_token=False"),
    ({"init_values": 0.1}, "init_values=..."),
    ({"reg_tokens": 4}, "reg_tokens=4"),
    ({"reg_tokens": 4, "no_embed_class": True}, "reg_tokens=4, no_embed_class=True"),
    ({"qkv_bias": False}, "qkv_bias=False"),
    ({"qk_norm": True}, "qk_norm=True"),
    ({"pre_norm": True}, "pre_norm=True"),
    ({"mlp_ratio": 3.0}, "mlp_ratio=3"),
    ({"init_values": 0.1, "qk_norm": True, "mlp_ratio": 2.7}, "qk_norm=True, init_values=..., mlp_ratio=2.698"),
    ({"class_token": False, "reg_tokens": 2, "global_pool": "avg"}, "class_token=False, reg_tokens=2"),
]


@pytest.mark.parametrize(("options", "said"), MADE_WITH, ids=[said for _, said in MADE_WITH])
def test_a_network_made_with_timms_own_options_runs_as_its_tensors_show_it_was_made(
    options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """All were refused, without a word on what would run them."""
    net = stirred(**options)
    path = saved(tmp_path, net)
    model = built(path)
    assert furthest(model, net, (224, 224)) < 1e-5
    assert model.tokens.prefix == net.num_prefix_tokens
    assert f"built with {said}, as the tensors of {path} show" in model.notes


@pytest.mark.parametrize("options", [{"reg_tokens": 4}, {"no_embed_class": True}, {"class_token": False, "global_pool": "avg"}])
@pytest.mark.parametrize("size", [(160, 160), (96, 160)])
def test_such_a_network_of_another_size_runs_at_its_own_and_is_asked_for_it(
    options: dict[str, Any], size: tuple[int, int], tmp_path: Path
) -> None:
    net = stirred(img_size=size, **options)
    path = saved(tmp_path, net)
    model = built(path, size)
    assert furthest(model, net, size) < 1e-5
    assert model.tokens.grid == (size[0] // 16, size[1] // 16)
    with pytest.raises(UserError, match=r"give image_size=(160|\[ROWS,COLUMNS\])"):
        built(path)


@pytest.mark.parametrize("options", [{"no_embed_class": True}, {"reg_tokens": 4}, {"reg_tokens": 4, "no_embed_class": True}])
def test_a_table_without_the_class_token_is_resampled_as_one_of_patches(options: dict[str, Any], tmp_path: Path) -> None:
    net = stirred(**options)
    model = built(saved(tmp_path, net), 96)
    net.set_input_size(img_size=96)
    assert furthest(model, net, (96, 96)) < 1e-5
    assert any("resampled from 14x14 to 6x6" in note for note in model.notes)


def test_a_table_that_may_be_read_in_two_ways_is_read_as_the_networks_own_and_told(tmp_path: Path) -> None:
    """196 rows are 14x14 patches, or 13x15 beside a class token, which the size that is asked for says."""
    net = stirred(img_size=(208, 240))
    path = saved(tmp_path, net)
    model = built(path, (208, 240))
    assert furthest(model, net, (208, 240)) < 1e-5
    told = "its position table of 196 rows is read as one of 13x15 beside 1 token; it may be one of 14x14 patches alone"
    assert any(told in note for note in model.notes)


def test_what_is_as_timm_has_it_is_told_nothing(tmp_path: Path) -> None:
    for size in (224, 64):
        model = built(saved(tmp_path, stirred(img_size=size)), size)
        assert not [note for note in model.notes if "built with" in note or "is read as" in note]


def test_a_network_without_a_class_token_is_asked_how_it_pools(tmp_path: Path) -> None:
    """Its last LayerNorm comes before pooling: its tensors do not show which one it is, but for the class token's."""
    net = stirred(class_token=False, global_pool="avg", fc_norm=False)
    path = saved(tmp_path, net)
    with pytest.raises(UserError, match=r"cls_token.*; it has no class token: say how it pools with model\.pool=avg"):
        built(path)
    assert furthest(built(path, pool="avg"), net, (224, 224)) < 1e-5


def test_what_timm_has_a_name_for_is_still_told_that_name(tmp_path: Path) -> None:
    path = saved(tmp_path, timm.create_model("deit3_small_patch16_224", num_classes=5))
    with pytest.raises(UserError, match=r"this looks like deit3_small_patch16_224: give model\.name=deit3_small_patch16_224\.$"):
        built(path, name="vit_small_patch16_224")


@pytest.mark.parametrize("options", [{"depth": 6}, {"final_norm": False}, {"reg_tokens": 4, "depth": 10}])
def test_what_does_not_fit_even_so_is_told_how_ones_own_code_runs_it(options: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path, timm.create_model(TINY, num_classes=5, **options))
    with pytest.raises(UserError) as refused:
        built(path)
    assert str(refused.value).endswith(f"; {CLAUSE} (docs/models_timm.md).")


def test_a_file_that_lacks_tensors_of_one_block_is_of_no_option(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in stirred().state_dict().items() if name != "blocks.0.attn.qkv.bias"}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"1 of 152 tensors are missing \(first: blocks\.0\.attn\.qkv\.bias\)"):
        built(str(tmp_path / "w.pt"))


def test_networks_of_other_kinds_and_other_libraries_are_refused_as_before(tmp_path: Path) -> None:
    path = saved(tmp_path, timm.create_model("deit_tiny_distilled_patch16_224", num_classes=5))
    with pytest.raises(UserError, match=r"looks like deit_tiny_distilled_patch16_224"):
        built(path)
    path = saved(tmp_path, timm.create_model("deit_tiny_distilled_patch16_224", num_classes=5, init_values=0.1))
    with pytest.raises(UserError, match=r"ls1\.gamma"):
        built(path, name="deit_tiny_distilled_patch16_224")
    torch.save({"layer1.conv.weight": torch.zeros(2, 2)}, tmp_path / "r.pt")
    with pytest.raises(UserError, match=r"does not fit timm") as refused:
        built(str(tmp_path / "r.pt"))
    assert "OPTION" not in str(refused.value)
