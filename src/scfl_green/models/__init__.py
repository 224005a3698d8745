"""The frameworks, one per file; what is exported here is what configurations name."""

from scfl_green.models.actinn import ACTINN
from scfl_green.models.linear import Linear
from scfl_green.models.sccdcg import ScCDCG
from scfl_green.models.scdlc import ScDLC
from scfl_green.models.scsmd import ScSMD
from scfl_green.models.scsmd_paper import ScSMDPaper

__all__ = ["ACTINN", "Linear", "ScCDCG", "ScDLC", "ScSMD", "ScSMDPaper"]
