"""A thread of its own: there Keras and TensorFlow are as they are at the start.

Scopes (`tf.distribute.Strategy`, `keras.distribution`, name scopes, stateless scopes) and the
counters behind automatic names belong to the thread that opened them. What is tried out apart, on
small variables, is neither shared out over devices nor seen by the caller's names.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


def apart(function: Callable[[], _Result]) -> _Result:
    """Calls `function` in a new thread, and returns, or raises, what it does.

    Args:
        function: without arguments.

    Example:

    >>> from keras_gamma._keras.apart import apart
    >>> apart(lambda: 1 + 1)
    2
    """
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="keras_gamma", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
