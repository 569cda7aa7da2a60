"""Pictures: coordinates, drawing, the HTML page, and the colours of the roles.

May read networks, roles and plans. The rest of the package does not know that pictures exist.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
