"""keras_gamma: which normalization scales γ to regularize, found from the residual graph.

Public names are imported on first use: `import keras_gamma` costs next to nothing, and the
command line can say something before a backend is loaded.
"""

import importlib
import sys
import typing

from keras_gamma._version import __version__ as __version__

if typing.TYPE_CHECKING:
    from keras_gamma import callbacks as callbacks
    from keras_gamma import equilibrium as equilibrium
    from keras_gamma import optimizers as optimizers
    from keras_gamma import units as units
    from keras_gamma.auditing import Audit as Audit
    from keras_gamma.auditing import AuditEntry as AuditEntry
    from keras_gamma.auditing import audit as audit
    from keras_gamma.branches import BranchRatio as BranchRatio
    from keras_gamma.branches import branch_ratios as branch_ratios
    from keras_gamma.coupled import apply_guidelines as apply_guidelines
    from keras_gamma.decoupled import DecayEntry as DecayEntry
    from keras_gamma.decoupled import DecayPlan as DecayPlan
    from keras_gamma.decoupled import exclude_from_weight_decay as exclude_from_weight_decay
    from keras_gamma.decoupled import plan_weight_decay as plan_weight_decay
    from keras_gamma.distribute import distributed_fit as distributed_fit
    from keras_gamma.distribute import is_chief as is_chief
    from keras_gamma.find import GammaRole as GammaRole
    from keras_gamma.find import RoleReport as RoleReport
    from keras_gamma.find import find_roles as find_roles
    from keras_gamma.guidelines import Guidelines as Guidelines
    from keras_gamma.norms import register_normalization as register_normalization
    from keras_gamma.plan import Decision as Decision
    from keras_gamma.plan import GammaPlan as GammaPlan
    from keras_gamma.plan import PlanEntry as PlanEntry
    from keras_gamma.plot import plot_roles as plot_roles
    from keras_gamma.roles import Role as Role
    from keras_gamma.scale_invariance import ScaleInvariant as ScaleInvariant
    from keras_gamma.scale_invariance import ScaleInvariantReport as ScaleInvariantReport
    from keras_gamma.scale_invariance import find_scale_invariant as find_scale_invariant
    from keras_gamma.scale_invariance import project_scale_invariant as project_scale_invariant
    from keras_gamma.storage import load_model as load_model
    from keras_gamma.verification import Agreement as Agreement
    from keras_gamma.verification import Evidence as Evidence
    from keras_gamma.verification import Verification as Verification
    from keras_gamma.verification import verify as verify

_HOMES = {
    "Agreement": "verification",
    "Audit": "auditing",
    "AuditEntry": "auditing",
    "BranchRatio": "branches",
    "DecayEntry": "decoupled",
    "DecayPlan": "decoupled",
    "Decision": "plan",
    "Evidence": "verification",
    "GammaPlan": "plan",
    "GammaRole": "find",
    "Guidelines": "guidelines",
    "PlanEntry": "plan",
    "Role": "roles",
    "RoleReport": "find",
    "ScaleInvariant": "scale_invariance",
    "ScaleInvariantReport": "scale_invariance",
    "Verification": "verification",
    "apply_guidelines": "coupled",
    "audit": "auditing",
    "branch_ratios": "branches",
    "distributed_fit": "distribute",
    "exclude_from_weight_decay": "decoupled",
    "find_roles": "find",
    "find_scale_invariant": "scale_invariance",
    "is_chief": "distribute",
    "load_model": "storage",
    "plan_weight_decay": "decoupled",
    "plot_roles": "plot",
    "project_scale_invariant": "scale_invariance",
    "register_normalization": "norms",
    "verify": "verification",
}

_MODULES = ("callbacks", "equilibrium", "optimizers", "units")

__all__ = [
    "Agreement",
    "Audit",
    "AuditEntry",
    "BranchRatio",
    "DecayEntry",
    "DecayPlan",
    "Decision",
    "Evidence",
    "GammaPlan",
    "GammaRole",
    "Guidelines",
    "PlanEntry",
    "Role",
    "RoleReport",
    "ScaleInvariant",
    "ScaleInvariantReport",
    "Verification",
    "apply_guidelines",
    "audit",
    "branch_ratios",
    "callbacks",
    "distributed_fit",
    "equilibrium",
    "exclude_from_weight_decay",
    "find_roles",
    "find_scale_invariant",
    "is_chief",
    "load_model",
    "optimizers",
    "plan_weight_decay",
    "plot_roles",
    "project_scale_invariant",
    "register_normalization",
    "units",
    "verify",
]


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"keras_gamma.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'keras_gamma' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"keras_gamma.{_HOMES[name]}"), name)
    globals()[name] = value  # The next use finds it without coming here.
    return value


if "keras" in sys.modules:
    # Saved models name these classes: Keras must know them before it loads one.
    importlib.import_module("keras_gamma.optimizers")
    importlib.import_module("keras_gamma.regularize")


def __dir__():
    return sorted({*globals(), *__all__})
