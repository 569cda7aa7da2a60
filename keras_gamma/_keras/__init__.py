"""Every private name of Keras that keras_gamma leans on. One room to repair when Keras moves.

A private name of Keras, and what must be known to use it, may enter; no decision of ours.
"""
