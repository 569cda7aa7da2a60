"""One run through a network that asks, for every γ at once, how far its scale comes.

Where γ and β of a normalization are multiplied by c, each tensor behind it grows like a power of c,
or changes but stays bounded (a sigmoid, a softmax), or does not change. What a step makes of that
is found by running it on scaled values. What follows from it for one γ is a list of `Finding`s.
"""

import collections
import dataclasses
import enum
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_gamma.checks import probes
from keras_gamma.checks.probes import Combination
from keras_gamma.checks.sums import Tensor
from keras_gamma.network import Network
from keras_gamma.network.calls import GainCall, NormCall
from keras_gamma.network.graph import Kind
from keras_gamma.network.replay import Replay, Visit, is_float, symbolic, varies


class Mode(enum.IntEnum):
    """What a tensor does if γ and β are multiplied; the one that tells more is larger."""

    WEIGHS = 1  # It changes only how other values are weighed: behind a gate, or logits.
    SOFTMAX = 2  # It is a softmax, or follows from one alone.
    BOUNDED = 3  # It changes, but does not grow.
    SCALES = 4  # It grows like a power of the factor.


class State(NamedTuple):
    """How one tensor follows one γ."""

    mode: Mode
    degree: float = 1.0
    exact: bool = True
    closed: bool = False  # It came through a part that only runs as a whole.


class Event(enum.Enum):
    """How a path of γ ends."""

    ABSORBED = "absorbed"  # Its scale does not show any more.
    MIXED = "mixed"  # It is added to what does not scale with it.
    WEIGHED = "weighed"  # It weighs what is added to something else.
    CLOSED = "closed"  # What the step does cannot be told.
    HIDDEN = "hidden"  # These inputs do not let it through: a mask, or a single key.
    OUTPUT = "output"


class Finding(NamedTuple):
    """One event on the paths of one γ: what, at which tensor, and how γ came there."""

    event: Event
    tensor: int
    state: State


@dataclasses.dataclass
class Sweep:
    """What one run has shown.

    Args:
        tensors: list of `Tensor`, by number.
        calls: for each call of a normalization, then for each product with another learned scale,
            its output's number, or `None` if it was not seen.
        findings: for each call the `Finding`s.
        states: for each tensor the states of the calls, by the call's place.
        passed: for each call the sums all of whose operands followed it.
    """

    tensors: list[Tensor] = dataclasses.field(default_factory=list)
    calls: list[int | None] = dataclasses.field(default_factory=list)
    findings: dict[int, list[Finding]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list)
    )
    states: list[dict[int, State]] = dataclasses.field(default_factory=list)
    passed: dict[int, list[int]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list)
    )


def sweep(
    network: Network,
    arrays: Sequence[Any],
    seed: int = 0,
    track: Callable[[int], None] = lambda index: None,
) -> Sweep:
    """Runs a traced model once, with the steps behind γ a few times more.

    Args:
        network: a `Network`.
        arrays: list of arrays for its inputs.
        seed: integer, of the noise.
        track: called with the number of steps done, after each.

    Returns:
        A `Sweep`.
    """
    with Replay(network, arrays, seed) as replay:
        runner = _Runner(network, arrays)
        for visit in replay.visits():
            runner.see(visit)
            track(visit.index + 1)
        return runner.finish(network.outputs)


class _Runner:
    """Writes down a `Sweep`, step by step."""

    def __init__(self, network: Network, arrays: Sequence[Any]):
        self._graph = network.graph
        scaled: list[NormCall | GainCall] = [*network.calls, *network.gains]
        self._places: dict[int, list[int]] = collections.defaultdict(list)
        for place, call in enumerate(scaled):
            self._places[call.node].append(place)
        self._by_id: dict[int, Tensor] = {}
        self._by_node: dict[int, Tensor] = {}
        self._result = Sweep(calls=[None] * len(scaled))
        for symbol, value in zip(network.inputs, arrays, strict=True):
            kind = keras.backend.standardize_dtype(symbol.dtype)
            tensor = self._new(id(symbol), symbol.name)
            tensor.size = int(np.size(value))
            tensor.varies = "float" in kind and varies(value)

    def see(self, visit: Visit) -> None:
        """Takes down one step."""
        sources = [self._by_id[key] for key in visit.values if key in self._by_id]
        if not sources:
            self._see_held(visit)
            return
        facts = _Step(visit, {key: self._by_id.get(key) for key in visit.values}, self._graph)
        states = self._states_after(facts)
        numbers = dict(zip(map(id, symbolic(visit.step.outputs)), visit.step.numbers, strict=True))
        for key, value in visit.outputs.items():
            tensor = self._new(key, self._label(numbers[key], visit))
            self._describe(tensor, facts, key, value, bool(states.get(key)))
            number = numbers[key]
            if number is not None:
                self._by_node[number] = tensor
                tensor.parts = self._parts(tensor, self._graph.nodes[number].inputs)
            found = states.get(key, {}) if is_float(value) else {}
            for place in () if number is None else self._places.get(number, ()):
                self._result.calls[place] = tensor.number
                if tensor.varies:
                    found[place] = State(Mode.SCALES)
            self._result.states[tensor.number] = found

    def _see_held(self, visit: Visit) -> None:
        """Data that the model holds itself are a source, as inputs are."""
        for symbol, number in zip(symbolic(visit.step.outputs), visit.step.numbers, strict=True):
            if number is not None and self._graph.nodes[number].kind is Kind.INPUT:
                value = visit.outputs[id(symbol)]
                tensor = self._new(id(symbol), self._label(number, visit))
                tensor.size = int(np.prod(value.shape))
                tensor.varies = is_float(value) and varies(value)
                self._by_node[number] = tensor

    def finish(self, outputs: Iterable[keras.KerasTensor]) -> Sweep:
        """What reaches the model's outputs, and what lies on the way to them."""
        result = self._result
        for output in outputs:
            tensor = self._by_id.get(id(output))
            if tensor is None:
                continue
            tensor.is_output = tensor.is_live = True
            for place, state in result.states[tensor.number].items():
                result.findings[place].append(Finding(Event.OUTPUT, tensor.number, state))
        behind = 0
        for tensor in result.tensors:
            if tensor.is_output:
                behind |= tensor.behind
        for tensor in result.tensors:
            tensor.is_live = tensor.is_live or bool(behind >> tensor.number & 1)
        return result

    def _new(self, key: int, label: str) -> Tensor:
        tensor = Tensor(len(self._result.tensors), label)
        tensor.root = tensor.number
        self._result.tensors.append(tensor)
        self._result.states.append({})
        self._by_id[key] = tensor
        return tensor

    def _label(self, number: int | None, visit: Visit) -> str:
        if number is not None:
            return str(self._graph.nodes[number].label)
        return str(getattr(visit.step.operation, "name", "a step"))

    def _describe(
        self, tensor: Tensor, facts: "_Step", key: int, value: Any, follows_gamma: bool
    ) -> None:
        tensor.behind = facts.behind
        tensor.size = int(np.prod(value.shape))
        tensor.operands = tuple(facts.operand(key).number for key in facts.operands)
        tensor.varies = bool(facts.operands or facts.follows_indices) and (
            # The length of what is normalized is the same for every example, but follows γ.
            is_float(value) and (follows_gamma or varies(value))
        )
        tensor.how, tensor.is_norm, tensor.bent = facts.how, facts.is_norm, facts.bent
        tensor.has_weights = facts.has_weights
        for source in facts.sources:
            source.consumers.append(tensor.number)
        if not tensor.varies:
            return
        tensor.linear = facts.linear()
        if facts.how is Combination.ALONE and facts.operands and not facts.is_norm:
            tensor.is_bounded = probes.sums_to_one(value)
            if not facts.has_weights:
                before = facts.visit.values[facts.operands[0]]
                if probes.is_same_up_to_order(before, value):
                    tensor.root = facts.operand(facts.operands[0]).root
                elif self._follows_a_sum(facts.operand(facts.operands[0])):
                    tensor.is_bounded = tensor.is_bounded or facts.is_bounded(key)

    def _parts(self, norm: Tensor, sources: Sequence[int]) -> int:
        """The statistics of a normalization that is written out, one bit each."""
        source = self._by_node.get(sources[0]) if norm.is_norm and len(sources) == 1 else None
        if source is None:
            return 0
        behind = (number for number in range(source.number + 1, norm.number))
        return sum(
            1 << number
            for number in behind
            if norm.behind >> number & self._result.tensors[number].behind >> source.number & 1
        )

    def _follows_a_sum(self, tensor: Tensor) -> bool:
        """Whether it may be logits: a sum, with no weights since."""
        while tensor.how is Combination.ALONE and tensor.operands and not tensor.is_norm:
            if tensor.has_weights:
                return False
            tensor = self._result.tensors[tensor.operands[0]]
        return tensor.how is Combination.SUM

    def _states_after(self, facts: "_Step") -> dict[int, dict[int, State]]:
        """For each output the states of the γ that come in."""
        incoming: dict[int, dict[int, State]] = collections.defaultdict(dict)
        for key in facts.operands:
            for place, state in self._result.states[facts.operand(key).number].items():
                incoming[place][key] = state
        patterns: dict[Any, list[int]] = collections.defaultdict(list)
        for place, states in incoming.items():
            patterns[tuple(sorted(states.items()))].append(place)
        after: dict[int, dict[int, State]] = collections.defaultdict(dict)
        first = len(self._result.tensors)  # The number that the first output will have.
        for pattern, places in patterns.items():
            for offset, (key, outcome) in enumerate(facts.outcomes(dict(pattern)).items()):
                for place in places:
                    if isinstance(outcome, State):
                        after[key][place] = outcome
                    else:
                        event, state = outcome
                        self._result.findings[place].append(Finding(event, first + offset, state))
            if facts.how is Combination.SUM:
                for place in places:
                    self._result.passed[place].append(first)
            if facts.is_hidden:
                for place in places:
                    found = Finding(Event.CLOSED, first, max(dict(pattern).values()))
                    self._result.findings[place].append(found)
        return after


class _Step:
    """One step: what it reads, and what it makes of a γ that comes in."""

    def __init__(self, visit: Visit, known: dict[int, Tensor | None], graph: Any):
        self.visit = visit
        self._known = {key: tensor for key, tensor in known.items() if tensor is not None}
        self.sources = list(self._known.values())
        self.operands = [key for key, tensor in self._known.items() if tensor.varies]
        # Embedded tokens: what a table is asked for, not a scale.
        self.follows_indices = (
            any(not is_float(visit.values[key]) for key in self._known) and not self.operands
        )
        self.behind = 0
        kinds = {graph.nodes[n].kind for n in visit.step.numbers if n is not None}
        self.is_norm = Kind.NORM in kinds
        self.is_closed = Kind.OPAQUE in kinds
        # What holds no numbers, but may be read by later steps: a list of tensors.
        self.is_hidden = self.is_closed and not any(map(is_float, visit.outputs.values()))
        if self.is_closed and not self.is_hidden:
            self._leave_out_what_does_not_matter()
        self.has_weights = visit.step.is_weighted
        for tensor in self.sources:
            self.behind |= tensor.behind | 1 << tensor.number
        self._powers: dict[int, dict[int, probes.Power]] = {}
        self.how = Combination.ALONE
        self.bent: frozenset[int] = frozenset()
        if len(self.operands) > 1 and not self.is_norm:
            self.how = probes.combination(visit.run, visit.values, self.operands)
        if self.is_closed and self.how is not Combination.ALONE:
            self._look_at_each_operand()

    def _leave_out_what_does_not_matter(self) -> None:
        """Of a closed part only what goes in is known: not all of it comes out."""
        visit = self.visit
        idle = {
            key
            for key in self.operands
            if not probes.depends(visit.run, visit.values, visit.raw, [key], 0)
        }
        self.operands = [key for key in self.operands if key not in idle]
        self.sources = [t for key, t in self._known.items() if key not in idle]

    def _look_at_each_operand(self) -> None:
        """What a closed part adds, or puts side by side, may be made of its operands first.

        `relu(x) + y` is a sum of any numbers, but x is no part of it; `relu(x + y)` is one of
        positive numbers alone, and both are.
        """
        run, values = self.visit.run, self.visit.values
        positive = probes.combination(run, values, self.operands, positive=False) is not self.how
        bent = [
            key
            for key in self.operands
            if not probes.is_linear(run, values, [key], positive=positive)
        ]
        self.bent = frozenset(self._known[key].number for key in bent)
        if bent and self.how is Combination.BESIDE:
            self.how = Combination.OTHER

    def operand(self, key: int) -> Tensor:
        """The tensor that an operand is."""
        return self._known[key]

    def linear(self) -> Callable[[tuple[int, ...]], bool]:
        """What answers later whether the step is linear, without keeping any large value."""
        if _is_pooling(self.visit.step.operation):
            return lambda numbers: True
        keys = {self._known[key].number: key for key in self.operands}
        run = self.visit.run.without(self.operands)
        specs = {
            key: _Spec(tuple(v.shape), keras.backend.standardize_dtype(v.dtype))
            for key, v in self.visit.values.items()
            if key in self.operands
        }

        def ask(numbers: tuple[int, ...]) -> bool:
            return probes.is_linear(run, specs, [keys[number] for number in numbers])

        return ask

    def outcomes(self, states: dict[int, State]) -> dict[int, State | tuple[Event, State]]:
        """For each output the state of a γ that comes in so, or how its path ends."""
        keys = [key for key, value in self.visit.outputs.items() if is_float(value)]
        closed = self.is_closed or any(state.closed for state in states.values())
        best = max(states.values())._replace(closed=closed)
        if self.how is Combination.SUM:
            return {key: self._after_sum(self._moving(states, key), best) for key in keys}
        if self.how is Combination.BESIDE:
            exact = best.exact and len(states) == len(self.operands)
            return dict.fromkeys(keys, best._replace(exact=exact))
        return {key: self._after_other(states, best, key) for key in keys}

    def _moving(self, states: dict[int, State], output: int) -> dict[int, State]:
        """Those operands that a sum passes on: a closed part may absorb what it adds."""
        if not self.is_closed:
            return states
        return {k: s for k, s in states.items() if self._power(k)[output].degree != 0.0}

    def _after_sum(self, states: dict[int, State], best: State) -> State | tuple[Event, State]:
        scaling = {key: state for key, state in states.items() if state.mode >= Mode.BOUNDED}
        if not states:
            return Event.ABSORBED, best
        if self.bent and len(scaling) == len(self.operands):
            return Event.CLOSED, best
        if len(scaling) == len(self.operands):
            exact = all(s.exact and s[:2] == best[:2] for s in states.values())
            return best._replace(exact=exact)
        if scaling:
            return Event.MIXED, best
        if len(states) == len(self.operands):
            return best
        return Event.WEIGHED, best

    def _after_other(
        self, states: dict[int, State], best: State, output: int
    ) -> State | tuple[Event, State]:
        joint = self._joint_degree(states, output)
        if joint is not None:
            exact = all(state.exact for state in states.values())
            if abs(joint) > 0.05:
                return State(Mode.SCALES, joint, exact, best.closed)
            return self._end(states, best._replace(exact=exact), output)
        degree, exact, modes = 0.0, True, set()
        for key, state in states.items():
            power = self._power(key)[output]
            if power.degree is None and self.is_norm and len(self.operands) == 1:
                power = probes.Power(0.0, False)  # All that is left of a spread near ε is a sign.
            if self.is_closed and not power.exact:
                return Event.CLOSED, best
            if power.degree is None and state.mode is Mode.SCALES and self._fades(output):
                power = probes.Power(1.0, False)
            if power.degree is None or state.mode is not Mode.SCALES:
                if power.degree != 0.0:
                    mode = self._bounded_mode(states, key, power.degree is None, output)
                    modes.add(min(state.mode, mode))
                continue
            if power.degree:
                modes.add(Mode.SCALES)
            degree += power.degree * state.degree
            exact = exact and power.exact and state.exact
        if Mode.SCALES in modes and abs(degree) > 0.05:
            return State(Mode.SCALES, degree, exact, best.closed)
        if Mode.SCALES in modes or not modes:
            return self._end(states, best._replace(exact=exact and best.exact), output)
        return State(max(modes), 1.0, False, best.closed)

    def _end(self, states: dict[int, State], best: State, output: int) -> tuple[Event, State]:
        """How paths end whose scale does not show."""
        if not self.is_norm and not self._shows(list(states)):
            return Event.HIDDEN, best
        if not self.is_norm and self._is_saturated(list(states), output):
            return Event.HIDDEN, best
        return Event.ABSORBED, best

    def _is_saturated(self, keys: list[int], output: int) -> bool:
        """Whether a gate or a softmax is fully open or closed, and would not be for less."""
        visit = self.visit
        if not probes.is_saturated(visit.raw[output]):
            return False
        less = {key: probes.next_to_nothing(visit.values[key]) for key in keys}
        return not probes.is_saturated(visit.run(less)[output])

    def _joint_degree(self, states: dict[int, State], output: int) -> float | None:
        """The power by which an output grows with operands that tell none one by one."""
        if len(states) < 2 or any(state.mode is not Mode.SCALES for state in states.values()):
            return None
        if all(self._power(key)[output].exact for key in states):
            return None
        visit, degrees = self.visit, {key: state.degree for key, state in states.items()}
        return probes.joint_degree(visit.run, visit.values, visit.raw, degrees, output)

    def _bounded_mode(
        self, states: dict[int, State], operand: int, bounds: bool, output: int
    ) -> Mode:
        """A softmax weighs; so does what is multiplied with what does not follow this γ.

        Args:
            states: how each operand that does follows γ.
            operand: the one that is looked at.
            bounds: whether the step itself bounds what it makes of that: an attention its query.
                Then values that γ only weighs do not follow it, either.
            output: the output that is looked at.
        """
        if self.how is Combination.OTHER:
            least = Mode.BOUNDED if bounds else Mode.SOFTMAX
            others = [key for key in self.operands if key != operand]
            if any(key not in states or states[key].mode < least for key in others):
                return Mode.WEIGHS
        if probes.sums_to_one(self.visit.outputs[output]):
            return Mode.SOFTMAX
        return Mode.BOUNDED

    def is_bounded(self, output: int) -> bool:
        """Whether an output stays bounded however large its one operand is, and is no tanh."""
        return self._power(self.operands[0])[output].degree is None and not self._fades(output)

    def _fades(self, output: int) -> bool:
        """Whether an output is small where the one operand is: a tanh, but no sigmoid.

        Then γ = 0 closes the branch, and a small γ sets its scale.
        """
        if self.how is not Combination.ALONE or not self.operands:
            return False
        visit = self.visit
        return probes.fades(visit.run, visit.values, visit.raw, self.operands[0])[output]

    def _shows(self, keys: list[int]) -> bool:
        """Whether anything of some operands comes through, whatever they are."""
        visit = self.visit
        return probes.depends(visit.run, visit.values, visit.raw, keys, len(keys))

    def _power(self, key: int) -> dict[int, probes.Power]:
        if key not in self._powers:
            visit = self.visit
            self._powers[key] = probes.power(visit.run, visit.values, visit.raw, key)
        return self._powers[key]


class _Spec(NamedTuple):
    """Shape and dtype of a value that is not kept."""

    shape: tuple[int, ...]
    dtype: str


def _is_pooling(operation: Any) -> bool:
    """Pooling counts as linear, by the definition of a skip."""
    name = type(operation).__name__.lower()
    return "maxpool" in name
