"""The decision (units, guidelines, plans), and the thin code that puts it into effect and keeps it.

Coupled and decoupled decay, the optimizers that carry their own, records in archives and
`load_model` may enter. Whether it worked is asked in `checks`.
"""

import contextlib

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# As soon as Keras is imported, `optimizers` and all that it needs here are, too, so that Keras
# knows them (`keras_gamma._register`). No module of this room may be half imported then: Keras
# comes first. (Without a backend there is no Keras; modules that need it say so.)
with contextlib.suppress(ModuleNotFoundError):
    import keras  # noqa: F401
