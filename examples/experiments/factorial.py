"""Which γ should decay, how much, and where: all 16 subsets of the four roles, on small ResNets.

    python examples/experiments/factorial.py --stage=tune      # learning rates, on validation
    python examples/experiments/factorial.py --stage=test      # the plan, in its order
    python examples/experiments/factorial_report.py            # tables and figures

The plan is docs/experiments/preregistration.md, which was written before the runs that it judges.
Rows are appended to --output_dir as they end, and the same command goes on where it was stopped;
`--minutes` stops it at the end of a seed. One core; a ResNet-14 takes about a second a run.
"""

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The repository's root, so that the script runs from anywhere, and before anything is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import examples.core.quiet  # noqa: F401  (before Keras)

# isort: split
import numpy as np
import tensorflow as tf
from absl import flags

from examples.core.cli import run_main
from examples.core.files import locked
from examples.experiments import factorial_adamw, factorial_engine, factorial_plan
from examples.experiments import factorial_cells as cells
from examples.models.resnet import build_model
from keras_gamma import Role
from keras_gamma.dynamics import monitor_log

FLAGS = flags.FLAGS

if "stage" not in FLAGS:
    flags.DEFINE_enum("stage", "test", list(factorial_plan.STAGES), "What to run.")
    flags.DEFINE_string("output_dir", "runs/factorial", "Folder of the rows.")
    flags.DEFINE_integer("line", None, "Only this line of the plan, from 1; else all.", 1)
    flags.DEFINE_float("minutes", None, "Stop after so many, at the end of a seed.")


def main(argv: Sequence[str]) -> None:
    """Does the runs of a stage that are missing."""
    del argv
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    path = Path(FLAGS.output_dir) / f"{FLAGS.stage}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * FLAGS.minutes if FLAGS.minutes else np.inf
    split = "validation" if FLAGS.stage.startswith("tune") else "test"
    with locked(path.with_suffix(".lock"), wait=False):
        done = {cells.key_of(row) for row in monitor_log.read_lines(path)}
        planned = factorial_plan.STAGES[FLAGS.stage](FLAGS.line)
        left = [job for job in planned if cells.key_of(job) not in done]
        print(f"{len(done)} runs are done, {len(left)} are left", flush=True)
        last: int | None = None
        with path.open("a", encoding="utf-8") as file:
            for number, job in enumerate(left):
                if job["seed"] != last and time.monotonic() > until:
                    break
                last = job["seed"]
                row = run(job, split)
                file.write(json.dumps(row) + "\n")
                file.flush()
                if number % 16 == 0:
                    print(f"[{number}/{len(left)}] {row}", flush=True)


@functools.lru_cache(4)
def engine_of(depth: int, width: int, kind: str = "plain") -> factorial_engine.Engine:
    """Builds and traces a network once."""
    if kind in factorial_plan.NORM_POSITIONS:
        return factorial_adamw.AdamWEngine(depth, width, kind)
    network = build_model(f"resnet{depth}_v1", input_shape=(8, 8, 1), num_classes=10, width=width)
    network = factorial_engine.without_standardization(network)
    return factorial_engine.Engine(
        network, cells.MOMENTUM, decoupled=kind == "decoupled", paced=kind == "paced"
    )


@functools.lru_cache(1)
def start_of(depth: int, width: int, seed: int, kind: str = "plain") -> list[np.ndarray]:
    """The initial weights that all arms of a seed share."""
    return engine_of(depth, width, kind).initial_weights(seed)


def run(job: dict[str, Any], split: str) -> dict[str, Any]:
    """Does one run; returns its row."""
    cell = cells.Cell(**{f.name: job[f.name] for f in dataclasses.fields(cells.Cell)})
    variant, _, pace = job.get("variant", "").partition(":")
    is_transformer = variant in factorial_plan.NORM_POSITIONS
    kind = variant if variant in ("decoupled", "paced") or is_transformer else "plain"
    engine = engine_of(cell.depth, cell.width, kind)
    data = cells.data_of(cell, job["seed"])
    rates = factorial_engine.cosine(cell.rate, cell.steps)
    passes = 0.0 if variant == "decoupled" or is_transformer else cells.MOMENTUM
    strength = cell.dose * (1 - passes) / float(rates.sum())
    start = start_of(cell.depth, cell.width, job["seed"], kind if is_transformer else "plain")
    if variant == "zero":
        start = engine.zeroed(start, str(Role.RESIDUAL_LAST))
    began = time.process_time()
    outcome = engine.train(
        start,
        *data.train,
        data.order,
        rates,
        engine.decay(cell.kernels, cells.strengths_of(job["arm"], strength)),
        float(pace or 1.0),
    )
    images, labels = cells.held_out(split)
    right = np.argmax(engine.logits(images), axis=1) == labels
    ratios = engine.branch_ratios(data.train[0])
    gammas = engine.gamma_sizes()
    more: dict[str, Any] = {}
    if "variant" in job:
        more["blocks"] = [_finite(ratio) for ratio in ratios]
    if variant == "paced":
        # Mean logarithm of what multiplies η in the effective learning rate of the interior γ.
        more["interior_pace"] = _finite(np.log(float(pace or 1) / outcome.interior).mean())
    return job | {
        "accuracy": round(100 * float(right.mean()), 4),
        "loss": _finite(outcome.losses[-data.order.shape[0] // cell.epochs :].mean()),
        "ratio": _finite(np.exp(np.mean(np.log(ratios)))),
        "gamma": {role: _finite(size) for role, size in gammas.items()},
        "seconds": round(time.process_time() - began, 2),
        **more,
    }


def _finite(number: Any) -> float | None:
    """A number of four digits; `None` for a run that diverged."""
    return float(f"{number:.4g}") if np.isfinite(number) else None


if __name__ == "__main__":
    run_main(main)
