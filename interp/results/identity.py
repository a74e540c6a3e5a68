"""Which model made this number? Worked out from what is in memory, so that every change counts.

A name or a file's hash does not say it: adapters are added, scaled, switched off and fused, modules
are replaced, and weights edited in place, all after loading. Not for verifying a download.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

DIGITS = 16
"""How much of a SHA-256 is kept: enough to tell models apart, and short enough to read."""
_OF_A_SAVE = ("architectures", "dtype", "torch_dtype", "transformers_version")
"""What saving or loading writes into a configuration."""
_seen: WeakKeyDictionary[nn.Module, tuple[Any, dict[str | None, str]]] = WeakKeyDictionary()
"""The last state of a module that was hashed, and what came out."""


class _Weight(NamedTuple):
    name: str
    adapter: str | None
    tensor: Tensor


def identity(pipe: Any) -> dict[str, Any]:
    """What a pipeline's parts and adapters are now.

    Example:
        >>> identity(pipe)["parts"]
        {'text_encoder': '...', 'tokenizer': '...', 'unet': '...', 'vae': '...'}
        >>> identity(pipe)["adapters"]     # {'unet.style': {'scale': [16.0], 'weights': '5e1f...'}}

    `parts` are the first 16 digits of SHA-256 over configuration and weights; for a tokenizer, over
    what was added to its vocabulary, and its pad token. `adapters` are those that act: one that is
    switched off or taken out is not there, and one that is fused has changed its part. The
    scheduler is configuration alone, and stands in `describe`.

    Weights are hashed when they change, which takes 1 s a GB on one core; to see that they did not,
    all of them are added up, which takes 0.1 s.
    """
    parts: dict[str, str] = {}
    adapters: dict[str, Any] = {}
    for name, part in sorted(pipe.components.items()):
        if isinstance(part, nn.Module):
            parts[name], found = _module(part)
            adapters |= {f"{name}.{adapter}": facts for adapter, facts in found.items()}
        elif isinstance(part, PreTrainedTokenizerBase):
            parts[name] = _tokenizer(part)
    return {"parts": parts, "adapters": adapters}


def _module(module: nn.Module) -> tuple[str, dict[str, Any]]:
    """The digest of a module without adapters, and what acts on it."""
    weights = sorted(_weights(module), key=lambda weight: weight.name)
    state = [*map(_state, weights), *_sums([weight.tensor for weight in weights])]
    before, digests = _seen.get(module, (None, {}))
    if before != state:
        digests = _hashed(weights)
        _seen[module] = state, digests
    found: dict[str, Any] = {}
    for adapter, scales in _acting(module).items():
        weights_and_scales = digests.get(adapter), scales
        found[adapter] = {
            "scale": sorted(set(scales.values()), key=repr),
            "weights": _digest(weights_and_scales),
        }
    if scales := _image_scales(module):
        found["ip_adapter"] = {"scale": sorted(set(scales.values())), "weights": _digest(scales)}
    return _digest([type(module).__name__, _config(module), digests.get(None)]), found


def _weights(
    module: nn.Module,
    path: str = "",
    tuner: str | None = None,
    maps: Sequence[tuple[str, Mapping[str, Tensor]]] = (),
) -> Iterator[_Weight]:
    """Parameters and buffers by the names that they have without adapters.

    Args:
        module: where to look.
        path: its own name, with a dot at the end.
        tuner: the path of the layer whose adapters it belongs to.
        maps: where accelerate keeps the weights while they are on no device, by path.
    """
    hook = getattr(module, "_hf_hook", None)
    hooks = getattr(hook, "hooks", (hook,))
    offloaded = [kept for h in hooks if (kept := getattr(h, "weights_map", None)) is not None]
    maps = [*maps, *((path, kept) for kept in offloaded)]
    for own, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is None:
            continue
        name = path + own
        if tensor.is_meta:
            kept = (m[name.removeprefix(at)] for at, m in maps if name.removeprefix(at) in m)
            tensor = next(kept, tensor)
        # peft's layers keep `kind.adapter`, as in to_k.lora_A.style.weight.
        adapter = None if tuner is None else name.removeprefix(tuner).split(".")[1]
        yield _Weight(name.replace("base_layer.", ""), adapter, tensor)
    wraps = hasattr(module, "base_layer")
    for name, child in module._modules.items():
        if child is not None:
            of = path if wraps and name != "base_layer" else tuner
            yield from _weights(child, f"{path}{name}.", of, maps)


def _hashed(weights: Sequence[_Weight]) -> dict[str | None, str]:
    """SHA-256 of the weights of each adapter, and, under None, of those of none."""
    digests: dict[str | None, Any] = {}
    for name, adapter, tensor in weights:
        digest = digests.setdefault(adapter, hashlib.sha256())
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        if not tensor.is_meta:
            digest.update(_flat(tensor).cpu().view(torch.uint8).numpy())
    return {adapter: digest.hexdigest() for adapter, digest in digests.items()}


def _state(weight: _Weight) -> tuple[Any, ...]:
    """What tells without reading the weight that it is another one."""
    name, adapter, tensor = weight
    version = None if tensor.is_inference() else tensor._version
    place = tensor.data_ptr(), version, tensor.device
    return name, adapter, tensor.shape, tensor.stride(), tensor.dtype, *place


def _sums(tensors: Sequence[Tensor]) -> list[int]:
    """The bits of each, added up: writing into `weight.data` leaves no other trace."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        if not tensor.is_meta:
            flat = _flat(tensor)
            size = flat.numel() * flat.element_size()
            integer = next(
                kind
                for kind in (torch.int64, torch.int32, torch.int16, torch.uint8)
                if size % kind.itemsize == 0 and flat.storage_offset() % kind.itemsize == 0
            )
            added = flat.view(integer).sum(dtype=torch.int64)
            by_device.setdefault(tensor.device, []).append(added)
    # One transfer for each device.
    return [number for sums in by_device.values() for number in torch.stack(sums).tolist()]


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten()


def _acting(module: nn.Module) -> dict[str, dict[str, Any]]:
    """The scale that each adapter has in every layer where it changes something."""
    found: dict[str, dict[str, Any]] = {}
    for path, layer in module.named_modules():
        tuner: Any = layer
        # Fused adapters are in the layer's weights.
        if hasattr(layer, "base_layer") and not (tuner.disable_adapters or tuner.merged):
            kept = tuner._get_available_adapters()
            for adapter in tuner.active_adapters:
                if adapter in kept:
                    scale = getattr(tuner, "scaling", {}).get(adapter)
                    found.setdefault(adapter, {})[path.replace("base_layer.", "")] = scale
    return found


def _image_scales(module: nn.Module) -> dict[str, Any]:
    """The scales of IP-Adapters by layer; their weights are among the module's own."""
    processors = getattr(module, "attn_processors", {})
    return {
        path: tuple(processor.scale)
        for path, processor in processors.items()
        if hasattr(processor, "to_k_ip")
    }


def _config(module: Any) -> dict[str, Any]:
    """What a module's configuration says of its computation."""
    config = getattr(module, "config", {})
    written = dict(config if isinstance(config, Mapping) else config.to_dict())
    return {k: v for k, v in written.items() if k[:1] != "_" and k not in _OF_A_SAVE}


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    added = sorted(tokenizer.get_added_vocab().items())
    return _digest([len(tokenizer), tokenizer.pad_token, tokenizer.model_max_length, added])


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
