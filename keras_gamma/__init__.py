"""keras_gamma: which normalization scales γ to regularize, found from the residual graph.

Public names are imported on first use: `import keras_gamma` costs next to nothing, and the
command line can say something before a backend is loaded. The names stand once, in `__init__.pyi`.
"""

from typing import Any

import lazy_loader

from keras_gamma._on_import import when_imported as _when_imported
from keras_gamma._version import __version__ as __version__

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Imports a public name; without a backend for Keras, says in one line what to install."""
    try:
        return _load(name)
    except ModuleNotFoundError as error:
        from keras_gamma._backend import explain

        if (missing := explain(error)) is not None:
            raise missing from None
        raise


def _register() -> None:
    """Saved models name these classes: Keras must know them before it loads one."""
    from keras_gamma.decay import optimizers as _optimizers  # noqa: F401
    from keras_gamma.decay import penalties as _penalties  # noqa: F401


_when_imported("keras", _register)
