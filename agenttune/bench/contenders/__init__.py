"""Who takes part: references, policies behind the gate, and what people would use instead; each a class in one file."""

from agenttune.bench.contenders import policy, references
from agenttune.bench.contenders.contender import CONTENDERS, Contender, ContenderSettings, Trial

__all__ = ["CONTENDERS", "Contender", "ContenderSettings", "Trial", "policy", "references"]
