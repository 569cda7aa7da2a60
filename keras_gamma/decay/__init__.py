"""The decision (units, guidelines, plans), and the thin code that puts it into effect and keeps it.

Coupled and decoupled decay, the optimizers that carry their own, records in archives and
`load_model` may enter. Whether it worked is asked in `checks`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
