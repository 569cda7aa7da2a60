"""`plot_roles`: a picture of a network, with the roles of its γ in colour."""

import collections
import importlib.util
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras

from keras_gamma.decay.decay_plan import DecayEntry, DecayPlan
from keras_gamma.decay.plan import GammaPlan
from keras_gamma.decay.plan_entry import PlanEntry
from keras_gamma.network.calls import NormCall
from keras_gamma.network.inputs import trace
from keras_gamma.network.network import Network
from keras_gamma.plot import drawing
from keras_gamma.plot.layout import Layout, lay_out
from keras_gamma.plot.page import GammaRow, make_page
from keras_gamma.roles.classification import Verdict, classify
from keras_gamma.roles.finding import RoleReport, find_roles


def plot_roles(
    model: keras.Model | Network,
    to_file: str | os.PathLike[str] = "roles.png",
    *,
    plan: GammaPlan | DecayPlan | None = None,
    inputs: Any = None,
) -> Path:
    """Draws `model` with the residual role of every γ in colour.

    The network runs downwards: what skips carry in one lane, branches beside it, a circle for every
    sum (black where it is a residual join). Layers with weights and normalizations are boxes;
    activations and reshaping are left out. Long networks are folded into columns.

    An `.html` page holds the picture and the table side by side, with filters and details on hover,
    in one file that needs nothing else.

    Args:
        model: a built `keras.Model`, or its network. It stays as it is.
        to_file: path of the file: `.png`, `.svg`, `.pdf` or `.html`.
        plan: a `GammaPlan` or `DecayPlan` whose decisions to show (in an `.html` page), or `None`.
        inputs: see `find_roles`.

    Returns:
        The file's `pathlib.Path`.

    Raises:
        TypeError, ValueError: as `find_roles`; and for another suffix.
        ImportError: if matplotlib is not installed.

    Example:

    >>> import keras, keras_gamma, tempfile
    >>> x = keras.Input((8, 8, 4))
    >>> y = keras.layers.Conv2D(4, 3, padding="same")(x)
    >>> y = keras.layers.BatchNormalization(name="bn")(y)
    >>> model = keras.Model(x, keras.layers.Add(name="join")([x, y]))
    >>> keras_gamma.plot_roles(model, tempfile.mkdtemp() + "/roles.svg").name
    'roles.svg'
    """
    path = Path(to_file)
    kind = path.suffix.lstrip(".").lower()
    if kind not in drawing.FORMATS:
        raise ValueError(
            f"A picture is drawn as {', '.join(drawing.FORMATS)}, by the file's suffix. "
            f"Received: to_file={str(to_file)!r}"
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("plot_roles needs matplotlib: pip install matplotlib.")
    if plan is not None and not isinstance(plan, (GammaPlan, DecayPlan)):
        raise TypeError(f"`plan` must be a GammaPlan or a DecayPlan. Received: {plan!r}")
    network = trace(model, inputs)
    report = find_roles(network)
    layout = lay_out(network.graph, _weighted(network))
    verdicts = network.derive(classify)
    calls = [call for call in network.calls if call.entry.variable(call.layer) is not None]
    roles = {call.node: verdicts[call.node].role for call in calls}
    title = f"{network.model.name}: {len(report)} γ"
    if kind == "html":
        svg = drawing.draw(layout, roles, title, "svg", legend=False)
        rows = _rows(report, calls, plan)
        content = make_page(title, svg, rows, _hover(layout, calls, verdicts)).encode()
    else:
        content = drawing.draw(layout, roles, title, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
    return path


def _weighted(network: Network) -> set[int]:
    """Nodes in whose making a weight takes part."""
    return {n for step in network.steps if step.is_weighted for n in step.numbers if n is not None}


def _rows(
    report: RoleReport, calls: Iterable[NormCall], plan: GammaPlan | DecayPlan | None
) -> list[GammaRow]:
    nodes = collections.defaultdict(list)
    for call in calls:
        nodes[id(call.entry.variable(call.layer))].append(call.node)
    entries = {} if plan is None else {entry.path: entry for entry in plan}
    found = []
    for gamma in report:
        decision, strength = _decision(entries.get(gamma.path))
        numbers = tuple(nodes[id(gamma.variable)])
        found.append(
            GammaRow(
                gamma.path, gamma.kind, gamma.role.value, gamma.reason, decision, strength, numbers
            )
        )
    return found


def _decision(entry: PlanEntry | DecayEntry | None) -> tuple[str | None, str | None]:
    """What a plan says on a γ, and how strongly."""
    if entry is None:
        return None, None
    if isinstance(entry, DecayEntry):
        return ("decayed", f"×{entry.factor:g}") if entry.factor else ("not decayed", "")
    return entry.decision.value, f"l2 {entry.strength:.4g}" if entry.strength else ""


def _hover(
    layout: Layout, calls: Iterable[NormCall], verdicts: Mapping[int, Verdict]
) -> dict[int, dict[str, str]]:
    """What to show of each box."""
    found = {box.node: {"label": box.label, "kind": str(box.kind)} for box in layout.boxes}
    for call in calls:
        if call.node in found:
            verdict = verdicts[call.node]
            found[call.node] |= {"role": str(verdict.role), "reason": verdict.reason}
    return found
