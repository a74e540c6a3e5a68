"""What did a model memorize of the images it was trained on?

    pairs = audit.read_pairs("my_training_set")
    found = audit.audit(sd, pairs, 4, "out/audit.zarr", sscd, threshold=0.5)
    found.where(found.verdict == "memorized", drop=True).text

For people who have fine-tuned a model and have its training set. Where the training set is not
known, look at prompts alone: `interp report`, `interp inspect`.
"""

from interp.audit.audit import audit
from interp.audit.pairs import Pair, read_pairs
from interp.audit.repeats import described, identical, repeats
from interp.audit.scales import scales
from interp.audit.subjects import subjects

__all__ = [
    "Pair",
    "audit",
    "described",
    "identical",
    "read_pairs",
    "repeats",
    "scales",
    "subjects",
]
