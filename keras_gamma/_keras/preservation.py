"""What a trace leaves on layers and in Keras' counters, put back.

Private names used here, and why there is no public way:

* `keras.src.backend.common.global_state`: the counters behind automatic names, so that a trace
  does not change the names of layers that are made after it.
* `Layer._losses`, `Layer._loss_ids`: the losses of the last eager call, to be put back.
"""

import contextlib
import operator

from keras.src.backend.common import global_state

_AUTO_NAMES = "object_name_uids"


@contextlib.contextmanager
def preserve_auto_names():
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
def preserve_attributes(layers):
    """Restore the Python attributes of built `layers` on exit.

    A `call` may leave things on its layer (a mask, the last scores, `_called`). Only
    what changed is put back. Layers that are built by the trace keep what building set.
    """
    saved = [
        (layer, dict(vars(layer)), [(value, list(value)) for value in _loss_collections(layer)])
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


def _restore(collections):
    for collection, content in collections:
        if collection or content:
            collection.clear()
            for item in content:
                (collection.add if isinstance(collection, set) else collection.append)(item)


def _loss_collections(layer):
    """What `add_loss` gathered on a layer in its last call; every call clears it in place."""
    return [layer._losses, layer._loss_ids]
