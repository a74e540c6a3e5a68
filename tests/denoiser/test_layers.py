"""Layers in execution order, under names and selectors."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from interp import InterpError, select, sites
from interp.denoiser.hooks import Hooks
from interp.denoiser.layers import Site, Span
from tests.runs import latents

SD1 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD2 = {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
SDXL = {
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def full_size(config: dict[str, Any]) -> UNet2DConditionModel:
    """The real architecture, without memory for its weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(**config)


def test_order_is_that_of_execution(pipe) -> None:
    called: list[str] = []
    layers = sites(pipe.unet)
    with Hooks() as hooks:
        for site in layers:
            module = pipe.unet.get_submodule(site.path)
            hooks.before(module, lambda *_, name=site.name: called.append(name))
        latents(pipe, steps=1)
    assert called == [site.name for site in layers]
    assert [site.index for site in layers] == list(range(len(layers)))


def test_named_modules_is_not_that_order(sd1) -> None:
    listed = [name for name, _ in sd1.unet.named_modules() if name.endswith("attn2")]
    assert [site.path for site in sites(sd1.unet)] != listed


def test_the_sixteen_layers_of_sd1() -> None:
    layers = sites(full_size(SD1))
    names = [site.name for site in layers]
    down = [f"down.{block}.{layer}" for block in range(3) for layer in range(2)]
    up = [f"up.{block}.{layer}" for block in (1, 2, 3) for layer in range(3)]
    assert names == [*down, "mid.0", *up]
    assert {site.heads for site in layers} == {8}
    assert {site.block for site in layers} == {"down", "mid", "up"}


def test_heads_of_sd2_differ_by_layer() -> None:
    layers = sites(full_size(SD2))
    assert [site.heads for site in layers] == [
        5,
        5,
        10,
        10,
        20,
        20,
        20,
        *[20] * 3,
        *[10] * 3,
        *[5] * 3,
    ]


def test_the_seventy_layers_of_sdxl() -> None:
    layers = sites(full_size(SDXL))
    assert len(layers) == 70
    assert [layers[0].name, layers[-1].name] == ["down.1.0", "up.1.5"]
    assert {site.heads for site in layers} == {10, 20}


@pytest.fixture(scope="module")
def layers() -> tuple[Site, ...]:
    return sites(full_size(SD1))


def names(chosen: tuple[Site, ...]) -> list[str]:
    return [site.name for site in chosen]


@pytest.mark.parametrize(
    ("selector", "count"),
    [
        (None, 16),
        ("all", 16),
        ("up", 9),
        ("up.1", 3),
        ("up.1.0", 1),
        ("mid", 1),
        (r"(down|up)\..*\.0", 6),
        (0, 1),
        (-1, 1),
        ([0, 5, 5], 2),
        (["mid", "up.1", "up.1.0"], 4),
        (slice(-3, None), 3),
        (Span(None, 4, 2), 2),
        ((), None),
    ],
)
def test_selectors(layers: tuple[Site, ...], selector: Any, count: int | None) -> None:
    if count is None:
        with pytest.raises(InterpError, match="selects none"):
            select(layers, selector)
    else:
        chosen = select(layers, selector)
        assert len(chosen) == count
        assert list(chosen) == sorted(chosen, key=lambda site: site.index)


def test_selecting_down_mid_up_is_selecting_all(layers: tuple[Site, ...]) -> None:
    assert select(layers, ["up", "down", "mid"]) == select(layers)
    assert select(layers, layers[3]) == (layers[3],)
    assert names(select(layers, "up.1")) == ["up.1.0", "up.1.1", "up.1.2"]


@pytest.mark.parametrize("selector", ["up.9", "sideways", "up.", "(", 16, -17, ["up", "nowhere"]])
def test_a_selector_that_matches_nothing_is_an_error(
    layers: tuple[Site, ...], selector: Any
) -> None:
    with pytest.raises(InterpError, match="selects none of the 16 cross-attention layers"):
        select(layers, selector)


def test_a_model_without_cross_attention_is_refused() -> None:
    with pytest.raises(InterpError, match="It has none"):
        sites(torch.nn.Linear(2, 2))
