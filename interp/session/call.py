"""Arguments of a pipeline's call that a session passes on and records.

For everything that a session does not set itself: `guidance_rescale`, `eta`,
`cross_attention_kwargs`, the image of an IP-Adapter. The session alone decides on a batch's rows.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from interp.errors import InterpError
from interp.results.hashes import tensor_sha256

OWN = {
    "prompt": "sd.run(prompts)",
    "prompt_2": "sd.run(prompts)",
    "prompt_3": "sd.run(prompts)",
    "prompt_attention_mask": "sd.run(prompts)",
    "prompt_embeds": "sd.run(prompts)",
    "pooled_prompt_embeds": "sd.run(prompts)",
    "negative_prompt": "negative=",
    "negative_prompt_2": "negative=",
    "negative_prompt_3": "negative=",
    "negative_prompt_attention_mask": "negative=",
    "negative_prompt_embeds": "negative=",
    "negative_pooled_prompt_embeds": "negative=",
    "num_inference_steps": "steps=",
    "guidance_scale": "guidance=",
    "generator": "sd.run(seeds=...)",
    "num_images_per_prompt": "sd.run(seeds=...)",
    "latents": "sd.run(latents=...)",
    "output_type": "sd.run(images=...)",
    "callback_on_step_end": "sd.trace",
    "callback_on_step_end_tensor_inputs": "sd.trace",
    "return_dict": "sd.run",
    "callback": "sd.trace",
    "callback_steps": "sd.trace",
    "use_resolution_binning": "height= and width=",
    "clean_caption": "sd.encode",
}
"""Arguments that a session sets itself, and how to set them there."""
IMAGES = ("ip_adapter_image", "ip_adapter_image_embeds")


def must_pass(pipe: Any, call: Mapping[str, Any]) -> None:
    """Raise if the pipeline has no such argument, or the session sets it itself.

    Example:
        >>> must_pass(pipe, {"guidance_rescale": 0.7})

    Raises:
        InterpError: naming the argument.
    """
    known = set(inspect.signature(type(pipe).__call__).parameters) - {"self", "kwargs"} - set(OWN)
    for name in call:
        if name not in known:
            raise InterpError(
                f"A session that calls a {type(pipe).__name__} with {name}= was asked for.",
                f"Set it with {OWN[name]}." if name in OWN else "Its call has no such argument.",
                f"Arguments to pass on are {', '.join(sorted(known))}.",
            )


def described(value: Any) -> Any:
    """An argument as JSON, with tensors and images replaced by their SHA-256.

    Example:
        >>> described({"scale": 0.5})
        {'scale': 0.5}
    """
    if isinstance(value, torch.Tensor):
        return tensor_sha256(value)
    if isinstance(value, Image.Image):
        return tensor_sha256(torch.from_numpy(np.array(value)))
    if isinstance(value, Mapping):
        return {str(name): described(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [described(one) for one in value]
    return value
