"""Which roles are regularized, and how strongly: the four guidelines, as data."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from keras_gamma.decay.units import is_strength
from keras_gamma.roles.classification import Role

_PRESETS = ("paper", "none", "all")
_WORDS = {"true": 1.0, "false": 0.0}


class HasRole(Protocol):
    """One call of a layer."""

    @property
    def role(self) -> Role: ...


Call = TypeVar("Call", bound=HasRole)


@dataclasses.dataclass(frozen=True)
class Guidelines:
    """One switch or factor per role: whether L2 (or weight decay) acts on its γ.

    `True` is 1, `False` is 0; another number ≥ 0 multiplies the strength for that role.
    The defaults are our reading of Kim et al. (arXiv:2205.07260): apply to the last γ of
    residual branches and to γ that a later normalization absorbs; withhold from shortcuts,
    from the trunk, and from whatever no analysis covers.

    Args:
        residual_last: bool or float ≥ 0.
        shortcut: bool or float ≥ 0.
        interior: bool or float ≥ 0.
        trunk: bool or float ≥ 0.
        other: bool or float ≥ 0.
        scales: bool or float ≥ 0. Whether *other learned scales* (LayerScale, ReZero, a
            channel-wise affine, the gain of a kernel), which are left alone by default, are treated
            as γ of their role are; a number multiplies that strength. Decay pulls such a scale to
            0, where what it scales is switched off. Ours, not the paper's.

    Raises:
        ValueError: for an unknown role, or a factor that is negative, NaN, infinite, or not a
            number.

    Example:

    >>> import keras_gamma
    >>> keras_gamma.Guidelines(interior=0.5).factor("interior")
    0.5
    >>> str(keras_gamma.Guidelines.paper())
    'residual_last=1,shortcut=0,interior=1,trunk=0,other=0'

    Reference:

    - [Kim et al., 2022](https://arxiv.org/abs/2205.07260)
    """

    residual_last: bool | float = True
    shortcut: bool | float = False
    interior: bool | float = True
    trunk: bool | float = False
    other: bool | float = False
    scales: bool | float = False

    def __new__(cls, *args: Any, **factors: Any) -> Guidelines:
        unknown = [name for name in factors if name not in (*Role, "scales")]
        if unknown:
            raise ValueError(f"Unknown role {unknown[0]!r}. Roles are: {', '.join(Role)}.")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, numbers.Real) and not isinstance(value, (bool, int)):
                value = float(value)  # NumPy's numbers, too, which JSON does not know.
                object.__setattr__(self, field.name, value)
            if not (isinstance(value, (int, float)) and is_strength(value)):
                raise ValueError(
                    f"Guidelines: `{field.name}` must be True, False or a finite factor ≥ 0 "
                    f"(of 32 bits). Received: {value!r}"
                )

    @classmethod
    def paper(cls) -> Guidelines:
        """Apply to `residual_last` and `interior`, withhold from the rest. The default."""
        return cls()

    @classmethod
    def none(cls) -> Guidelines:
        """Regularize no γ."""
        return cls(False, False, False, False, False)

    @classmethod
    def all(cls) -> Guidelines:
        """Regularize every γ, whatever its role; no other learned scale."""
        return cls(True, True, True, True, True)

    @classmethod
    def parse(cls, text: str) -> Guidelines:
        """Reads `"paper"`, `"none"`, `"all"`, or `role=factor` pairs.

        Args:
            text: string, such as `"residual_last=1,interior=0.5"`. Roles that are not named
                are 0. `true` and `false` are understood.

        Returns:
            A `Guidelines`.

        Raises:
            ValueError: for anything else.

        Example:

        >>> import keras_gamma
        >>> keras_gamma.Guidelines.parse("interior=0.5").trunk
        0.0
        """
        if not isinstance(text, str):
            raise ValueError(f"Guidelines are written as a string. Received: {text!r}")
        name = text.strip()
        if name in _PRESETS:
            preset: Guidelines = getattr(cls, name)()
            return preset
        factors = {str(role): 0.0 for role in (*Role, "scales")}
        named = set()
        for pair in name.split(","):
            role, equals, factor = (part.strip() for part in pair.partition("="))
            if not equals or role not in factors or role in named:
                problem = f"{role!r} twice" if role in named else repr(pair.strip())
                raise ValueError(
                    f"Guidelines must be one of {', '.join(_PRESETS)}, or role=factor pairs such "
                    "as 'residual_last=1,interior=0.5' with each of the roles "
                    f"{', '.join(Role)} (or scales) at most once. Received: {text!r} ({problem})"
                )
            named.add(role)
            try:
                factors[role] = float(_WORDS.get(factor.lower(), factor))
            except ValueError:
                raise ValueError(
                    f"Guidelines: the factor of {role!r} must be a number ≥ 0. Received: {factor!r}"
                ) from None
        return cls(**factors)

    @classmethod
    def get(cls, value: Any) -> Guidelines:
        """`None` (the default), a `Guidelines`, or a string for `parse`, as `Guidelines`."""
        if value is None:
            return cls.paper()
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls.parse(value)
        raise ValueError(
            "`guidelines` must be a keras_gamma.Guidelines, a string such as 'paper' or "
            f"'residual_last=1,interior=0.5', or None. Received: {value!r}"
        )

    def factor(self, role: Role | str) -> float:
        """The factor for `role` (a `Role` or its name) as a float.

        Raises:
            ValueError: if there is no such role.
        """
        try:
            role = Role(role)
        except ValueError:
            raise ValueError(f"Unknown role {role!r}. Roles are: {', '.join(Role)}.") from None
        return float(getattr(self, str(role)))

    def strictest(self, calls: Sequence[Call], *, scale: bool = False) -> tuple[float, Call]:
        """The factor for a γ whose layer is called several times, and the call that decides it.

        A shared layer has a role per call, and is regularized only as far as every call allows.

        Args:
            calls: what has a `role`, one for each call; at least one.
            scale: bool. Whether it is another learned scale than a γ.
        """
        decisive = min(calls, key=lambda call: self.factor(call.role))
        times = float(self.scales) if scale else 1.0
        return times * self.factor(decisive.role), decisive

    def __str__(self) -> str:
        roles = ",".join(f"{role}={self.factor(role):g}" for role in Role)
        return f"{roles},scales={float(self.scales):g}" if self.scales else roles
