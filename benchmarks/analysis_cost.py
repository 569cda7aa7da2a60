"""What `find_roles` costs, beside `keras.models.clone_model`, and the import beside Keras'.

    python benchmarks/analysis_cost.py     # about four minutes on two CPU cores

Prints ratios of times of one run, interleaved, as medians; and the exponent with which the time
grows with depth.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from keras_gamma._keras import quiet  # noqa: E402

quiet.import_keras()

import keras  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402
from keras import layers  # noqa: E402
from timing import interleave, ratio  # noqa: E402

import keras_gamma  # noqa: E402

_ROUNDS = flags.DEFINE_integer("rounds", 7, "Runs of each contender.", 2)


def main(argv: Sequence[str]) -> None:
    """Measures, and prints a table in Markdown."""
    del argv
    sys.setrecursionlimit(1_000_000)  # Keras needs it for deep models.
    models = {
        "ResNet-50": lambda: keras.applications.ResNet50(weights=None),
        "ResNet-152": lambda: keras.applications.ResNet152(weights=None),
        "ViT-B (Keras' own layers)": lambda: vit(12, 768, 12),
        "100 blocks, Conv2D": lambda: chain(100, True),
        "1,000 blocks, Conv2D": lambda: chain(1000, True),
        "100 blocks, Dense": lambda: chain(100),
        "1,000 blocks, Dense": lambda: chain(1000),
    }
    print("| model | γ | find_roles | clone_model | ratio |\n| --- | --- | --- | --- | --- |")
    for name, build in models.items():
        model = build()
        gammas = len(keras_gamma.find_roles(model))
        seconds = interleave(
            {
                "roles": clocked(lambda model=model: keras_gamma.find_roles(model)),
                "clone": clocked(lambda model=model: keras.models.clone_model(model)),
            },
            _ROUNDS.value if gammas < 1000 else 3,
        )
        middle, *_ = ratio(seconds["clone"], seconds["roles"])
        roles, clone = (1000 * np.median(seconds[key]) for key in ("roles", "clone"))
        print(
            f"| {name} | {gammas} | {roles:.1f} ms | {clone:.0f} ms | 1/{middle:.0f} |", flush=True
        )
    depths = (100, 200, 400, 800)
    chains = {depth: chain(depth) for depth in depths}
    work = {
        depth: clocked(lambda model=model: keras_gamma.find_roles(model))
        for depth, model in chains.items()
    }
    interleave(work, 1)
    seconds = interleave(work, _ROUNDS.value)
    times = [min(seconds[depth]) for depth in depths]
    exponent = np.polyfit(np.log(depths), np.log(times), 1)[0]
    print(f"\ntime ~ depth^{exponent:.3f}, from {depths[0]} to {depths[-1]} blocks")
    beyond = [import_seconds() for _ in range(_ROUNDS.value)]
    print(f"import keras_gamma, beyond keras: {1000 * np.median(beyond):.1f} ms")


def clocked(function: Callable[[], object]) -> Callable[[], float]:
    """A function that runs another, and returns the seconds it took."""

    def run() -> float:
        began = time.perf_counter()
        function()
        return time.perf_counter() - began

    return run


def chain(blocks: int, convolutional: bool = False) -> keras.Model:
    """A residual network of one width."""

    def linear() -> keras.Layer:
        return layers.Conv2D(8, 3, padding="same") if convolutional else layers.Dense(8)

    x = keras.Input((8, 8, 8) if convolutional else (8,))
    y = x
    for _ in range(blocks):
        z = layers.ReLU()(layers.BatchNormalization()(linear()(y)))
        y = layers.ReLU()(layers.Add()([y, layers.BatchNormalization()(linear()(z))]))
    return keras.Model(x, layers.Dense(1)(y))


def vit(depth: int, width: int, heads: int) -> keras.Model:
    """A vision transformer's body, of Keras' own layers."""
    x = keras.Input((197, width))
    y = x
    for _ in range(depth):
        z = layers.LayerNormalization()(y)
        y = layers.Add()([y, layers.MultiHeadAttention(heads, width // heads)(z, z)])
        z = layers.Dense(4 * width, "gelu")(layers.LayerNormalization()(y))
        y = layers.Add()([y, layers.Dense(width)(z)])
    return keras.Model(x, layers.Dense(1000)(layers.LayerNormalization()(y)[:, 0]))


def import_seconds() -> float:
    """Seconds that `import keras_gamma` takes after `import keras`, in a new process."""
    code = (
        "import keras, time; t = time.perf_counter(); import keras_gamma;"
        " keras_gamma.apply_guidelines; print(time.perf_counter() - t)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    app.run(main)
