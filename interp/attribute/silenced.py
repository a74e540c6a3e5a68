"""NeMo as a mitigation: the neurons that carry a prompt are looked for, and silenced in its run.

Only the first half of the search: the second, which gives neurons back one by one, takes nearly all
of its UNet rows and makes the set smaller, never more effective.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import xarray as xr

from interp.attribute.neurons import find_neurons, likeness, silencing
from interp.results.hashes import tensor_sha256
from interp.session import Session, Start
from interp.text.prompt import Prompt


@dataclass(frozen=True, eq=False)
class SilenceNeurons:
    """Silence the neurons of `find_neurons`, step 1, where a prompt looks memorized.

    Example:
        >>> sd.run(prompts, patch=SilenceNeurons(activations(sd, captions), threshold=0.4))

    Attributes:
        usual: `activations` of ordinary prompts.
        threshold: of the likeness of first predictions, above which a prompt looks memorized.
        seeds: how many first predictions are compared; 10 in the authors' code.

    Source: Hintersdorf et al., NeurIPS 2024 (see `find_neurons`).
    """

    usual: xr.DataArray
    threshold: float
    seeds: int = 4

    def rewrite(self, session: Session, prompt: Prompt, seeds: Sequence[int]) -> Prompt | Start:
        """Return the prompt with its neurons silenced, or as it is."""
        if float(likeness(session, prompt, self.seeds).max()) <= self.threshold:
            return prompt
        found = find_neurons(
            session, prompt, self.usual, seeds=self.seeds, threshold=self.threshold, refine=False
        )
        return Start(prompt, patch=silencing(found))

    def to_json(self) -> str:
        """Return what was done."""
        usual = tensor_sha256(torch.from_numpy(self.usual.values))
        said = {"threshold": self.threshold, "seeds": self.seeds, "usual": usual}
        return json.dumps({"rewrite": "silence_neurons", **said})
