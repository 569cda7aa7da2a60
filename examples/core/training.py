"""What the training scripts share: from flags and a task to a finished run.

A task says what is learnt from what; everything else (folder, devices, decay, audit, compiling,
resuming, metrics) stands here once.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import pkgutil
import statistics
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import keras
import tensorflow as tf

import keras_gamma
from examples.cluster.cluster import Cluster
from examples.cluster.opening import open_run
from examples.cluster.settings import ClusterSettings
from examples.core import averages
from examples.core.callbacks import SaveProgress, draw_monitor, monitor, tensorboard
from examples.core.cli import UsageError, deferred
from examples.core.decay import check_decay, decay_kernels, decide_decay, tell_dose
from examples.core.evaluating import evaluate
from examples.core.files import is_remote, local_copy, local_folder, to_path
from examples.core.fine_tuning import freeze, initialize
from examples.core.layerwise import groups, make_layerwise
from examples.core.memory import told_if_it_ends
from examples.core.optimizers import Schedule, make_optimizer, make_schedule, parse_drops
from examples.core.run_state import Progress, Run
from examples.core.selection import Select, check_selection, is_stale, restore_best
from examples.core.soft_labels import SoftLabels, make_loss
from examples.core.training_settings import RunSettings, TrainingSettings
from examples.data.decoding import told_in_a_line

_PACKAGES = (
    "keras_gamma", "keras", "tensorflow", "tensorflow-datasets", "keras-cv", "keras-hub", "numpy",
)  # fmt: skip


class Task(Protocol):
    """What is learnt from what.

    Attributes:
        train_size: number of training examples.
        classes: number of classes, or of tokens.
        selects: the column of the log that decides between epochs, and whether less is better.
        soft_labels: whether labels come as rows, one number for each class.
    """

    train_size: int
    classes: int
    selects: tuple[str, bool]
    soft_labels: bool

    def show(self) -> None:
        """Prints what there is to learn from."""

    def describe(self) -> dict[str, Any]:
        """Returns what a report says of the data."""

    def make_model(self) -> keras.Model:
        """Builds the model, without decay."""

    def make_metrics(self) -> list[keras.metrics.Metric]:
        """Makes the metrics, beside the crossentropy of integer labels, which is the loss."""

    def train_batches(
        self, *, steps: int, first_epoch: int, first_step: int = 0
    ) -> tf.data.Dataset:
        """Returns the batches of all epochs, one after the other, from a step of an epoch on."""

    def validation_batches(self) -> tf.data.Dataset | None:
        """Returns the batches that each epoch is evaluated on, in order, if there are any."""

    def test_batches(self) -> tf.data.Dataset:
        """Returns the batches of the test at the end, in order."""

    def results(self, progress: Progress, test: Mapping[str, float]) -> dict[str, Any]:
        """Returns the results, from the rows of the log and the scores of the test."""

    def tell(self, metrics: dict[str, Any]) -> str:
        """Returns the results in a few words."""

    def finish(self, model: keras.Model, directory: Path) -> None:
        """Shows what the saved model has learnt: pictures, samples."""


@runtime_checkable
class ReadsParts(Protocol):
    """A task of which each worker can read its own part."""

    def train_part(
        self, *, steps: int, first_epoch: int, first_step: int = 0, worker: int, workers: int
    ) -> tf.data.Dataset | None:
        """Returns a worker's rows of `train_batches`; `None` if it had to read all for them."""


def run(
    how: RunSettings,
    settings: TrainingSettings,
    devices: ClusterSettings,
    identity: Mapping[str, Any],
    make_task: Callable[[], Task],
) -> None:
    """Trains, or resumes, or shows what was trained before.

    Args:
        how: where and how the run is carried out.
        settings: the hyperparameters.
        devices: which devices to use.
        identity: whatever decides about the result, by name: the hyperparameters and the task's.
        make_task: returns what is learnt from what.
    """
    if settings.warmup_epochs >= settings.epochs:
        raise UsageError(
            f"--warmup_epochs={settings.warmup_epochs} must be less than --epochs={settings.epochs}"
        )
    on_tensorflow = keras.backend.backend() == "tensorflow"
    if settings.jit_compile == "yes" and settings.deterministic and on_tensorflow:
        raise UsageError(
            "--jit_compile=yes needs --nodeterministic: on TensorFlow Keras compiles only one or "
            "the other"
        )
    if how.monitor_every and is_remote(to_path(how.output_dir)):
        raise UsageError(
            f"--monitor_every={how.monitor_every} writes a file that grows, which an object store "
            "cannot have; leave it out, or choose an --output_dir of this machine"
        )
    check_execution(how, settings, devices)
    if how.eval_only:
        found = evaluate(to_path(settings.init_from or how.output_dir), make_task())
        print("Test: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
        return
    with open_run(
        how.output_dir,
        identity,
        resume=how.resume,
        devices=devices,
        jit_compile=settings.jit_compile == "yes",
    ) as (folder, cluster):
        if metrics := folder.finished_metrics():
            print(f"This run had finished already, in {folder.directory}:")
        else:
            with told_in_a_line(), told_if_it_ends():
                metrics = train(how, settings, folder, cluster, make_task())
        if metrics is None:
            return
        print(
            f"{metrics['result']}; {metrics['epochs']} epochs, {metrics['seconds_per_epoch']:.2f} "
            f"s per epoch; see {folder.metrics_path}"
        )


def train(
    how: RunSettings, settings: TrainingSettings, folder: Run, cluster: Cluster, task: Task
) -> dict[str, Any] | None:
    """Carries out a run, or what is left of it; returns its metrics, if this is the chief."""
    steps = steps_per_epoch(task, settings)
    with_validation = task.validation_batches() is not None
    check_selection(with_validation, settings.keep, settings.early_stopping)
    if settings.label_smoothing or task.soft_labels:
        task = SoftLabels(task, task.classes)
    make_reproducible(settings)
    dtype = f"mixed_{settings.mixed_precision_dtype}" if settings.mixed_precision else "float32"
    keras.config.set_dtype_policy(dtype)
    with cluster.scope():
        model = task.make_model()
        if settings.init_from:
            print(f"From {settings.init_from}: {initialize(model, settings.init_from)}")
        if settings.freeze != "none":
            print(f"--freeze={settings.freeze}: {freeze(model, settings.freeze):,} weights train")
        if settings.decay == "coupled":
            decay_kernels(model, settings.weight_decay)
        guidelines = keras_gamma.Guidelines.parse(settings.guidelines)
        plan, for_optimizer = decide_decay(
            model, settings.decay, settings.weight_decay, guidelines, settings.decay_to
        )
        print(plan)
        show_settings(folder)
        task.show()
        jit_compile = jit_mode(settings, cluster)
        compile_model(model, task, how, settings, steps, for_optimizer, jit_compile)
        progress = folder.load_checkpoint(model)
    cluster.check(task.validation_batches())
    cluster.check(task.test_batches())
    check_decay(model, plan)
    if progress.epochs_done or progress.step:
        within = f", step {progress.step} of {steps} of the next" if progress.step else ""
        print(f"Resuming after epoch {progress.epochs_done} of {settings.epochs}{within}.")
    fit(how, settings, model, folder, cluster, progress, task, steps, plan)
    averages.use(model)
    folder.save_model(model)
    if not cluster.is_chief:
        return None
    # The test set is looked at once, through the file that others will load.
    with local_copy(folder.model_path) as path:
        saved = keras_gamma.load_model(path)
    if settings.keep == "best":
        restore_best(folder, saved)
        folder.save_model(saved)
    if how.export:
        saved.export(str(folder.directory / "export"))
    test = saved.evaluate(task.test_batches(), verbose=0, return_dict=True)
    with local_folder(folder.directory) as directory:
        task.finish(saved, directory)
    metrics = {
        **task.results(progress, test),
        **report(folder, cluster, progress, task, plan),
    }
    metrics["result"] = task.tell(metrics)
    folder.write_metrics(metrics)
    return metrics


def steps_per_epoch(task: Task, settings: TrainingSettings) -> int:
    """Returns the number of whole batches in an epoch."""
    steps = task.train_size // settings.batch_size
    if steps == 0:
        raise UsageError(
            f"--batch_size={settings.batch_size} is more than the {task.train_size} training "
            "examples"
        )
    return min(steps, settings.max_steps_per_epoch or steps)


def jit_mode(settings: TrainingSettings, cluster: Cluster) -> bool | str:
    """Returns what `compile` is told about XLA."""
    if settings.jit_compile == "auto":
        return "auto" if cluster.workers == 1 else False  # XLA does not reach other machines.
    return settings.jit_compile == "yes"


def make_reproducible(settings: TrainingSettings) -> None:
    """Seeds every generator; by default, also lets TensorFlow use deterministic kernels only."""
    keras.utils.set_random_seed(settings.seed)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()


def compile_model(
    model: keras.Model,
    task: Task,
    how: RunSettings,
    settings: TrainingSettings,
    steps: int,
    decay: keras_gamma.DecayPlan | None,
    jit_compile: bool | str,
) -> None:
    """Compiles, and creates the optimizer's variables, so that a checkpoint can fill them.

    Comes after everything that regularizes: Keras ignores regularizers added to a traced train
    step.
    """
    updates = settings.epochs * steps // settings.gradient_accumulation
    if updates == 0:
        raise UsageError(
            f"--gradient_accumulation={settings.gradient_accumulation} is more than the "
            f"{settings.epochs * steps} batches of the run, so that nothing would be learnt"
        )

    def schedule(factor: float = 1.0) -> Schedule:
        return make_schedule(
            settings.schedule,
            peak=settings.learning_rate * factor,
            warmup_steps=round(settings.warmup_epochs * steps / settings.gradient_accumulation),
            total_steps=updates,
            drops=parse_drops(settings.drop_at),
            factor=settings.drop_factor,
        )

    print(
        tell_dose(
            settings.optimizer,
            settings.decay,
            settings.weight_decay,
            keras_gamma.Guidelines.parse(settings.guidelines),
            schedule(),
            updates,
            settings.momentum,
            settings.decay_to,
        )
    )

    def optimizer(factor: float = 1.0) -> keras.optimizers.Optimizer:
        return make_optimizer(
            settings.optimizer,
            schedule(factor),
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            global_clipnorm=settings.global_clipnorm,
            gradient_accumulation=settings.gradient_accumulation,
            ema_momentum=settings.ema_momentum if settings.use_ema else None,
            weight_decay=settings.weight_decay,
            decay=decay,
        )

    found = groups(model, settings.layer_decay) if settings.layer_decay < 1 else []
    if found:
        print(f"Parts of the learning rate, and of the dose: {'; '.join(map(str, found))}")
    model.compile(
        optimizer=make_layerwise(found, optimizer) if found else optimizer(),
        loss=make_loss(settings.label_smoothing, soft=isinstance(task, SoftLabels)),
        weighted_metrics=task.make_metrics(),
        jit_compile=jit_compile,
        steps_per_execution=how.steps_per_execution,
    )
    model.optimizer.build(model.trainable_variables)  # mixed precision has wrapped it by now


def fit(
    how: RunSettings,
    settings: TrainingSettings,
    model: keras.Model,
    folder: Run,
    cluster: Cluster,
    progress: Progress,
    task: Task,
    steps: int,
    plan: keras_gamma.GammaPlan | keras_gamma.DecayPlan,
) -> None:
    """Trains the epochs that are not done yet; stops at once if it would not decay as planned."""
    column, smallest = task.selects
    stale = is_stale(progress.rows, column, settings.early_stopping, smallest=smallest)
    if progress.epochs_done == settings.epochs or stale:
        if cluster.is_chief and not is_remote(folder.directory):
            draw_monitor(folder.directory)
        return
    verbose = int(how.verbose) if how.verbose != "auto" else (1 if sys.stdout.isatty() else 2)
    # Workers would stop at different steps: they do so at once, and without a checkpoint.
    with deferred() if cluster.workers == 1 else contextlib.nullcontext() as notice:
        for span in spans(progress, settings.epochs, steps):
            batches, part = span.batches(task, steps, cluster)
            if span.done and cluster.workers == 1:
                # Creates the metrics' variables, which `SaveProgress` is about to fill.
                model.evaluate(batches.take(1), verbose=0)
            cluster.fit(
                model,
                batches,
                part,
                steps_per_epoch=span.steps,
                initial_epoch=span.first,
                epochs=span.end,
                validation_data=cluster.evaluated(task.validation_batches()),
                verbose=verbose,
                callbacks=[
                    keras_gamma.callbacks.DecayGuard(plan),
                    *([averages.ScoreAverages()] if settings.use_ema else ()),
                    *selection(settings, folder, cluster, progress, task),
                    SaveProgress(folder, progress, how.checkpoint_steps, notice),
                    *(
                        monitor(folder.directory, how.monitor_every, partial(probe, task))
                        if cluster.is_chief
                        else ()
                    ),
                    *tensorboard(folder.directory / "tensorboard", how.tensorboard),
                    *custom(how.callback, folder.settings, cluster.is_chief),
                ],
            )
            if getattr(model, "stop_training", False):
                return


@dataclasses.dataclass(frozen=True)
class Span:
    """Epochs of one length: an epoch that was interrupted is shorter than those that follow."""

    first: int  # epoch
    end: int  # epoch to end before
    steps: int  # of each
    done: int  # steps of the first that are done

    def batches(
        self, task: Task, steps: int, cluster: Cluster
    ) -> tuple[tf.data.Dataset, tf.data.Dataset | None]:
        """Returns all batches, and this worker's part of them, if it can be read by itself."""
        begin: dict[str, Any] = {"steps": steps, "first_epoch": self.first}
        if self.done:
            begin["first_step"] = self.done
        count = (self.end - self.first) * self.steps
        part = None
        if cluster.workers > 1 and isinstance(task, ReadsParts):
            part = task.train_part(worker=cluster.index, workers=cluster.workers, **begin)
        return task.train_batches(**begin).take(count), part and part.take(count)


def spans(progress: Progress, epochs: int, steps: int) -> list[Span]:
    """Returns what is left to train of so many epochs of so many steps."""
    done = progress.epochs_done
    if not progress.step:
        return [Span(done, epochs, steps, 0)]
    rest = [Span(done, done + 1, steps - progress.step, progress.step)]
    return rest + ([Span(done + 1, epochs, steps, 0)] if done + 1 < epochs else [])


def selection(
    settings: TrainingSettings, folder: Run, cluster: Cluster, progress: Progress, task: Task
) -> list[keras.callbacks.Callback]:
    """Returns what chooses among epochs, if anything is to."""
    keeps = settings.keep == "best"
    if not keeps and not settings.early_stopping:
        return []
    where = folder if keeps and cluster.is_chief else None
    return [Select(where, progress, *task.selects, settings.early_stopping)]


def custom(
    name: str | None, settings: Mapping[str, Any], is_chief: bool
) -> list[keras.callbacks.Callback]:
    """Returns the callback that `--callback=package.module:function` makes."""
    if not name or not is_chief:
        return []
    try:
        make = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--callback={name} cannot be imported: {error}") from error
    try:
        made = make(dict(settings))
    except Exception as error:
        raise UsageError(
            f"--callback={name}, called with the settings, raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, keras.callbacks.Callback):
        raise UsageError(
            f"--callback={name} must return a keras.callbacks.Callback; received {made!r}"
        )
    return [made]


def check_execution(how: RunSettings, settings: TrainingSettings, devices: ClusterSettings) -> None:
    """Refuses what cannot be done here, before anything is done."""
    on_torch = keras.backend.backend() == "torch"
    if how.steps_per_execution > 1 and (on_torch or devices.strategy == "multi_worker"):
        raise UsageError(
            f"--steps_per_execution={how.steps_per_execution} works neither on torch nor with "
            "--strategy=multi_worker"
        )
    if how.export and on_torch:
        raise UsageError("--export writes TensorFlow's format, which Keras cannot from torch")
    if settings.layer_decay < 1 and (settings.global_clipnorm or settings.mixed_precision):
        raise UsageError(
            f"--layer_decay={settings.layer_decay} goes neither with --global_clipnorm, for each "
            "of its optimizers sees a part of the gradient, nor with --mixed_precision"
        )
    if is_remote(to_path(how.output_dir)) and (how.export or settings.keep == "best"):
        raise UsageError("--export and --keep=best need an --output_dir of this machine")


def probe(task: Task, size: int = 16) -> Any:
    """Returns the inputs of a few held-out examples: what the branches are measured on."""
    inputs, *_ = next(iter(task.validation_batches() or task.test_batches()))
    return keras.tree.map_structure(lambda x: keras.ops.convert_to_numpy(x)[:size], inputs)


def report(
    folder: Run,
    cluster: Cluster,
    progress: Progress,
    task: Task,
    plan: keras_gamma.GammaPlan | keras_gamma.DecayPlan,
) -> dict[str, Any]:
    """Collects what `metrics.json` holds beside the results."""
    return {
        "epochs": progress.epochs_done,
        "seconds_per_epoch": statistics.median(progress.seconds),
        "epoch_seconds": progress.seconds,
        "model": folder.model_path.name,
        "dataset": task.describe(),
        "settings": folder.settings,
        "distribution": cluster.describe(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "plan": json.loads(plan.to_json()),
    }


def show_settings(folder: Run) -> None:
    """Prints where the run is, and its settings."""
    print(f"Run in {folder.directory}")
    for name, value in folder.settings.items():
        print(f"  {name} = {value}")


def _version(package: str) -> str | None:
    """Returns a package's version, or `None` where it is not installed."""
    if package == "keras_gamma":
        return getattr(keras_gamma, "__version__", None)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
