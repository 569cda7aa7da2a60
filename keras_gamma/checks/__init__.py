"""Proof: roles by running the model (`verify`), decay by measuring what shrinks (`audit`).

May read everything that is decided and applied; decides and changes nothing itself.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
