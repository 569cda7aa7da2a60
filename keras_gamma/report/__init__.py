"""How results are shown: tables on a terminal. Knows nothing of what it shows.

Only what any report needs may enter: no Keras, no backend, no decision.
"""
