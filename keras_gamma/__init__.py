"""keras_gamma: which normalization scales γ to regularize, found from the residual graph."""

from keras_gamma._version import __version__ as __version__
from keras_gamma.coupled import apply_guidelines as apply_guidelines
from keras_gamma.find import GammaRole as GammaRole
from keras_gamma.find import RoleReport as RoleReport
from keras_gamma.find import find_roles as find_roles
from keras_gamma.guidelines import Guidelines as Guidelines
from keras_gamma.norms import register_normalization as register_normalization
from keras_gamma.plan import Decision as Decision
from keras_gamma.plan import GammaPlan as GammaPlan
from keras_gamma.plan import PlanEntry as PlanEntry
from keras_gamma.roles import Role as Role

__all__ = [
    "Decision",
    "GammaPlan",
    "GammaRole",
    "Guidelines",
    "PlanEntry",
    "Role",
    "RoleReport",
    "apply_guidelines",
    "find_roles",
    "register_normalization",
]
