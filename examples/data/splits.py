"""Which part of a data set is learnt from, which decides between runs, and which is the test."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds

from examples.core.cli import UsageError

NONE = "none"
_HELD_OUT = 10  # percent of the training split, where a set brings nothing to validate on


@dataclasses.dataclass(frozen=True)
class Splits:
    """Names of splits, as tensorflow-datasets takes them (`train`, `train[:90%]`).

    Args:
        train: to learn from.
        test: for the score at the end.
        validation: for what is looked at in between; `None` for nothing.
    """

    train: str
    test: str
    validation: str | None


def warn_if_shared(info: tfds.core.DatasetInfo, splits: Splits) -> None:
    """Says so, if some of what is tested or validated on is also learnt from.

    Args:
        info: of the set.
        splits: of it.
    """
    there = info.splits  # empty for sets that tensorflow-datasets makes up
    for held_out in {splits.validation, splits.test}:
        if there and held_out is not None:
            count = _shared(
                there[splits.train].file_instructions, there[held_out].file_instructions
            )
            if count:
                print(
                    f"warning: {splits.train} and {held_out} of {info.name} have {count} examples "
                    "in common, so that the score is better than it should be",
                    flush=True,
                )


def _shared(some: Sequence[Any], others: Sequence[Any]) -> int:
    """Returns how many examples belong to both; each is a part of a file."""
    known = {str(one.filename): one for one in some}
    pairs = [(known[str(one.filename)], one) for one in others if str(one.filename) in known]
    return sum(
        max(0, min(a.skip + a.take, b.skip + b.take) - max(a.skip, b.skip)) for a, b in pairs
    )


def choose(
    name: str,
    there: Sequence[str],
    *,
    train: str | None = None,
    validation: str | None = None,
    test: str | None = None,
) -> Splits:
    """Chooses among the splits of a set; what is given stays.

    By default the test is `test`, or `validation` where a set has no other. Validation is the split
    of that name, if it is not the test; else a tenth of `train`, which is not trained on then.

    Args:
        name: of the data set.
        there: its splits.
        train: what to learn from.
        validation: what to validate on, or `none`.
        test: what to test on.

    Raises:
        UsageError: nothing fits.
    """
    if test is None:
        test = next((one for one in ("test", "validation") if one in there), None)
        if test is None or (train is None and "train" not in there):
            raise UsageError(
                f"{name} has the splits {list(there)}; expected train and test (or validation). "
                "Say which to use with --train_split, --validation_split and --test_split"
            )
    if validation == NONE:
        return Splits(train or "train", test, None)
    if validation is not None:
        return Splits(train or "train", test, validation)
    if "validation" in there and not test.startswith("validation"):
        return Splits(train or "train", test, "validation")
    whole = train or "train"
    if "[" in whole or "+" in whole:
        raise UsageError(
            f"--train_split={whole} leaves open what to validate on; pass --validation_split, too "
            f"(a part of {name}, or none)"
        )
    kept = 100 - _HELD_OUT
    return Splits(f"{whole}[:{kept}%]", test, f"{whole}[{kept}%:]")
