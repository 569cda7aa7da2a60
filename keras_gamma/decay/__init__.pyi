from .decoupled import DecayEntry as DecayEntry
from .decoupled import DecayPlan as DecayPlan
from .guidelines import Guidelines as Guidelines
from .plan import Decision as Decision
from .plan import GammaPlan as GammaPlan
from .plan import PlanEntry as PlanEntry
