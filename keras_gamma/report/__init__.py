"""How results are shown: on a terminal, in a notebook, as data. Knows nothing of what it shows.

Only what any report needs may enter: no Keras, no backend, no decision.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
