"""Steps of training, timed in one process: interleaved, as medians and ratios."""

import statistics
import time

import keras
import numpy as np
from scipy import stats


class Timer(keras.callbacks.Callback):
    """The time from before the first batch to after the last; goes first and last in the list.

    Args:
        clock: function that returns seconds: `time.process_time`, for one, which does not count
            what other processes on the machine take.
    """

    def __init__(self, clock=time.perf_counter):
        super().__init__()
        self.seconds = 0.0
        self._clock = clock
        self._began = None

    def on_train_batch_begin(self, batch, logs=None):
        if self._began is None:
            self._began = self._clock()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds = self._clock() - self._began


def interleave(contenders, rounds):
    """Runs all contenders in turn, `rounds` times, each round in another order.

    Args:
        contenders: dict from a name to a function that runs once and returns seconds.
        rounds: integer.

    Returns:
        A dict from each name to the list of its seconds.
    """
    random = np.random.default_rng(0)
    seconds = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in random.permutation(list(contenders)):
            seconds[name].append(contenders[name]())
    return seconds


def ratio(seconds, base):
    """Median ratio of two lists of seconds of the same rounds, and its quartiles."""
    ratios = [a / b for a, b in zip(seconds, base, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, low, high


def paired_median(seconds, base):
    """Median ratio of two lists of seconds of the same rounds, and its 95 % interval.

    The interval is the exact one of order statistics; it says how well the median is known, not how
    far single rounds are spread.
    """
    ratios = np.divide(seconds, base)
    interval = stats.quantile_test(ratios, p=0.5).confidence_interval(0.95)
    return float(np.median(ratios)), float(interval.low), float(interval.high)
