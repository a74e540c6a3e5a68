"""Recording a running pipeline's cross-attention: recorders, the log, and its labelled dataset."""

from interp.record.log import Log, record
from interp.record.recorders import Recorder, entropy, maps, mass, token_mass

__all__ = ["Log", "Recorder", "entropy", "maps", "mass", "record", "token_mass"]
