"""Graphs of tf.data, traced as they are written, and run without a tuner."""

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import tensorflow as tf

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Batches that are made at a time, or examples: more threads than processors only take turns.
AT_A_TIME = os.cpu_count() or 1
_READY = 2  # batches that wait for the device: of large images, more would fill the memory


def unconverted(function: _Function) -> _Function:
    """Keeps AutoGraph away from all that a function, and what it calls, maps over a data set.

    Nothing there branches or loops in Python on a tensor, and AutoGraph takes many times as long to
    read the code (that of tensorflow-datasets, too) as TensorFlow to trace it.
    """
    return cast(_Function, tf.autograph.experimental.do_not_convert(function))


def ready(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Lets a few batches wait for the device, made ahead by threads of tf.data's.

    Its tuner is off for all of the data set: it has nothing to choose here, for every number is
    given, and who deletes an iterator may have to wait until it looks again, which is after 10 ms,
    20, 40 and so on up to a minute. A run would wait at its end for as long as it had lasted.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(_READY).with_options(options)
