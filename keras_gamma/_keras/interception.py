"""Symbolic calls, sent to a handler of ours for the time of a trace.

While keras_gamma is only imported Keras is untouched; a trace replaces the names below, and puts
back exactly what was there: a name that a class inherited is deleted, not set.

Private names used here, and why there is no public way:

* `Operation.symbolic_call`, `Layer.symbolic_call`, `keras.src.layers.layer.Node`: the three
  places through which Keras infers shapes and records nodes on symbolic calls. Replaced so that a
  composite layer is opened instead of being run, and no node is recorded on the user's layers.
  (Before Keras 3.10 a layer has no such method of its own, and its module no `Node`.)
* `Layer._maybe_build`: a layer that builds itself calls its parts on symbolic tensors of its own;
  those calls are Keras'.
* `Layer._set_mask_metadata`: Keras asks a layer for the mask of what it returned after its `call`,
  out of reach of whoever receives that call; raw backend code is just as likely there.
* `Layer.__call__` (public) is replaced to leave out what it does around a simple layer's `call`,
  `KerasTensor.__jax_array__` is hidden, which refuses `array * symbol` on JAX,
  `Layer.add_loss` (public) because Keras takes no symbolic loss, and `assign` and the operators of
  `keras.Variable` (public) because a running mean is assigned numbers only, and `variable * x` goes
  straight to the backend.
* `keras.src.backend.core.while_loop`, `vectorized_map`: in older versions symbols reach them. (From
  Keras 3.16 on `keras.src.backend.ops.core`.)
"""

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import keras
from keras import tree
from keras.src import backend as _backend
from keras.src.layers import layer as _layer_module
from keras.src.ops.operation import Operation

from keras_gamma._keras import older
from keras_gamma._keras.layers import has_mask
from keras_gamma._keras.replacement import Patch, replace

# Whether layers record their calls themselves, and do not leave that to `Operation`.
_LAYERS_RECORD = "symbolic_call" in vars(keras.Layer)
# The backend's loops.
_LOOPS = getattr(_backend, "ops", _backend).core

_OPERATORS = tuple(
    f"__{side}{name}__"
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
    for side in ("", "r")
)


class Handler(Protocol):
    """Who receives the symbolic calls.

    Attributes:
        paused: bool; while it is true the calls are Keras' own again.
    """

    paused: bool

    def __call__(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The outputs of `operation`, called on symbolic tensors."""

    def enter(
        self,
        layer: keras.Layer,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        call: Callable[..., Any],
    ) -> Any:
        """The outputs of `layer(*args, **kwargs)`, which is `call(layer, *args, **kwargs)`."""

    def masks(self, layer: keras.Layer, inputs: Any, previous: Any) -> Any:
        """What `layer.compute_mask(inputs, previous)` returns, which has raised; `None` if lost."""

    def assign(self, variable: keras.Variable, value: Any) -> bool:
        """Receives `variable.assign(value)`; false: it is Keras' to do."""

    def value_of(self, variable: keras.Variable) -> Any:
        """What was assigned to `variable` and received here, or `None`."""


# A new thread starts with an empty context: its calls are Keras', whatever another one traces.
_handler: contextvars.ContextVar[Handler | None] = contextvars.ContextVar("handler", default=None)
# What is replaced is global, so that two traces in two threads take turns.
_lock = threading.RLock()


def _active() -> Handler | None:
    handler = _handler.get()
    return None if handler is None or handler.paused else handler


@contextlib.contextmanager
def intercept_symbolic_calls(handler: Handler) -> Iterator[None]:
    """Sends every symbolic call of this context to `handler(operation, args, kwargs)`.

    While it is active no `Node` is recorded for the calls of this context; other threads are
    served as before. `handler.enter(layer, args, kwargs, call)` receives every call of
    a layer, before `Layer.__call__` is run: on small layers that takes several times as long as
    everything else.
    """
    stack = contextlib.ExitStack()
    # Closed twice, for an interrupt may come between any two lines: between the end of the trace
    # and the first line that puts back, for one.
    try:
        try:
            stack.enter_context(_lock)
            replace(stack, _PATCHES)
            stack.callback(_handler.set, _handler.get())
            _handler.set(handler)
            yield
        finally:
            stack.close()
    finally:
        stack.close()


def _symbolic_call(original: Callable[..., Any]) -> Callable[..., Any]:
    def symbolic_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        handler = _active()
        if handler is None:
            return original(self, *args, **kwargs)
        return handler(*older.with_all_operands(self, args, kwargs))

    return symbolic_call


def _loop(operation: Callable[..., tuple[Any, Any]]) -> Callable[..., Any]:
    """Sends a loop over symbols, that Keras has handed to the backend, to the handler."""

    def patch(original: Callable[..., Any]) -> Callable[..., Any]:
        def loop(*args: Any, **kwargs: Any) -> Any:
            handler = _active()
            if handler is None or not _holds_symbols((args, kwargs)):
                return original(*args, **kwargs)
            return handler(*operation(*args, **kwargs), {})

        return loop

    return patch


def _holds_symbols(structure: Any) -> bool:
    return any(isinstance(v, keras.KerasTensor) for v in keras.tree.flatten(structure))


def _layer_call(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        handler = _active()
        if handler is None:
            return original(self, *args, **kwargs)
        return handler.enter(self, args, kwargs, original)

    return call


def _node(original: Callable[..., Any]) -> Callable[..., Any]:
    def record(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs) if _active() is None else None

    return record


def _add_loss(original: Callable[..., Any]) -> Callable[..., Any]:
    def add_loss(self: Any, loss: Any) -> None:
        # A trace has no use for a loss (a router's, say).
        if _active() is None:
            original(self, loss)

    return add_loss


def _maybe_build(original: Callable[..., Any]) -> Callable[..., Any]:
    def maybe_build(self: Any, *args: Any, **kwargs: Any) -> Any:
        handler = _active()
        if handler is None or self.built:
            return original(self, *args, **kwargs)
        handler.paused = True
        try:
            return original(self, *args, **kwargs)
        finally:
            handler.paused = False

    return maybe_build


def _set_mask(original: Callable[..., Any]) -> Callable[..., Any]:
    def set_mask(self: Any, inputs: Any, outputs: Any, previous_mask: Any) -> None:
        try:
            original(self, inputs, outputs, previous_mask)
        except Exception:
            handler = _active()
            if handler is None:
                raise
            masks = tree.flatten(handler.masks(self, inputs, previous_mask))
            for tensor, mask in zip(tree.flatten(outputs), masks, strict=False):
                if isinstance(mask, keras.KerasTensor) and not has_mask(tensor):
                    tensor._keras_mask = mask

    return set_mask


def _hidden(original: Any) -> Any:
    """An attribute that is not there in this context: JAX then leaves `array * symbol` to Keras."""

    def get(self: Any) -> Any:
        if _active() is None:
            return original.__get__(self)
        raise AttributeError("hidden while a trace is made")

    return property(get)


def _assign(original: Callable[..., Any]) -> Callable[..., Any]:
    def assign(self: Any, value: Any) -> Any:
        handler = _active()
        if handler is not None and handler.assign(self, value):
            return value
        return original(self, value)

    return assign


def _operator(name: str) -> Callable[..., Any]:
    reflected = f"__{name[3:]}" if name.startswith("__r") else f"__r{name[2:]}"

    def patch(original: Callable[..., Any]) -> Callable[..., Any]:
        def compute(self: Any, other: Any) -> Any:
            handler = _active()
            if handler is None:
                return original(self, other)
            if isinstance(other, keras.Variable):
                assigned = handler.value_of(other)
                other = other if assigned is None else assigned
            assigned = handler.value_of(self)
            if assigned is not None:
                return getattr(assigned, name)(other)
            if isinstance(other, keras.KerasTensor):
                return getattr(other, reflected)(self)
            return original(self, other)

        return compute

    return patch


_PATCHES: tuple[Patch, ...] = (
    *((keras.Variable, name, _operator(name)) for name in _OPERATORS),
    (keras.Variable, "assign", _assign),
    (keras.KerasTensor, "__jax_array__", _hidden),
    (keras.Layer, "add_loss", _add_loss),
    (Operation, "symbolic_call", _symbolic_call),
    *([(keras.Layer, "symbolic_call", _symbolic_call)] if _LAYERS_RECORD else []),
    (keras.Layer, "_maybe_build", _maybe_build),
    (keras.Layer, "_set_mask_metadata", _set_mask),
    (keras.Layer, "__call__", _layer_call),
    *([(_layer_module, "Node", _node)] if _LAYERS_RECORD else []),
    (_LOOPS, "while_loop", _loop(older.while_loop)),
    (_LOOPS, "vectorized_map", _loop(older.vectorized_map)),
)
