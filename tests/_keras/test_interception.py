"""A trace leaves Keras exactly as it was, whatever happens, and whoever else traces."""

import sys
import threading

import keras
import pytest
from keras import layers
from keras.src import backend
from keras.src.layers import layer as layer_module

import keras_gamma
from keras_gamma._keras import interception, replacement

OWNERS = (
    keras.Variable,
    keras.KerasTensor,
    keras.Layer,
    keras.Operation,
    layer_module,
    backend.core if hasattr(backend, "core") else backend.ops.core,  # From Keras 3.16 on.
)


class Handler:
    paused = False

    def enter(self, layer, args, kwargs, call):
        return call(layer, *args, **kwargs)

    def __call__(self, operation, args, kwargs):
        return keras.KerasTensor((2, 3))


def state():
    """All that a class or module holds itself, by identity.

    But for its annotations: Python makes them when they are first asked for.
    """
    return [
        {name: value for name, value in vars(owner).items() if name != "__annotations__"}
        for owner in OWNERS
    ]


def assert_untouched(before):
    for owner, then, now in zip(OWNERS, before, state(), strict=True):
        assert now.keys() == then.keys(), owner
        assert all(now[name] is then[name] for name in then), owner
    assert interception._handler.get() is None
    assert interception._lock.acquire(blocking=False)  # By this thread or no other.
    interception._lock.release()


def test_everything_that_is_replaced_is_an_owner_that_is_watched():
    assert {owner for owner, _, _ in interception._PATCHES} <= set(OWNERS)
    before = state()
    with interception.intercept_symbolic_calls(Handler()):
        replaced = sum(
            now.get(name) is not then.get(name)
            for then, now in zip(before, state(), strict=True)
            for name in now
        )
    assert replaced == len(interception._PATCHES)
    assert_untouched(before)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_inside_a_trace_leaves_keras_as_it_was(error):
    before = state()
    with pytest.raises(error), interception.intercept_symbolic_calls(Handler()):
        raise error
    assert_untouched(before)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_at_any_patch_leaves_keras_as_it_was(monkeypatch, error):
    before, patches = state(), interception._PATCHES

    def fail(original):
        raise error

    for point, (owner, name, _) in enumerate(patches):
        changed = (*patches[:point], (owner, name, fail), *patches[point + 1 :])
        monkeypatch.setattr(interception, "_PATCHES", changed)
        with pytest.raises(error):
            with interception.intercept_symbolic_calls(Handler()):
                pass
        assert_untouched(before)


def test_an_interrupt_at_any_line_of_entering_or_leaving_leaves_keras_as_it_was():
    """Python delivers an interrupt between lines: here at each of them in turn."""
    before, lines, raised = state(), 0, True
    files = interception.__file__, replacement.__file__

    def run(raise_at):
        count = 0

        def at_line(frame, event, arg):
            nonlocal count
            if event == "line":
                count += 1
                if count == raise_at:
                    raise KeyboardInterrupt
            return at_line

        def at_call(frame, event, arg):
            return at_line if frame.f_code.co_filename in files else None

        tracer = sys.gettrace()
        sys.settrace(at_call)
        try:
            with interception.intercept_symbolic_calls(Handler()):
                pass
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(tracer)
        return False

    while raised:
        lines += 1
        raised = run(lines)
        assert_untouched(before)
    assert lines > 10 * len(interception._PATCHES)


def test_find_roles_leaves_every_class_as_it_was():
    before = state()
    x = keras.Input((4,))
    model = keras.Model(x, layers.LayerNormalization()(x))
    assert len(keras_gamma.find_roles(model)) == 1
    assert_untouched(before)


def test_threads_trace_at_once_and_others_are_served_by_keras():
    before, failures = state(), []
    start = threading.Barrier(5)

    def build(width):
        x = keras.Input((width,))
        y = layers.Dense(width)(layers.LayerNormalization()(x))
        return keras.Model(x, layers.Add()([x, y]))

    def traces(width):
        model = build(width)
        start.wait()
        for _ in range(20):
            network = keras_gamma.network.trace(model)
            kinds = [str(n.kind) for n in network.graph.nodes if n.kind != "identity"]
            if kinds != ["input", "norm", "linear", "sum"]:
                failures.append(kinds)

    def builds():
        start.wait()
        for _ in range(20):
            model = build(3)  # Needs the nodes that a trace does not record.
            if len(model.layers) != 4 or len(model.layers[1]._inbound_nodes) != 1:
                failures.append(model)

    work = [threading.Thread(target=traces, args=(width,)) for width in (4, 5, 6)]
    work += [threading.Thread(target=builds) for _ in range(2)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join(timeout=120)
    assert failures == []
    assert not any(thread.is_alive() for thread in work)
    assert_untouched(before)
