"""`verify`: roles judged by running the model."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import tree

from keras_gamma._keras import names as _keras
from keras_gamma.checks import claims, progress
from keras_gamma.checks.claims import Agreement, Measured
from keras_gamma.checks.sums import Sums
from keras_gamma.checks.sweep import sweep
from keras_gamma.network import Network
from keras_gamma.network.inputs import trace
from keras_gamma.report import Column, Report
from keras_gamma.roles.classification import Role
from keras_gamma.roles.finding import find_roles

_BATCH = 2  # Two examples show what follows the inputs.
_UNSEEN = "Its layer was not seen in a call that could be run."


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What running the model says on one γ, or on one other learned scale.

    Args:
        path: string, the variable's path, as in `find_roles`.
        role: the `Role` that is claimed.
        measured: the `Role` that running shows, or `None` if it could not be tested.
        agreement: an `Agreement`.
        evidence: string, what running showed; or why nothing could be told.
        is_scale: bool, whether it is a learned scale of another kind (LayerScale, ReZero).
    """

    path: str
    role: Role
    measured: Role | None
    agreement: Agreement
    evidence: str
    is_scale: bool = False


class Verification(Report[Evidence]):
    """What `verify` found: a sequence of `Evidence`. Printed, it is a table.

    Args:
        entries: iterable of `Evidence`.
        plan: the `GammaPlan` beside which it is to be printed, or `None`.
    """

    format = "keras_gamma.verification"

    def __init__(self, entries: Iterable[Evidence], plan: Any = None):
        super().__init__(entries)
        columns = [
            Column("path", "γ"),
            Column("role", colored=True),
            Column("measured", colored=True),
            Column("agreement", "verdict"),
            Column("evidence", prose=True),
        ]
        if plan is not None:
            decisions = {entry.path: str(entry.decision) for entry in plan}
            columns.insert(2, Column("decision", of=lambda row: decisions.get(row.path)))
        self.columns = tuple(columns)

    def counts(self) -> dict[Agreement, int]:
        """How many γ have each `Agreement`, zeros included: a dict."""
        return self._counts(Agreement, "agreement")

    @property
    def ok(self) -> bool:
        """Whether there is something to test, everything could be told, and all of it agrees."""
        return bool(self) and self.counts()[Agreement.AGREE] == len(self)

    def facts(self) -> dict[str, object]:
        """Whether all is well, for `to_json`."""
        return {"ok": self.ok}

    def summary(self) -> str:
        """How many γ agree, disagree, and could not be tested."""
        counts = ", ".join(f"{one} {n}" for one, n in self.counts().items())
        scales = sum(entry.is_scale for entry in self)
        more = f" and {scales} other learned scale" + "s" * (scales > 1) if scales else ""
        return f"{len(self) - scales} γ{more} judged by running the model: {counts}"


def verify(
    model: keras.Model | Network,
    roles: Any = None,
    *,
    inputs: Any = None,
    plan: Any = None,
    seed: int = 0,
    verbose: bool | str = "auto",
) -> Verification:
    """Judges the roles of the γ in `model`, and of its other learned scales, by running it.

    Each role claims something about the function, and that is what is tested. Where γ and β of a
    normalization are multiplied by c,

    - `interior`: no output moves, exactly, or approximately;
    - `residual_last`: a sum moves, and with γ = β = 0 a skip, linear in what came before the block,
      is left of it;
    - `shortcut`: the same, but what is left is the branch, which is not linear;
    - `trunk`: an output moves, or a sum that depends no longer on what came before if γ = β = 0;
    - `other`: the rest, such as a sum without a skip, or the logits of a softmax.

    Joins, forks and skips are not read from the analysis of `find_roles`. Whether a step adds,
    multiplies, concatenates, absorbs a scale or is linear is found by running that step, on the
    model's own values and on noise; which tensors there are, and in which order, comes from the
    trace. All γ are tested in one pass. A sum of tensors is found as such if what it does with two
    of them is the sum of what it does with each.

    Args:
        model: a built `keras.Model`, or its `Network`. Weights, statistics and seeds stay as they
            are.
        roles: the roles to judge: a `RoleReport`, a `GammaPlan`, or a mapping from the paths of γ
            to roles; `None` for those that `find_roles` finds.
        inputs: see `find_roles`. Arrays are used as they are, unless they are floating point and
            constant; else inputs are made up: normal noise, tokens within the embeddings, masks of
            ones.
        plan: a `GammaPlan` to print beside the evidence, or `None`.
        seed: integer, of the inputs that are made up, and of all other noise.
        verbose: bool, whether to show progress; `"auto"`: on a terminal, after three seconds.

    Returns:
        A `Verification`: one `Evidence` for each γ that a role is claimed for, and one for each
        other learned scale in the notes of a `RoleReport`.
        `verification.ok` is whether everything could be told, and agrees.

    Raises:
        TypeError: if `model` is not a Keras model, or `roles` are no roles.
        ValueError: if the model cannot be called on `inputs`, or a role is claimed for a path at
            which there is no γ.

    Example:

    >>> import keras, keras_gamma
    >>> x = keras.Input((8, 8, 4))
    >>> y = keras.layers.Conv2D(4, 3, padding="same")(x)
    >>> y = keras.layers.BatchNormalization(name="bn")(y)
    >>> model = keras.Model(x, keras.layers.Add(name="join")([x, y]))
    >>> [(e.path, str(e.measured), str(e.agreement)) for e in keras_gamma.verify(model)]
    [('bn/gamma', 'residual_last', 'agree')]
    >>> keras_gamma.verify(model, {"bn/gamma": "trunk"}).ok
    False
    """
    network = model if isinstance(model, Network) else trace(model, inputs, batch=_BATCH)
    given = _claims(find_roles(network) if roles is None else roles)
    variables = _variables(network)
    paths = _paths(network.model, variables)
    for claim in given:
        if claim.variable is None and claim.path not in paths:
            known = ", ".join(list(paths)[:3]) or "none"
            raise ValueError(
                f"A role is claimed for {claim.path!r}, but the model has no γ there. Its γ are at "
                f"{known}, …"
            )
    measured = _measure(network, inputs, seed, verbose, variables)
    scales = {id(v) for v in variables[len(network.calls) :]} - {id(None)}
    entries = []
    for claim in given:
        key = id(paths[claim.path]) if claim.variable is None else id(claim.variable)
        found = measured.get(key, Measured(None, _UNSEEN))
        agreement, text = claims.compare(claim.role, found)
        shown = None if found.role is None else Role(found.role)
        entries.append(Evidence(claim.path, claim.role, shown, agreement, text, key in scales))
    return Verification(entries, plan)


class _Claim(NamedTuple):
    """A role that is to be judged, and the γ it is claimed for, where that is known."""

    path: str
    role: Role
    variable: Any


def _claims(roles: Any) -> list[_Claim]:
    """What is claimed, by whatever holds roles."""
    if isinstance(roles, Mapping):
        triples = [(path, role, None) for path, role in roles.items()]
    else:
        try:
            notes = [note for note in getattr(roles, "notes", ()) if note.role is not None]
            triples = [
                (one.path, one.role, getattr(one, "variable", None)) for one in [*roles, *notes]
            ]
        except (AttributeError, TypeError):
            raise TypeError(
                "`roles` takes a RoleReport, a GammaPlan, or a mapping from the paths of γ to "
                f"roles. Received: {type(roles).__name__}. What the model is called with goes to "
                "`inputs`."
            ) from None
    try:
        return [_Claim(path, Role(role), variable) for path, role, variable in triples]
    except ValueError as error:
        expected = ", ".join(str(role) for role in Role)
        raise ValueError(f"A role is one of {expected}. Received: {error}.") from None


def _variables(network: Network) -> list[Any]:
    """The γ of each call, then the other scale of each product; `None` where there is none."""
    gammas = [call.entry.variable(call.layer) for call in network.calls]
    known = {id(gamma) for gamma in gammas}
    return gammas + [
        None if id(gain.variable) in known else gain.variable for gain in network.gains
    ]


def _paths(model: keras.Model, variables: Iterable[Any]) -> dict[str, Any]:
    """Path -> variable: those that were seen, as `find_roles` counts them, then the rest."""
    paths: dict[str, Any] = {}
    seen: collections.Counter[str] = collections.Counter()
    for variable in {id(v): v for v in variables if v is not None}.values():
        seen[variable.path] += 1
        number = seen[variable.path]
        paths[variable.path if number == 1 else f"{variable.path}#{number}"] = variable
    for variable in model.variables:
        paths.setdefault(variable.path, variable)
    return paths


def _measure(
    network: Network,
    inputs: Any,
    seed: int,
    verbose: bool | str,
    variables: Iterable[Any],
) -> dict[int, Measured]:
    """What running shows, for the id of each variable that was seen."""
    places: dict[int, list[int]] = collections.defaultdict(list)
    for place, variable in enumerate(variables):
        if variable is not None:
            places[id(variable)].append(place)
    why = ""
    limits = _token_limits(network.model)
    for limit in limits:
        try:
            random = np.random.default_rng(seed)
            arrays = _arrays(network.inputs, inputs, random, limit, limit == limits[0])
            with progress.bar(len(network.steps), verbose) as track:
                seen = sweep(network, arrays, seed, track)
        except Exception as error:
            text = " ".join(str(error).split())[:160]
            why = why or (
                f"The model could not be run step by step: {type(error).__name__}: {text}"
            )
            continue
        sums = Sums(seen.tensors)
        return {
            key: claims.combine(claims.measure(seen, sums, place) for place in calls)
            for key, calls in places.items()
        }
    return dict.fromkeys(places, Measured(None, why))


def _token_limits(model: keras.Model) -> list[int]:
    """What integers may be made up below: within the embeddings, then ever smaller ones.

    An integer may count or point to something else than a row of a table.
    """
    rows = [
        layer.input_dim
        for layer in _keras.flatten_layers(model)
        if isinstance(layer, keras.layers.Embedding)
    ]
    return list(dict.fromkeys([max(1, min(rows, default=2)), 2, 1]))


def _arrays(
    tensors: Iterable[keras.KerasTensor],
    inputs: Any,
    random: np.random.Generator,
    limit: int,
    normal: bool,
) -> list[Any]:
    """An array for each input of the trace: integers below `limit`.

    `normal`: normal noise; else between 0 and 1, for what computes places from coordinates.
    """
    given = [] if inputs is None else tree.flatten(inputs)
    given = [g for g in given if hasattr(g, "__array__") and not isinstance(g, keras.KerasTensor)]
    if given:
        return [g if _is_informative(g) else random.standard_normal(g.shape) for g in given]
    arrays: list[Any] = []
    for tensor in tensors:
        if tensor.dtype == "bool" or "mask" in tensor.name:
            arrays.append(np.ones(tensor.shape, tensor.dtype))
        elif "int" in tensor.dtype:
            arrays.append(random.integers(0, limit, tensor.shape))
        else:
            draw = random.standard_normal if normal else random.random
            arrays.append(draw(tensor.shape))
    return arrays


def _is_informative(array: Any) -> bool:
    """Whether anything can be told from an array: examples that are all the same tell nothing."""
    values = np.asarray(array)
    if values.dtype.kind != "f":
        return True
    return len(values) < 2 or bool((values[1:] != values[:1]).any())
