"""Einsums that multiply each element of one operand by a factor: `bld,d->bld`."""

from typing import Any

_REST = "\N{HORIZONTAL ELLIPSIS}"  # stands for `...`, as one label


def equation_of(einsum: Any) -> str:
    """The equation of an einsum, of Keras' or of a backend's graph."""
    if not hasattr(einsum, "attribute"):
        return str(einsum.subscripts)
    equation = einsum.attribute("equation")
    return equation.decode() if isinstance(equation, bytes) else str(equation)


def scales_elements(einsum: Any, place: int) -> bool:
    """Whether each element of the operand at `place` is multiplied by a factor, and none added up.

    Axes may change places, but none may be new, or gone.
    """
    equation = equation_of(einsum).replace(" ", "").replace("...", _REST)
    operands, arrow, result = equation.partition("->")
    parts = operands.split(",")
    if not arrow or place >= len(parts):
        return False
    own = parts[place]
    is_simple = len(set(own)) == len(own) and len(set(result)) == len(result)
    return is_simple and set(result) == set(own) and all(set(part) <= set(own) for part in parts)
