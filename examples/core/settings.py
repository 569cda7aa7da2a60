"""Settings as frozen dataclasses, whose fields are the flags: each is written once.

    @dataclasses.dataclass(frozen=True)
    class Sizes:
        width: int = setting(16, "Filters of the first stage.", low=1)

    define(Sizes, width=24)  # --width, with a script's own default
    sizes = read(Sizes)      # once absl has parsed the command line

Whatever is below a script's `main` gets such values, and looks at no global flag.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from absl import flags

from examples.core.cli import UsageError

Kind = TypeVar("Kind")
_LARGEST = 3.4028235e38  # of 32 bits


def setting(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] | None = None,
    check: Callable[[str], object] | None = None,
    empty: bool = False,
) -> Any:
    """Describes a field of a class of settings, and with it a flag.

    Args:
        default: value if the command line has none.
        text: of `--help`.
        low: the smallest value that is allowed.
        high: the largest.
        choices: the only values that are allowed.
        check: function that raises `ValueError` for a wrong value, and is shown it.
        empty: whether an empty text is one.
    """
    limits = {
        "text": text,
        "low": low,
        "high": high,
        "choices": choices,
        "check": check,
        "empty": empty,
    }
    return dataclasses.field(default=default, metadata=limits)


def define(kind: type[Any], **defaults: Any) -> None:
    """Defines the flags of a class of settings, with other defaults for some."""
    annotations = typing.get_type_hints(kind)
    if unknown := defaults.keys() - annotations.keys():
        raise TypeError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
    for field in dataclasses.fields(kind):
        default = defaults.get(field.name, field.default)
        holder = _define(field.name, annotations[field.name], default, field.metadata)
        checks = [
            field.metadata["check"],
            _check_finite if _plain(annotations[field.name]) is float else None,
            None if field.metadata["empty"] else _check_not_empty,
        ]
        for check in filter(None, checks):
            flags.register_validator(  # type: ignore[no-untyped-call]
                holder, _validator(check)
            )


def read(kind: type[Kind], **otherwise: Any) -> Kind:
    """Returns the settings that the command line asks for.

    Args:
        kind: a class of settings whose flags are defined.
        **otherwise: values of fields that the command line does not name, in place of the
            defaults: for those that depend on other fields.
    """
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        flag = flags.FLAGS[field.name]
        value = flag.value
        if flag.using_default_value:
            value = otherwise.get(field.name, value)
        found[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**found)


def names_of(*kinds: type[Any]) -> set[str]:
    """Returns the names of the fields of classes of settings."""
    return {field.name for kind in kinds for field in dataclasses.fields(kind)}


def refuse_idle(names: Iterable[str], why: str) -> None:
    """Refuses flags that would change nothing, if somebody typed them.

    Args:
        names: of the flags. One with its default value asks for nothing.
        why: what makes them idle, in words.

    Raises:
        UsageError: so they would.
    """
    typed = [flags.FLAGS[name] for name in sorted(names)]
    typed = [flag for flag in typed if flag.present and flag.value != flag.default]
    if typed:
        given = ", ".join(f"--{flag.name}" for flag in typed)
        raise UsageError(f"{given}: without effect {why}; leave out what is not meant")


def values_of(*parts: Any) -> dict[str, Any]:
    """Returns name and value of each setting of several classes."""
    return {name: value for part in parts for name, value in dataclasses.asdict(part).items()}


def command_line(values: Mapping[str, Any]) -> list[str]:
    """Returns the flags that ask for these values; `None` asks for nothing."""
    words = []
    for name, value in values.items():
        if isinstance(value, bool):
            words.append(f"--{name}={str(value).lower()}")
        elif isinstance(value, (list, tuple)):
            words.append(f"--{name}={','.join(map(str, value))}")
        elif value is not None:
            words.append(f"--{name}={value}")
    return words


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Returns the names that differ, each with its values in both; `None` where there is none."""
    return [
        (name, earlier.get(name), now.get(name))
        for name in sorted(earlier.keys() | now.keys())
        if earlier.get(name) != now.get(name)
    ]


def _define(
    name: str, annotation: Any, default: Any, limits: Mapping[str, Any]
) -> "flags.FlagHolder[Any]":
    kind, text = _plain(annotation), limits["text"]
    if limits["choices"] is not None:
        return flags.DEFINE_enum(name, default, list(limits["choices"]), text)
    if kind is bool:
        return flags.DEFINE_bool(name, default, text)
    if kind is int:
        return flags.DEFINE_integer(name, default, text, limits["low"], limits["high"])
    if kind is float:
        return flags.DEFINE_float(name, default, text, limits["low"], limits["high"])
    if kind is str:
        return flags.DEFINE_string(name, default, text)
    return flags.DEFINE_list(name, list(default), text)


def _plain(annotation: Any) -> Any:
    """The type itself, of a type that may be `None`."""
    if isinstance(annotation, types.UnionType):
        [annotation] = [one for one in typing.get_args(annotation) if one is not type(None)]
    return annotation


def _check_finite(value: float | None) -> None:
    if value is not None and not abs(value) <= _LARGEST:
        raise ValueError(f"{value} is no finite number of 32 bits")


def _check_not_empty(value: Any) -> None:
    if value == "":
        raise ValueError("it is empty; leave the flag out for its default")


def _validator(check: Callable[[str], object]) -> Callable[[str], bool]:
    def validate(value: str) -> bool:
        try:
            check(value)
        except ValueError as error:
            raise flags.ValidationError(str(error)) from error
        return True

    return validate
