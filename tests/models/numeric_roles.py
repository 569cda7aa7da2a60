"""Roles by running a small Functional model: an independent referee, without the library.

Multiply γ and β of one norm by 4 (every ε near 0, batch statistics) and compare the spread of the
operands of every sum, and of the outputs, with before. At the first sum where something moves:

* only branch operands: `residual_last`; only the skip operand: `shortcut`; both: `trunk`;
* whatever moves, if the norm is not computed from the fork: `trunk`;
* some operands of a sum without a skip: `other`; all of them: the sum passes γ on;
* all operands of a sum that lies, fork and all, within a branch of another: it passes γ on, too.

Nothing at any sum: `trunk` if an output moves, else `interior`. The logits of an attention are held
at zero meanwhile, so that a path carries scale by the values only; a norm that moves nothing then,
but changes values once the logits are back, acts through the logits alone: `other`.

What is structure and not numbers is small: a sum's fork, and which of its operands is the skip.
"""

from dataclasses import dataclass

import keras
import numpy as np
from keras import tree

FACTOR = 4.0
MOVED = 1.3

FACTORS = {"Multiply", "Divide", "TrueDivide", "Negative", "Rescaling"}  # by a constant
IDENTITY = {"Dropout", "SpatialDropout2D", "Identity", "Reshape", "DropPath", *FACTORS}
LINEAR = IDENTITY | {
    "Conv1D",
    "Conv2D",
    "DepthwiseConv2D",
    "Dense",
    "AveragePooling2D",
    "MaxPooling2D",
    "UpSampling2D",
    "Cropping2D",
    "BatchNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "RMSNormalization",
    "GetItem",
    "Pad",
    "Permute",
    "ZeroPadding2D",
}
OTHERS = {
    "Activation",
    "Add",
    "Average",
    "Concatenate",
    "Embedding",
    "FFT2",
    "Fft2",
    "GlobalAveragePooling2D",
    "InputLayer",
    "LSTM",
    "LayerScale",
    "LeakyReLU",
    "MultiHeadAttention",
    "GroupedQueryAttention",
    "ReLU",
    "Relu",
    "Silu",
    "Softmax",
    "Subtract",
    "Table",
    "ThirdPartyRMS",
    "UnitNormalization",
    "ZerosLike",
}
SUMS = {"Add", "Average", "Subtract"}
ATTENTION = {"MultiHeadAttention", "GroupedQueryAttention"}


def kind(operation) -> str:
    return type(operation).__name__


def is_norm(operation) -> bool:
    if kind(operation) == "RMSNormalization":
        return True
    return hasattr(operation, "epsilon") and getattr(operation, "gamma", None) is not None


def scale_of(norm):
    return norm.scale if kind(norm) == "RMSNormalization" else norm.gamma


def applies(model) -> bool:
    """Whether the model is flat and made of known operations, each called once."""
    if not hasattr(model, "operations") or kind(model) != "Functional":
        return False
    if any(kind(operation) not in LINEAR | OTHERS for operation in model.operations):
        return False
    softmax = [o for o in model.operations if kind(o) == "Softmax"]
    if any(not any(o.output is t for t in model.outputs) for o in softmax):
        return False
    made = {id(t) for o in model.operations for t in tree.flatten(o.output)}
    read = {id(t) for o in model.operations if kind(o) != "InputLayer" for t in sources_of(o)}
    return read <= made  # else a layer is called more than once: `output` is its first call's


def sources_of(operation):
    return tree.flatten(operation.input)


@dataclass
class Sum:
    operands: list
    skip: int | None
    fork: object
    position: int
    inner: bool = False  # or one that spreads an operand: then, too, γ may pass as a whole


class Structure:
    """Who is computed from whom, and the sums with their forks and skips."""

    def __init__(self, model):
        self.order = {}  # id of a tensor -> position
        self.ancestors = {}  # id of a tensor -> ids of the tensors it is computed from, and its own
        self.producer = {}
        self.users = {}
        self.keep = []
        for operation in model.operations:
            sources = sources_of(operation) if kind(operation) != "InputLayer" else []
            for target in tree.flatten(operation.output):
                self.keep.append(target)
                self.order[id(target)] = len(self.order)
                self.producer[id(target)] = operation
                own = {id(target)}
                self.ancestors[id(target)] = own.union(*(self.ancestors[id(s)] for s in sources))
            for source in sources:
                self.users.setdefault(id(source), []).append(operation)
        outputs = {id(t) for t in model.outputs}
        self.sums = []
        for operation in model.operations:
            if not self.is_sum(operation):
                continue
            users = self.users.get(id(operation.output), [])
            if len(users) == 1 and self.is_sum(users[0]) and id(operation.output) not in outputs:
                continue  # one chain of sums: judged where it ends
            operands = self.terms(operation, outputs)
            fork = self.fork(operands)
            position = self.order[id(operation.output)]
            self.sums.append(Sum(operands, self.skip(operands, fork), fork, position))
        for one in self.sums:
            spreads = len({tuple(t.shape) for t in one.operands}) > 1
            one.inner = spreads or any(self.holds(other, one) for other in self.sums)

    @staticmethod
    def is_sum(operation):
        if kind(operation) not in SUMS:
            return False
        return len(sources_of(operation)) > 1

    def terms(self, operation, outputs):
        found = []
        for source in sources_of(operation):
            producer = self.producer[id(source)]
            once = len(self.users[id(source)]) == 1 and id(source) not in outputs
            found += self.terms(producer, outputs) if once and self.is_sum(producer) else [source]
        return found

    def fork(self, operands):
        common = set.intersection(*(self.ancestors[id(t)] for t in operands))
        return max(common, key=self.order.get) if common else None

    def between(self, fork, operand):
        inside = [i for i in self.ancestors[id(operand)] if fork in self.ancestors[i]]
        return [self.producer[i] for i in inside if i != fork]

    def holds(self, outer, inner):
        """Whether the sum `inner` and its fork lie within a branch of the sum `outer`."""
        if outer.skip is None or inner.fork is None or outer.position <= inner.position:
            return False
        if inner.fork == outer.fork or outer.fork not in self.ancestors[inner.fork]:
            return False
        result = next(i for i, position in self.order.items() if position == inner.position)
        branches = outer.operands[: outer.skip] + outer.operands[outer.skip + 1 :]
        return any(result in self.ancestors[id(operand)] for operand in branches)

    def skip(self, operands, fork):
        if fork is None:
            return None
        paths = [self.between(fork, operand) for operand in operands]
        for allowed in (IDENTITY, LINEAR):
            fits = [
                n
                for n, path in enumerate(paths)
                if all(linear(o) and kind(o) in {*allowed, "Activation"} for o in path)
            ]
            whole = max(int(np.prod(t.shape[1:])) for t in operands)
            if len(fits) == 1 and int(np.prod(operands[fits[0]].shape[1:])) < whole:
                return None
            if len(fits) == 1:
                others = paths[: fits[0]] + paths[fits[0] + 1 :]
                worked = allowed is IDENTITY or all(map(works, others))
                return fits[0] if worked else None
            if fits:
                return None
        return None


def works(path):
    """Whether weights and an activation, or a norm, lie on a path."""
    weights = any(getattr(operation, "weights", ()) for operation in path if not is_norm(operation))
    return weights and any(is_norm(operation) or not linear(operation) for operation in path)


def linear(operation):
    if kind(operation) in {"Add", "Subtract", "Average"}:
        return True
    if kind(operation) in FACTORS:
        return len(sources_of(operation)) == 1  # by a constant
    activation = getattr(operation, "activation", None)
    return activation is None or activation is keras.activations.linear


class Referee:
    """Runs one model again and again, with one norm changed at a time."""

    def __init__(self, model, seed=0):
        self.model = model
        self.structure = Structure(model)
        self.norms = [operation for operation in model.operations if is_norm(operation)]
        tensors = [t for s in self.structure.sums for t in s.operands] + list(model.outputs)
        self.probe = keras.Model(model.inputs, tensors)
        random = np.random.default_rng(seed)
        self.random = random
        self.attentions = [layer for layer in model.layers if kind(layer) in ATTENTION]
        for layer in model.layers:
            if hasattr(layer, "epsilon"):
                layer.epsilon = 1e-9
            if hasattr(layer, "rate"):
                layer.rate = 0.0
            if getattr(layer, "max_value", None):
                layer.max_value = None  # ReLU6 is not positively homogeneous
        for norm in self.norms:
            norm.trainable = True  # a frozen batch normalization would use its moving statistics
            scale = scale_of(norm)
            scale.assign(random.uniform(0.5, 1.5, scale.shape))
            if getattr(norm, "beta", None) is not None:
                norm.beta.assign(random.uniform(-0.2, 0.2, norm.beta.shape))
        self.inputs = [self._example(tensor) for tensor in model.inputs]

    def _example(self, tensor):
        shape = (8, *tensor.shape[1:])
        if "int" in tensor.dtype:
            return self.random.integers(0, shape[-1], shape)
        if tensor.dtype == "bool":
            return np.tril(np.ones(shape, bool))
        return self.random.normal(size=shape).astype("float32")

    def run(self):
        return [
            keras.ops.convert_to_numpy(t)
            for t in tree.flatten(self.probe(self.inputs, training=True))
        ]

    def changed(self, norm, factor):
        """Runs with γ and β of one norm multiplied."""
        variables = [scale_of(norm), getattr(norm, "beta", None)]
        before = [(v, v.numpy()) for v in variables if v is not None]
        for variable, value in before:
            variable.assign(value * factor)
        after = self.run()
        for variable, value in before:
            variable.assign(value)
        return after

    def flat_attention(self):
        """Holds the logits at zero; returns what undoes it."""
        queries = [v for a in self.attentions for v in a._query_dense.weights]
        before = [(v, v.numpy()) for v in queries]
        for variable, value in before:
            variable.assign(0 * value)
        return before

    def roles(self) -> dict[str, str]:
        lively = self.run()
        live = {n.name: differs(lively, self.changed(n, FACTOR)) for n in self.norms}
        undo = self.flat_attention()
        base = self.run()
        found = {}
        for norm in self.norms:
            scaled = self.changed(norm, FACTOR)
            role = self.judge(norm, moves(base, scaled))
            still = not any(differs(base, scaled))
            if role == "interior" and self.attentions and still and any(live[norm.name]):
                role = "other"
            found[norm.name] = role
        for variable, value in undo:
            variable.assign(value)
        return found

    def judge(self, norm, moved):
        position = 0
        for join in self.structure.sums:
            count = len(join.operands)
            here = moved[position : position + count]
            position += count
            if not any(here):
                continue
            if all(here) and (join.skip is None or join.inner):
                continue
            if join.skip is None:
                return "other"
            behind = self.structure.ancestors[id(norm.output)] - {id(norm.output)}
            if join.fork not in behind:
                return "trunk"  # in front of the fork, the fork itself, or outside
            if not here[join.skip]:
                return "residual_last"
            return "trunk" if any(here[: join.skip] + here[join.skip + 1 :]) else "shortcut"
        return "trunk" if any(moved[position:]) else "interior"


def spread(values):
    return float(values.std())


def moves(before, after):
    """Whether the spread changed by a factor, for each tensor."""
    ratios = [spread(b) / max(spread(a), 1e-12) for a, b in zip(before, after, strict=True)]
    return [not 1 / MOVED < ratio < MOVED for ratio in ratios]


def differs(before, after):
    """Whether the values changed at all, for each tensor."""
    return [
        float(np.abs(a - b).max()) > 1e-3 * spread(a) for a, b in zip(before, after, strict=True)
    ]
