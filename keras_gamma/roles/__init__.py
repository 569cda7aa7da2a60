"""From a graph to joins, and from joins to the residual role of every γ, with a reason.

Pure: nothing here imports Keras or a backend, except `finding`, which asks `network` for the graph
of a model. What to do about a role is decided in `decay`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
