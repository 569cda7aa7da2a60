"""Pictures: coordinates, drawing, the HTML page, and the colours of the roles.

May read networks, roles and plans. The rest of the package does not know that pictures exist.
"""
