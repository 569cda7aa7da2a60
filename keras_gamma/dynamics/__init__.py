"""What decay and normalization do to each other while training, measured and predicted.

Scale invariance, effective learning rates, equilibria, instability, branches beside skips, and the
callback that watches them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
