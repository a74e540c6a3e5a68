"""Adapters and processors that come while a patch is on."""

from typing import Any

import torch

import interp as ip
from tests.runs import latents, processor


def test_lora_is_part_of_what_is_patched(sd1) -> None:
    """A patch entered before or after the adapter was loaded does the same."""
    from peft import LoraConfig

    config = LoraConfig(r=2, target_modules=["to_k", "to_v", "to_q"], init_lora_weights=False)
    patch = ip.zero("pad", side="k", heads=0)
    plain = latents(sd1)
    with patch.on(sd1):
        without = latents(sd1)
    handle, log_context = patch.install(sd1), ip.record(sd1)
    with log_context as log:
        latents(sd1)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            sd1.unet.add_adapter(config)
        early = latents(sd1)
    handle.remove()
    with patch.on(sd1), ip.record(sd1) as late_log:
        late = latents(sd1)
    lora = latents(sd1)
    sd1.unet.delete_adapters("default")
    _unwrap(sd1.unet)
    assert torch.equal(early, late)
    assert not torch.equal(late, without)
    assert not torch.equal(late, lora)
    data = log.dataset().mass.isel(seed=1).values
    assert (abs(data - late_log.dataset().mass.isel(seed=0).values) < 1e-6).all()
    assert torch.equal(latents(sd1), plain)


def _unwrap(unet: Any) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(unet.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, child = name.rpartition(".")
            setattr(unet.get_submodule(parent), child, module.get_base_layer())
    unet._hf_peft_config_loaded = False


def test_switching_processors_inside_a_block(sd1) -> None:
    patch = ip.zero("pad", side="k", heads=0)
    with patch.on(sd1):
        expected = latents(sd1)
        with processor(sd1, "fused"):
            fused = latents(sd1)
        with processor(sd1, "sliced"):
            sliced = latents(sd1)
        after = latents(sd1)
    assert torch.allclose(fused, expected, atol=1e-4)
    assert torch.allclose(sliced, expected, atol=1e-4)
    assert torch.equal(after, expected)
