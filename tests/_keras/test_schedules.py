"""A schedule says by hand what it says in a step, and is not compiled at each call."""

import keras
import numpy as np
import pytest

from keras_gamma._keras import schedules
from keras_gamma.decay import shrinkage

STEPS = [0, 3, 10, 11, 2**20]


class Halves(keras.optimizers.schedules.LearningRateSchedule):
    """Two branches, as Keras' warm-ups have; notes its calls, and the branches that are made."""

    def __init__(self):
        self.calls, self.branches = 0, []

    def __call__(self, step):
        self.calls += 1
        step = keras.ops.cast(step, "float32")
        return keras.ops.cond(
            step < 10.5, lambda: self._branch("early", 0.5), lambda: self._branch("late", 0.25)
        )

    def _branch(self, name, rate):
        self.branches.append(name)
        return keras.ops.convert_to_tensor(rate, "float32")


class Decides(Halves):
    """Cannot be compiled."""

    def __call__(self, step):
        self.calls += 1
        return 0.5 if float(step) < 10.5 else 0.25


def warm_up():
    return keras.optimizers.schedules.CosineDecay(
        0.1, decay_steps=50, warmup_target=0.5, warmup_steps=10
    )


def test_many_steps_at_once():
    schedule = warm_up()
    expected = [0.1, 0.1 + 0.4 * 0.3, 0.5, 0.25 * (1 + np.cos(np.pi / 50)), 0.0]
    np.testing.assert_allclose(schedules.rates(schedule, STEPS), expected, atol=1e-6)
    one_by_one = [float(keras.ops.convert_to_numpy(schedule(step))) for step in STEPS[:3]]
    np.testing.assert_allclose(schedules.rates(schedule, STEPS[:3]), one_by_one, rtol=1e-5)


@pytest.mark.parametrize("kind", [Halves, Decides])
def test_what_cannot_be_compiled_is_asked_all_the_same(kind):
    schedule = kind()
    assert schedules.rates(schedule, STEPS) == [0.5, 0.5, 0.5, 0.25, 0.25]
    if kind is Halves and keras.backend.backend() != "torch":
        assert schedule.calls < len(STEPS)  # It was compiled.


def test_a_function_is_asked_at_each_step():
    asked = []
    assert schedules.rates(lambda step: asked.append(step) or 0.5, STEPS) == [0.5] * 5
    assert asked == STEPS


def test_an_error_is_that_of_the_schedule():
    def fails(step):
        raise OSError(step)

    with pytest.raises(OSError, match="3"):
        schedules.rates(fails, [3])


def test_the_rate_of_now_makes_one_branch_and_no_other():
    schedule = Halves()
    optimizer = keras.optimizers.SGD(schedule)
    variable = keras.Variable(1.0)
    optimizer.build([variable])
    assert shrinkage.learning_rate(optimizer) == 0.5
    assert schedule.branches == ["early"]
    optimizer.iterations.assign(11)
    assert shrinkage.learning_rate(optimizer) == 0.25
    assert schedule.branches == ["early", "late"]
