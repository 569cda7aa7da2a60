"""Begins with weights that were learnt before, and leaves some of them as they are.

Only what is trained is decayed: keras_gamma decides once layers are frozen, and says of a frozen γ
that it is frozen.
"""

import dataclasses
from pathlib import Path

import keras
import numpy as np

import keras_gamma
from examples.core.cli import UsageError

HEAD = "logits"  # the last layer of every model here
_UNTIL = "until="


@dataclasses.dataclass(frozen=True)
class Transferred:
    """What came from another model."""

    layers: int
    weights: int
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        new = f"; new: {', '.join(self.left_out)}" if self.left_out else ""
        return f"{self.weights:,} weights of {self.layers} layers{new}"


def check_freeze(value: str) -> None:
    """Raises `ValueError` unless this is a value of --freeze."""
    if value not in ("none", "backbone") and not value.startswith(_UNTIL):
        raise ValueError(f"{value!r} is neither none, backbone, nor until=<layer>")


def initialize(model: keras.Model, source: str) -> Transferred:
    """Takes the weights of all layers but the head from a file.

    Layers are found by name, and must be of the same shapes.

    Args:
        model: a built model whose last layer is called `logits`.
        source: a `.keras` file, a folder with `model.keras` in it (a run's), or a file of weights
            (`.h5`, as keras.applications has them) for the backbone inside `model`.

    Raises:
        UsageError: there is no such file, or it has not all the layers.
    """
    path = Path(source).expanduser()
    path = path / "model.keras" if path.is_dir() else path
    if not path.is_file():
        raise UsageError(f"--init_from={source}: there is no file {path}")
    try:
        if path.suffix == ".h5":
            return _from_weights(model, path)
        other = keras_gamma.load_model(path, compile=False)
    except (ValueError, OSError, KeyError, TypeError) as error:
        first = str(error).strip().splitlines()[:1]
        raise UsageError(f"--init_from={source} cannot be read: {''.join(first)}") from error
    return transfer(other, model, source)


def transfer(other: keras.Model, model: keras.Model, source: str) -> Transferred:
    """Takes the weights of all layers but the head from another model, which it checks first."""
    theirs = {layer.name: layer for layer in other.layers}
    pairs, problems = [], []
    for layer in model.layers:
        if layer.name == HEAD or not layer.weights:
            continue
        found = theirs.get(layer.name)
        shapes = [tuple(w.shape) for w in layer.weights]
        if found is None:
            problems.append(f"has no layer {layer.name}")
        elif [tuple(w.shape) for w in found.weights] != shapes:
            there = [tuple(w.shape) for w in found.weights]
            problems.append(f"has {there} for {layer.name}, the model {shapes}")
        else:
            pairs.append((layer, found))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UsageError(
            f"--init_from={source} {problems[0]}{more}; build the same model (--model, --width, "
            "...), only its head may be another"
        )
    for layer, found in pairs:
        layer.set_weights(found.get_weights())
    return Transferred(
        len(pairs),
        sum(int(np.prod(w.shape)) for layer, _ in pairs for w in layer.weights),
        (HEAD,),
    )


def _from_weights(model: keras.Model, path: Path) -> Transferred:
    """Fills the one model that lies within `model`, as its backbone."""
    within = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    if len(within) != 1:
        raise UsageError(
            f"--init_from={path}: a file of weights is for models with one backbone inside, such "
            "as --model=applications:ResNet50; pass a .keras file"
        )
    within[0].load_weights(path)
    count = sum(int(np.prod(w.shape)) for w in within[0].weights)
    return Transferred(len(within[0].layers), count, (HEAD,))


def freeze(model: keras.Model, what: str) -> int:
    """Makes layers untrainable; returns how many weights are left to train.

    A frozen batch normalization keeps its mean and variance, too, as Keras defines it.

    Args:
        model: a built model.
        what: `none`, `backbone` (all but the head), or `until=<name of a layer>` (that layer and
            those before it, also within a backbone).

    Raises:
        UsageError: there is no such layer, or nothing is left to train.
    """
    check_freeze(what)
    if what == "backbone":
        for layer in model.layers:
            if layer.name != HEAD:
                layer.trainable = False
    elif what.startswith(_UNTIL):
        _freeze_until(model, what.removeprefix(_UNTIL))
    left = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    if left == 0:
        raise UsageError(f"--freeze={what} leaves nothing to train")
    return left


def _freeze_until(model: keras.Model, path: str) -> None:
    name, _, rest = path.partition("/")
    names = [layer.name for layer in model.layers]
    if name not in names:
        with_weights = [layer.name for layer in model.layers if layer.weights]
        raise UsageError(
            f"--freeze=until={path}: the model has no layer {name!r}; it has "
            f"{', '.join(with_weights)}"
        )
    end = names.index(name)
    for layer in model.layers[:end]:
        layer.trainable = False
    if rest and isinstance(model.layers[end], keras.Model):
        _freeze_until(model.layers[end], rest)
    else:
        model.layers[end].trainable = False
