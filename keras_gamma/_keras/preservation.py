"""What a trace leaves on layers and in Keras' counters, put back.

Private names used here, and why there is no public way:

* `keras.src.backend.common.global_state`: the counters behind automatic names, so that a trace
  does not change the names of layers that are made after it.
* `Layer._losses`, `Layer._loss_ids`: the losses of the last eager call, to be put back.
* `keras.src.utils.tracking.Tracker`: a layer's record of what it holds, to be put back after a
  build that failed.
"""

import contextlib
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.utils.tracking import Tracker

_AUTO_NAMES = "object_name_uids"


@contextlib.contextmanager
def preserve_auto_names() -> Iterator[None]:
    """Restore the counters behind automatic layer names on exit."""
    counters = global_state.get_global_attribute(_AUTO_NAMES)
    saved = None if counters is None else dict(counters)
    try:
        yield
    finally:
        counters = global_state.get_global_attribute(_AUTO_NAMES)
        if counters is not None:
            counters.clear()
            counters.update(saved or {})


@contextlib.contextmanager
def preserve_attributes(layers: Iterable[keras.Layer]) -> Iterator[None]:
    """Restore the Python attributes of built `layers` on exit.

    A `call` may leave things on its layer (a mask, the last scores, `_called`). Only
    what changed is put back. Layers that are built by the trace keep what building set.
    """
    saved = [
        (layer, vars(layer).copy(), [(value, tuple(value)) for value in _loss_collections(layer)])
        for layer in layers
        if layer.built
    ]
    try:
        yield
    finally:
        for layer, before, collections in saved:
            now = vars(layer)
            if len(now) == len(before) and all(map(operator.is_, now.values(), before.values())):
                _restore(collections)
                continue
            for name in [name for name in now if name not in before]:
                del now[name]
            for name, value in before.items():
                if name not in now or now[name] is not value:
                    now[name] = value
            _restore(collections)


def _restore(collections: Iterable[tuple[Any, tuple[Any, ...]]]) -> None:
    for collection, content in collections:
        if collection or content:
            collection.clear()
            for item in content:
                (collection.add if isinstance(collection, set) else collection.append)(item)


def _loss_collections(layer: keras.Layer) -> list[Any]:
    """What `add_loss` gathered on a layer in its last call; every call clears it in place."""
    return [layer._losses, layer._loss_ids]


@contextlib.contextmanager
def restore_on_error(layers: Iterable[keras.Layer]) -> Iterator[None]:
    """Restores the attributes of unbuilt `layers` if an exception passes through.

    Building changes more than a trace may leave behind: a `Sequential` that fails to build keeps an
    input layer, and layers in front of the failure keep their weights.
    """
    saved = [(layer, _content(vars(layer))) for layer in layers if not layer.built]
    try:
        yield
    except BaseException:
        for layer, before in saved:
            now = vars(layer)
            for name in [name for name in now if name not in before]:
                del now[name]
            for name, (value, refill) in before.items():
                now[name] = value
                if refill is not None:
                    refill()
        raise


def _content(attributes: dict[str, Any]) -> dict[str, tuple[Any, Callable[[], object] | None]]:
    """Attribute -> its value, and what puts back what the value holds, if it is a collection."""
    return {name: (value, _refilling(value)) for name, value in attributes.items()}


def _refilling(value: Any) -> Callable[[], object] | None:
    """A function that gives a collection, or a layer's tracker, what it holds now; or `None`."""
    if isinstance(value, Tracker):
        # It knows by ids of its own what is tracked, and in which lists.
        collections = [*value.stored_ids.values(), *(store for _, store in value.config.values())]
        refills = [refill for refill in map(_refilling, collections) if refill is not None]
        locked, message = value.locked, value._lock_violation_msg

        def refill_all() -> None:
            for each in refills:
                each()
            value.locked, value._lock_violation_msg = locked, message

        return refill_all
    for kind, fill in _COLLECTIONS.items():
        if isinstance(value, kind):
            copy = kind(value)
            # Past what Keras' own collections do when something is added.
            return lambda: (kind.clear(value), fill(value, copy))
    return None


_COLLECTIONS: dict[Any, Callable[[Any, Any], None]] = {
    list: list.extend,
    dict: dict.update,
    set: set.update,
}
