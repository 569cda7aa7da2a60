"""Training under any `tf.distribute.Strategy`, also across machines, where Keras 3's `fit` fails.

`Model.fit` of Keras 3 does not run under `MultiWorkerMirroredStrategy`
(https://github.com/keras-team/keras/issues/20585). `distributed_fit` does what `fit` does, with
Keras' own `train_step` and `test_step`, in a loop that is written for several workers:

* a global batch is the same set of examples however many replicas share it;
* losses and metrics are those of all replicas together;
* only the chief writes files and prints progress;
* workers that disagree are told so before training, instead of drifting apart.
"""

import contextlib
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_gamma._keras import names as _keras

# Callbacks of Keras that write files or send messages: the chief's business. A name that an older
# or newer Keras lacks is passed over.
_WRITERS = (
    "BackupAndRestore",
    "CSVLogger",
    "ModelCheckpoint",
    "OrbaxCheckpoint",
    "RemoteMonitor",
    "TensorBoard",
)


def distributed_fit(
    model: keras.Model,
    x: Any,
    *,
    epochs: int = 1,
    verbose: int | str = "auto",
    callbacks: Any = None,
    validation_data: Any = None,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    validation_steps: int | None = None,
    validation_freq: int | Collection[int] = 1,
) -> keras.callbacks.History:
    """Trains a compiled model like `model.fit`, under the strategy that it was built in.

    Build and compile the model within `strategy.scope()`. All workers call this function with the
    same arguments. With one replica it does what `model.fit` does, number by number.

    Replicas see equal parts of each global batch, and their gradients are averaged, so that the
    learning rate and the decay need no scaling as long as the global batch stays the same. Batch
    normalization takes its statistics per replica unless it was made with `synchronized=True`.
    XLA (`jit_compile`) is used as by `fit` on one machine, and not across machines.

    Args:
        model: a model that was built and compiled within the scope of its strategy.
        x: the training data. Either a `tf.data.Dataset` of global batches, the same on every
            worker (so: shuffled with a seed), of which each replica takes its part; batches
            must be a multiple of the number of replicas. Or a function that takes a
            `tf.distribute.InputContext` and returns a dataset of this worker's batches of one
            replica, as in `strategy.distribute_datasets_from_function`; then `steps_per_epoch`
            is best given.
        epochs: number of the epoch to end before.
        verbose: 0, 1, 2 or "auto", as in `fit`; workers other than the chief print nothing.
        callbacks: list of `keras.callbacks.Callback`. They are called as by `fit`, on every
            worker, with the numbers of all workers together. Of Keras' own callbacks those that
            write files act on the chief only (`BackupAndRestore` restores on all); a callback of
            your own asks `is_chief()` before it writes.
        validation_data: like `x`, for evaluation at the end of an epoch; here batches may be of
            any size.
        initial_epoch: number of the epoch to begin with.
        steps_per_epoch: number of batches in an epoch; the data then runs on from epoch to epoch.
            By default, an epoch is one pass over the data.
        validation_steps: number of batches to evaluate on; by default, all.
        validation_freq: evaluate after every so many epochs, or after those in a list (from 1).

    Returns:
        A `keras.callbacks.History`, as `fit` does.

    Raises:
        RuntimeError: Keras does not run on TensorFlow, or the workers do not start from the same
            weights at the same epoch.
        TypeError: the data is neither a dataset nor a function.
        ValueError: the model is not compiled, was built outside of the strategy's scope, asks for
            `steps_per_execution`, or a batch cannot be shared out.

    Example:

    >>> import numpy as np
    >>> import tensorflow as tf
    >>> strategy = tf.distribute.OneDeviceStrategy("CPU:0")  # or MultiWorkerMirroredStrategy()
    >>> with strategy.scope():
    ...     model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    ...     model.compile("sgd", "mse")
    >>> data = tf.data.Dataset.from_tensor_slices((np.ones((8, 3)), np.ones((8, 1)))).batch(4)
    >>> history = distributed_fit(model, data, epochs=2, verbose=0)
    >>> history.epoch
    [0, 1]

    Reference:
        https://github.com/keras-team/keras/issues/20585
    """
    strategy = _checked_strategy(model)
    chief = is_chief(strategy)
    train = _Batches(strategy, x, steps_per_epoch, "x", even=True)
    validation = None
    if validation_data is not None:
        validation = _Batches(strategy, validation_data, validation_steps, "validation_data")
    with strategy.scope():
        _keras.symbolic_build(model, train.element_spec)
        train_step = _make_step(model, strategy, model.train_step)
        test_step = _make_step(model, strategy, _unless_empty(model.test_step))
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = keras.callbacks.CallbackList(
            callbacks if chief else _without_writing(callbacks),
            add_history=True,
            add_progbar=chief and verbose != 0,
            verbose=verbose,
            epochs=epochs,
            steps=train.steps,
            model=model,
        )

    model.stop_training = False
    callbacks.on_train_begin()
    initial_epoch = _keras.initial_epoch(model) or initial_epoch
    _check_agreement(model, strategy, initial_epoch, epochs)
    epoch_logs = None
    with gradients_added_first(model):
        for epoch in range(initial_epoch, epochs):
            model.reset_metrics()
            callbacks.on_epoch_begin(epoch)
            logs = {}
            for step, data in train.epoch():
                callbacks.on_train_batch_begin(step)
                if (new := train.take(train_step, data)) is None:
                    break
                callbacks.on_train_batch_end(step, logs := new)
                if model.stop_training:
                    break
            epoch_logs = dict(logs)
            if validation is not None and _is_due(epoch + 1, validation_freq):
                logs = _evaluate(model, validation, test_step, callbacks)
                epoch_logs |= {f"val_{name}": value for name, value in logs.items()}
            callbacks.on_epoch_end(epoch, epoch_logs)
            if model.stop_training:
                break
    if isinstance(model.optimizer, keras.optimizers.Optimizer) and epochs > 0:
        model.optimizer.finalize_variable_values(model.trainable_weights)
    callbacks.on_train_end(logs=epoch_logs)
    return model.history


def is_chief(strategy: Any = None) -> bool:
    """Whether this process is the one that writes files and prints.

    Args:
        strategy: a `tf.distribute.Strategy`; by default, the current one.

    Returns:
        `True` if there is a single process, or if this one is the job's `chief` or, in a cluster
        without a chief, worker 0. Also `True` if Keras does not run on TensorFlow.

    Example:

    >>> is_chief()
    True
    """
    if keras.backend.backend() != "tensorflow":
        return True
    resolver = (strategy or _tensorflow().distribute.get_strategy()).cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    if resolver.task_type == "worker":
        return bool(resolver.task_id == 0 and not resolver.cluster_spec().as_dict().get("chief"))
    return bool(resolver.task_type == "chief")


def gradients_added_first(model: keras.Model) -> contextlib.AbstractContextManager[Any]:
    """Lets several replicas clip the gradient of the global batch, as one would.

    `distributed_fit` does so by itself. Keras adds the gradients of the replicas up only after each
    has clipped its own, and has looked for overflow (mixed precision) in its own.

    Args:
        model: a compiled model, built within the scope of its strategy.

    Returns:
        A context to train the model in, with `fit`, say. Afterwards the optimizer is as it was.
    """
    optimizer = model.optimizer
    if keras.backend.backend() != "tensorflow" or optimizer is None:
        return contextlib.nullcontext()
    if model.distribute_strategy.num_replicas_in_sync == 1:
        return contextlib.nullcontext()
    distribute = _tensorflow().distribute

    def add(gradients: Sequence[Any]) -> Any:
        context = distribute.get_replica_context()
        if context is None or not gradients:
            return gradients
        return context.all_reduce(distribute.ReduceOp.SUM, gradients)

    return _keras.gradients_added_first(optimizer, add)


class _Batches:
    """Data, distributed over the replicas, epoch by epoch as `fit` reads it.

    Args:
        strategy: a `tf.distribute.Strategy`.
        data: a dataset of global batches, or a function that makes a replica's.
        steps: number of batches in an epoch, or `None` for one pass.
        name: the argument's, for errors.
        even: whether every replica must get the same number of examples.
    """

    def __init__(self, strategy: Any, data: Any, steps: int | None, name: str, even: bool = False):
        tf = _tensorflow()
        self._name = name
        self._steps = steps
        self._size = None  # Batches in the data: not known, or no end.
        self._seen = 0
        self._iterator = None
        if isinstance(data, tf.data.Dataset):
            self.element_spec = data.element_spec
            self._size = size if (size := int(data.cardinality())) >= 0 else None
            self._data = data
            if strategy.num_replicas_in_sync > 1:
                self._data = strategy.distribute_datasets_from_function(
                    lambda context: _share(data, context, name, even)
                )
        elif callable(data):
            self._data = strategy.distribute_datasets_from_function(self._remember_spec(data))
        else:
            raise TypeError(
                f"`{name}` must be a tf.data.Dataset of global batches, or a function that takes a "
                "tf.distribute.InputContext and returns a dataset of one replica's batches; got "
                f"{type(data).__name__}. For arrays: tf.data.Dataset.from_tensor_slices((x, y))"
                ".batch(batch_size, drop_remainder=True)"
            )

    def _remember_spec(self, make_dataset: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def make(context: Any) -> Any:
            dataset = make_dataset(context)
            self.element_spec = dataset.element_spec
            return dataset

        return make

    @property
    def steps(self) -> int | None:
        """Number of batches in an epoch, or `None` if that is not known (yet)."""
        return self._steps or self._size

    def restart(self) -> None:
        """Begins the next epoch with the first batch."""
        self._iterator = None

    def epoch(self) -> Iterator[tuple[int, Any]]:
        """Yields the number of each step, and the iterator to take its batch from.

        With a number of steps the data runs on from epoch to epoch, and starts again after its
        last batch, as in `fit`.
        """
        if self._iterator is None or not self._steps:
            self._iterator, self._seen = iter(self._data), 0
        step = 0
        while self.steps is None or step < self.steps:
            if self._size is not None and self._seen >= self._size:
                self._warn_that_data_ran_out(step)
                break
            self._seen += 1
            yield step, self._iterator
            if self._iterator is None:  # `take` found that there are no more.
                return
            step += 1
        if self._size is not None and self._seen >= self._size:
            # `fit` opens the data anew right here, and once more if the next epoch has to begin
            # at the start: a data set that is shuffled differently each time shows that.
            self._iterator, self._seen = iter(self._data), 0

    def take(self, step_function: Callable[[Any], Any], iterator: Any) -> Any:
        """Runs a step on the next batch; returns its logs, or `None` if there is no batch."""
        try:
            return step_function(iterator)
        except (StopIteration, _tensorflow().errors.OutOfRangeError):
            self._seen -= 1
            if self._steps:
                self._warn_that_data_ran_out(self._seen)
            self._size, self._iterator = self._seen, None
            return None

    def _warn_that_data_ran_out(self, step: int) -> None:
        warnings.warn(
            f"`{self._name}` ran out of data after {step} of {self._steps} steps of an epoch; the "
            "next epoch begins with its first batch. Use `.repeat()`, or fewer steps",
            stacklevel=4,
        )


def _share(dataset: Any, context: Any, name: str, even: bool) -> Any:
    """The batches of this worker's replicas, one after the other, from a dataset of global ones.

    Replica r of R gets the rows from n·r/R up to n·(r+1)/R of a batch of n.
    """
    tf = _tensorflow()
    replicas = context.num_replicas_in_sync
    local = replicas // context.num_input_pipelines
    first = context.input_pipeline_id * local
    sizes = set()
    for spec in tf.nest.flatten(dataset.element_spec):
        if not isinstance(spec, tf.TensorSpec) or spec.shape.rank == 0:
            raise TypeError(
                f"`{name}` must consist of dense tensors with a batch axis to be shared out; got "
                f"{spec}. Pass a function that takes a tf.distribute.InputContext instead"
            )
        sizes.add(spec.shape[0] if spec.shape.rank else None)
    hint = (
        f"every batch of `{name}` must be a multiple of the {replicas} replicas: change the batch "
        "size, and use .batch(..., drop_remainder=True)"
    )
    for size in sizes - {None}:
        if even and size % replicas:
            raise ValueError(f"{hint}; got batches of {size}")

    def part(batch: Any, replica: Any) -> Any:
        def rows(tensor: Any) -> Any:
            size = tf.shape(tensor, tf.int64)[0]
            if even:
                tf.debugging.assert_equal(size % replicas, tf.constant(0, tf.int64), hint)
            new = tensor[size * replica // replicas : size * (replica + 1) // replicas]
            static = tensor.shape[0]
            if static is not None and static % replicas == 0:
                new = tf.ensure_shape(new, [static // replicas, *tensor.shape[1:]])
            return new

        return tf.nest.map_structure(rows, batch)

    def parts(*batch: Any) -> Any:
        batch = batch if len(batch) > 1 or isinstance(dataset.element_spec, tuple) else batch[0]
        numbers = tf.data.Dataset.range(first, first + local)
        return numbers.map(lambda replica: part(batch, replica))

    return dataset.flat_map(parts).prefetch(tf.data.AUTOTUNE)


def _checked_strategy(model: keras.Model) -> Any:
    """The strategy that a model was built in, if the model can be trained here."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "distributed_fit needs Keras on TensorFlow (KERAS_BACKEND=tensorflow); Keras runs on "
            f"{keras.backend.backend()}. On JAX, keras.distribution.DataParallel and fit do the job"
        )
    if not model.compiled:
        raise ValueError("the model is not compiled: call model.compile() within strategy.scope()")
    strategy = model.distribute_strategy
    variables = [*model.variables, *(model.optimizer.variables if model.optimizer else ())]
    outside = [v for v in variables if not strategy.extended.variable_created_in_scope(v.value)]
    if outside:
        raise ValueError(
            f"{outside[0].path} was created outside of the strategy's scope; build the model and "
            "compile it, with its optimizer, within strategy.scope()"
        )
    if model.steps_per_execution != 1:
        raise ValueError(
            "distributed_fit runs single steps; got a model that was compiled with "
            f"steps_per_execution={model.steps_per_execution}. Compile it without"
        )
    if model.run_eagerly and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "distributed_fit runs several replicas in a graph only; got a model that was compiled "
            "with run_eagerly=True. Compile it without, or debug it with one replica"
        )
    return strategy


def _make_step(
    model: keras.Model, strategy: Any, step: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    """Makes the function that takes a batch from an iterator, and returns the logs of all."""
    tf = _tensorflow()

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def on_batch(data: Any) -> Any:
        logs = strategy.run(step, args=(data,))
        # Here, outside of the replicas, reading a metric adds up what all of them have seen.
        results = model.get_metrics_result()
        if isinstance(logs, dict) and set(logs) != set(results):  # A train_step of the user's own.
            return {name: strategy.reduce("MEAN", log, axis=None) for name, log in logs.items()}
        return results

    if not model.run_eagerly:
        jit_compile = model.jit_compile and _number_of_workers(strategy) == 1
        on_batch = tf.function(on_batch, reduce_retracing=True, jit_compile=jit_compile)
    # The batch is taken outside of the function. `fit` takes it inside, where what does not depend
    # on its values (the count of steps, decoupled decay) is done once more after the last batch.
    return lambda iterator: on_batch(next(iterator))


def _unless_empty(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Spares a replica a batch without examples, whose mean loss would not be a number."""
    tf = _tensorflow()

    def guarded(data: Any) -> Any:
        size = tf.shape(tf.nest.flatten(data)[0])[0]
        logs = {}

        def run() -> Any:
            logs.update(step(data))
            return logs

        def skip() -> (
            Any
        ):  # Is traced after `run`. These zeros are seen only if metrics are not used.
            return {name: tf.zeros_like(log) for name, log in logs.items()}

        if tf.executing_eagerly() or isinstance(size, int):
            return run()
        return tf.cond(size > 0, run, skip)

    return guarded


def _evaluate(
    model: keras.Model,
    batches: _Batches,
    test_step: Callable[[Any], Any],
    callbacks: keras.callbacks.CallbackList,
) -> dict[str, float]:
    """Evaluates on one pass over the data; returns the logs."""
    batches.restart()
    model.stop_evaluating = False
    callbacks.on_test_begin()
    model.reset_metrics()
    logs = {}
    for step, data in batches.epoch():
        callbacks.on_test_batch_begin(step)
        if (new := batches.take(test_step, data)) is None:
            break
        callbacks.on_test_batch_end(step, logs := new)
        if model.stop_evaluating:
            break
    logs = {name: float(value) if np.ndim(value) == 0 else value for name, value in logs.items()}
    callbacks.on_test_end(logs)
    return logs


def _is_due(epoch: int, frequency: int | Collection[int]) -> bool:
    """Whether to evaluate after `epoch`, counted from 1."""
    return epoch % frequency == 0 if isinstance(frequency, int) else epoch in frequency


class _RestoreOnly(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Does of a `BackupAndRestore` what a worker does that is not the chief."""

    def __init__(self, backup: keras.callbacks.BackupAndRestore):
        super().__init__()
        self._backup = backup

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._backup.set_model(self.model)
        self._backup.on_train_begin(logs)


def _without_writing(callbacks: Any) -> list[keras.callbacks.Callback]:
    """The callbacks of a worker that is not the chief."""
    writers = tuple(
        getattr(keras.callbacks, name) for name in _WRITERS if hasattr(keras.callbacks, name)
    )
    kept = []
    for callback in keras.tree.flatten(callbacks) if callbacks else []:
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            kept.append(_RestoreOnly(callback))
        elif not isinstance(callback, (*writers, keras.callbacks.ProgbarLogger)):
            kept.append(callback)
    return kept


def _number_of_workers(strategy: Any) -> int:
    """Number of processes that train together."""
    if not isinstance(strategy, _tensorflow().distribute.MultiWorkerMirroredStrategy):
        return 1  # Also on a TPU pod: one process feeds all.
    jobs = strategy.cluster_resolver.cluster_spec().as_dict()
    return max(1, sum(len(jobs.get(job, ())) for job in ("chief", "worker")))


def _check_agreement(model: keras.Model, strategy: Any, initial_epoch: int, epochs: int) -> None:
    """Raises unless all workers start from the same state: nothing would ever bring them together.

    A worker that read no checkpoint, say, because its machine does not share the folder, would
    train on with weights of its own.
    """
    if _number_of_workers(strategy) == 1:
        return
    tf = _tensorflow()
    variables = [*model.variables, *(model.optimizer.variables if model.optimizer else ())]

    @tf.function  # type: ignore[untyped-decorator]
    def state() -> Any:
        def of_replica() -> Any:
            sums = [tf.reduce_sum(tf.abs(tf.cast(v.value, tf.float64))) for v in variables]
            return tf.stack([float(initial_epoch), float(epochs), *sums])[tf.newaxis]

        return strategy.run(of_replica)

    rows = strategy.gather(state(), axis=0).numpy()
    same = np.isclose(rows, rows[0], rtol=1e-9, atol=0, equal_nan=True).all(axis=0)
    if not same.all():
        names = ["initial_epoch", "epochs", *(variable.path for variable in variables)]
        first = int(np.argmin(same))
        raise RuntimeError(
            f"the workers disagree about {names[first]}: {rows[:, first].tolist()} (of variables, "
            "the sum of absolute values). Give all of them the same arguments, and weights from "
            "the same file: a folder of checkpoints must be shared between the machines"
        )


def _tensorflow() -> Any:
    """TensorFlow, which is imported only here."""
    import tensorflow

    return tensorflow
