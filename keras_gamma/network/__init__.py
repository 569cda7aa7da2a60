"""A model as a graph of calls: tracing, opening layers, operations, normalizations. Facts only.

What is connected to what, and what each operation does to the scale of its input, may enter here;
what that means (a role) may not, nor anything that changes a model.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
