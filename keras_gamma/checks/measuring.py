"""Roles of γ that act through code that stays closed: measured, where reading has to stop."""

import dataclasses
from typing import Any

import keras

from keras_gamma.checks.claims import Agreement
from keras_gamma.checks.verification import verify
from keras_gamma.network import Network
from keras_gamma.network.graph import Kind
from keras_gamma.network.inputs import trace
from keras_gamma.roles.classification import Role
from keras_gamma.roles.finding import find_roles

_TOLD = (Role.RESIDUAL_LAST, Role.SHORTCUT, Role.INTERIOR)


def measure(
    model: keras.Model | Network,
    inputs: Any = None,
    *,
    seed: int = 0,
    verbose: bool | str = "auto",
) -> Network:
    """The network of a model, with roles for γ that act through code that could not be opened.

    Reading calls such γ `other`. Running the model tells some of them without doubt. Whatever takes
    a model takes the network, too, and decides by these roles: `find_roles`, `apply_guidelines`,
    `plan_weight_decay`. The report's reason begins with "Measured, not read".

    Args:
        model: a built `keras.Model`, or its `Network`.
        inputs: see `verify`.
        seed: integer, of the inputs that are made up, and of all other noise.
        verbose: see `verify`.

    Returns:
        A `Network`. Nothing is run where nothing is closed.

    Example:

    >>> import keras, keras_gamma
    >>> from keras_gamma.checks import measure
    >>> x = keras.Input((8,))
    >>> model = keras.Model(x, keras.layers.LayerNormalization(name="norm")(x))
    >>> network = measure(model)
    >>> [(g.path, str(g.role)) for g in keras_gamma.find_roles(network)]
    [('norm/gamma', 'trunk')]
    """
    network = model if isinstance(model, Network) else trace(model, inputs, batch=2)
    # Of raw code that was opened, too, single operations may be unknown.
    if not network.opaque and all(n.kind is not Kind.OPAQUE for n in network.graph.nodes):
        return network
    report = find_roles(network)
    told = {
        entry.path: entry
        for entry in verify(network, report, inputs=inputs, seed=seed, verbose=verbose)
        # What running shows of closed code refutes no reading that stopped there.
        if entry.role is Role.OTHER
        and entry.measured in _TOLD
        and entry.agreement is Agreement.NOT_TESTABLE
    }
    measured = {
        id(gamma.variable): (str(told[gamma.path].measured), _reason(told[gamma.path].evidence))
        for gamma in report
        if gamma.path in told
    }
    return dataclasses.replace(network, measured={**network.measured, **measured})


def _reason(evidence: str) -> str:
    shown = evidence.partition(" Measured, not read")[0]
    return f"Measured, not read: {shown[:1].lower()}{shown[1:]}"
