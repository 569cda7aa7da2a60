"""The sums of a network, as running it shows them, and which of them are residual. Pure.

What is known of a tensor comes from running the step that yields it; connectivity is reachability.
Nothing here is taken from the analysis that is being checked.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from keras_gamma.checks.probes import Combination


@dataclasses.dataclass
class Tensor:
    """One tensor that is computed from the model's inputs.

    Args:
        number: integer, its place in the order of computation.
        label: string, how a reader finds it.
        size: integer, how many elements it has.
        behind: integer, one bit for each tensor that it is computed from.
        root: integer, the tensor that it equals up to order and a constant.
        varies: bool, whether its values have a scale, and follow the inputs.
        operands: tuple of integers, the tensors that vary among those that its step reads.
        how: a `Combination`, what its step does with them.
        bent: those operands that its step adds something else of than a multiple, if it is a sum.
        is_norm: bool, whether its step is a normalization.
        parts: integer, one bit for each tensor that a normalization that is written out computes
            from what it normalizes: its statistics.
        is_bounded: bool, whether its values stay bounded whatever comes in, as a gate's.
        has_weights: bool, whether weights take part in its step.
        linear: function from some of the operands to whether the step is linear in them.
        consumers: list of integers, the tensors computed from it in one step.
        is_output: bool, whether it is an output of the model.
    """

    number: int
    label: str
    size: int = 0
    behind: int = 0
    root: int = -1
    varies: bool = False
    operands: tuple[int, ...] = ()
    how: Combination = Combination.ALONE
    bent: frozenset[int] = frozenset()
    is_norm: bool = False
    parts: int = 0
    is_bounded: bool = False
    has_weights: bool = False
    linear: Callable[[tuple[int, ...]], bool] = lambda operands: False
    consumers: list[int] = dataclasses.field(default_factory=list)
    is_output: bool = False
    is_live: bool = False


@dataclasses.dataclass
class Sum:
    """A sum, with the terms of the whole chain that ends in it.

    Args:
        terms: tuple of integers, the tensors that are added.
        fork: integer, the last tensor from which all of them are computed, or `None`.
        skip: integer, the term that carries the fork on, or `None`: then it is not residual.
        merged_into: integer, the sum that continues the chain, or `None`.
    """

    terms: tuple[int, ...]
    fork: int | None
    skip: int | None
    merged_into: int | None = None

    @property
    def is_residual(self) -> bool:
        """Whether it has a skip."""
        return self.skip is not None


class Sums:
    """All sums of a network.

    Args:
        tensors: sequence of `Tensor`, by their number.
    """

    def __init__(self, tensors: Sequence[Tensor]):
        self._tensors = tensors
        self._varying = sum(1 << tensor.number for tensor in tensors if tensor.varies)
        self._linear: dict[tuple[int, int], bool] = {}
        self._steps: dict[tuple[int, tuple[int, ...]], bool] = {}
        self.found: dict[int, Sum] = {}
        for tensor in tensors:
            if tensor.how is Combination.SUM and tensor.is_live and tensor.varies:
                self.found[tensor.number] = self._make(tensor)

    def is_before(self, first: int, second: int) -> bool:
        """Whether the tensor `second` is computed from the tensor `first`."""
        return bool(self._tensors[second].behind >> first & 1)

    def final(self, number: int) -> int:
        """The sum in which the chain of the sum `number` ends."""
        while (after := self.found[number].merged_into) is not None:
            number = after
        return number

    def is_sum_of_logits(self, number: int) -> bool:
        """Whether only gates and softmaxes read it, to weigh other values."""
        stack, seen = [number], set()
        reached = False
        while stack:
            current = self._tensors[stack.pop()]
            if current.is_output:
                return False
            for index in current.consumers:
                consumer = self._tensors[index]
                if index in seen or not consumer.is_live:
                    continue
                seen.add(index)
                if consumer.is_bounded and self._only_weighs(index):
                    reached = True
                elif consumer.how in (Combination.ALONE, Combination.SUM):
                    if consumer.has_weights or consumer.is_norm:
                        return False
                    stack.append(index)
                else:
                    return False
        return reached

    def _only_weighs(self, number: int) -> bool:
        """Whether all that is done with a tensor is to multiply others with it."""
        stack = [number]
        while stack:
            current = self._tensors[stack.pop()]
            readers = [self._tensors[n] for n in current.consumers if self._tensors[n].is_live]
            if current.is_output or not readers:
                return False
            for reader in readers:
                if reader.how is Combination.ALONE and not (reader.has_weights or reader.is_norm):
                    stack.append(reader.number)
                elif reader.how is not Combination.OTHER:
                    return False
        return True

    def may_be_residual(self, number: int, norm: int) -> bool:
        """Whether some of the terms are a residual sum: `a + f(b) + b`, with `a` of another origin.

        Which terms belong together is not in the numbers then.
        """
        own = (self._tensors[norm].behind | 1 << norm) & self._varying
        terms = [t for t in self.found[number].terms if (self._tensors[t].behind | 1 << t) & own]
        fork = self._fork(terms) if len(terms) > 1 else None
        return fork is not None and self._skip(terms, terms, fork) is not None

    def is_absorbed_behind(self, number: int) -> bool:
        """Whether what logits weigh meets a normalization before any other sum, or output."""
        stack, seen = [(number, False)], set()
        while stack:
            current, weighed = stack.pop()
            if weighed and self._tensors[current].is_output:
                return False
            for index in self._tensors[current].consumers:
                reader = self._tensors[index]
                after = weighed or reader.is_bounded
                if reader.is_norm or not reader.is_live or (index, after) in seen:
                    continue
                if weighed and reader.how is Combination.SUM:
                    return False
                seen.add((index, after))
                stack.append((index, after))
        return True

    def spreads(self, number: int) -> bool:
        """Whether a sum spreads a smaller term over a larger one."""
        sizes = {self._tensors[term].size for term in self.found[number].terms}
        return len(sizes) > 1

    def encloses(self, norm: int, number: int) -> bool:
        """Whether what lies from `norm` to `number` is part of a branch of a residual sum."""
        for index, one in self.found.items():
            if one.skip is None or one.fork is None or one.merged_into is not None:
                continue
            if not self.is_before(one.fork, norm) or not self.is_before(number, index):
                continue
            branches = [term for term in one.terms if term != one.skip]
            if any(term == number or self.is_before(number, term) for term in branches):
                return True
        return False

    def _make(self, tensor: Tensor) -> Sum:
        operands = list(dict.fromkeys(tensor.operands))
        parts = {
            operand: self.found[operand]
            for operand in operands
            if operand in self.found and self._continues(self.found[operand], operand, tensor)
        }
        fork = self._fork(_terms(operands, parts))
        if len(parts) > 1:  # A part that forks behind the whole is a sum of its own.
            parts = {o: p for o, p in parts.items() if not p.is_residual or p.fork == fork}
            fork = self._fork(_terms(operands, parts))
        for part in parts.values():
            part.merged_into = tensor.number
        terms = _terms(operands, parts)
        whole = [term for term in terms if term not in tensor.bent]
        return Sum(tuple(terms), fork, None if fork is None else self._skip(terms, whole, fork))

    def _continues(self, part: Sum, operand: int, tensor: Tensor) -> bool:
        """Whether two sums are one of more terms: `x + a + m`, however it is written."""
        source = self._tensors[operand]
        readers = [n for n in source.consumers if self._tensors[n].is_live]
        if readers != [tensor.number] or source.is_output:
            return False
        if not part.is_residual:
            return True
        others = [number for number in tensor.operands if number != operand]
        return part.fork == self._fork([*part.terms, *others])

    def _fork(self, terms: Iterable[int]) -> int | None:
        common = self._varying
        for term in terms:
            common &= self._tensors[term].behind | 1 << term
        return common.bit_length() - 1 if common else None

    def _skip(self, terms: Sequence[int], whole: Sequence[int], fork: int) -> int | None:
        """The term that carries the fork on, among those that are added as they are (`whole`)."""
        root = self._tensors[fork].root
        carried = [term for term in whole if self._tensors[term].root == root]
        if carried:  # Differences between the elements of one tensor have no branch.
            return carried[0] if len(carried) < len(terms) else None
        # What is spread over a larger tensor, a context or a condition, carries no stream on.
        size = max(self._tensors[term].size for term in terms)
        large = [term for term in whole if self._tensors[term].size == size]
        linear = [term for term in large if self._is_linear(fork, term)]
        if len(linear) != 1:
            return None
        rest = [term for term in terms if term != linear[0]]
        return linear[0] if all(self._is_a_branch(fork, term) for term in rest) else None

    def _between(self, fork: int, term: int) -> list[Tensor]:
        """The tensors computed from the fork that the term is computed from, itself included."""
        found, bits = [], (self._tensors[term].behind | 1 << term) >> (fork + 1)
        number = fork
        while bits:
            low = (bits & -bits).bit_length()
            number, bits = number + low, bits >> low
            if self._tensors[number].behind >> fork & 1:
                found.append(self._tensors[number])
        parts = 0
        for tensor in found:
            parts |= tensor.parts
        if not parts:
            return found
        # What belongs to one normalization, and to nothing else, is that normalization.
        inside = sum(1 << tensor.number for tensor in found if not tensor.parts)
        return [t for t in found if not parts >> t.number & 1 or self._is_read(t, inside & ~parts)]

    def _is_read(self, tensor: Tensor, by: int) -> bool:
        """Whether any of some tensors is computed from `tensor` in one step."""
        return any(by >> number & 1 for number in tensor.consumers)

    def _is_linear(self, fork: int, term: int) -> bool:
        if (fork, term) not in self._linear:
            inside = self._between(fork, term)
            # First what costs little to ask, or is the likeliest to say no.
            inside.sort(key=lambda tensor: tensor.has_weights)
            path = {fork, *(tensor.number for tensor in inside)}
            self._linear[fork, term] = all(self._is_linear_step(t, path) for t in inside)
        return self._linear[fork, term]

    def _is_linear_step(self, tensor: Tensor, path: set[int]) -> bool:
        if tensor.is_norm or tensor.how in (Combination.SUM, Combination.BESIDE):
            return True
        operands = tuple(n for n in tensor.operands if n in path)
        # To ask costs several runs of the step; nested sums ask the same of the same steps.
        if (tensor.number, operands) not in self._steps:
            self._steps[tensor.number, operands] = tensor.linear(operands)
        return self._steps[tensor.number, operands]

    def _is_a_branch(self, fork: int, term: int) -> bool:
        """Whether it passes through weights, and an activation or a normalization."""
        inside = self._between(fork, term)
        if not any(tensor.has_weights and not tensor.is_norm for tensor in inside):
            return False
        return any(tensor.is_norm for tensor in inside) or not self._is_linear(fork, term)


def _terms(operands: Iterable[int], parts: Mapping[int, Sum]) -> list[int]:
    """Operands, with the terms of those that are parts in their place."""
    return [
        term
        for operand in operands
        for term in (parts[operand].terms if operand in parts else (operand,))
    ]
