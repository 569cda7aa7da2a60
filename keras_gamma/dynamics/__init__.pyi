from . import equilibrium as equilibrium
from .branches import BranchRatio as BranchRatio
from .branches import branch_ratios as branch_ratios
from .monitor import GammaMonitor as GammaMonitor
from .scale_invariance import ScaleInvariant as ScaleInvariant
from .scale_invariance import ScaleInvariantReport as ScaleInvariantReport
from .scale_invariance import find_scale_invariant as find_scale_invariant
from .scale_invariance import project_scale_invariant as project_scale_invariant
