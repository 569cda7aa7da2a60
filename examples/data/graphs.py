"""Graphs of tf.data, traced as they are written."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import tensorflow as tf

_Function = TypeVar("_Function", bound=Callable[..., Any])


def unconverted(function: _Function) -> _Function:
    """Keeps AutoGraph away from all that a function, and what it calls, maps over a data set.

    Nothing there branches or loops in Python on a tensor, and AutoGraph takes many times as long to
    read the code (that of tensorflow-datasets, too) as TensorFlow to trace it.
    """
    return cast(_Function, tf.autograph.experimental.do_not_convert(function))
