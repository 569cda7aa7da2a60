"""L2 in front of a normalization is no regularizer, but a learning rate: van Laarhoven's claims.

    python examples/effective_lr.py

checks the claims of arXiv:1706.05350, and the equilibrium of arXiv:2305.17212, on the digits: what
theory predicts beside what is measured, with 5 seeds; about five minutes on two CPU cores. The
network has three convolutions, each with a batch normalization without γ and β behind it, and a
last layer that is not trained, so that nothing but the direction of its kernels matters. One label
in ten is wrong, so that gradients do not end. The same command goes on where it was stopped.

Results in --output_dir: results.jsonl, report.md, report.html, curves.png.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # Run as a script.
    import _repository  # noqa: F401

import examples.core.quiet  # noqa: F401  (before Keras)

# isort: split
import keras
import numpy as np
from absl import flags

from examples.core.cli import run_main
from examples.experiments import experiment, pictures
from examples.experiments.effective_lr_runs import ARMS, BASE, BATCH, FACTOR, MOMENTUM, work
from examples.experiments.reports import Report
from examples.experiments.significance import Claim, estimate

FLAGS = flags.FLAGS

flags.DEFINE_string("output_dir", "runs/effective_lr", "Folder of the experiment.")
flags.DEFINE_integer("seeds", 5, "Seeds 0, 1, ….", lower_bound=1)
flags.DEFINE_integer("processes", 2, "Runs at a time.", lower_bound=1)
flags.DEFINE_integer("epochs", 60, "Passes over the training set.", lower_bound=1)


def main(argv: Sequence[str]) -> None:
    """Does the runs that are missing, and writes the report."""
    del argv
    directory = Path(FLAGS.output_dir)
    jobs: list[experiment.Job] = []
    for seed in range(FLAGS.seeds):
        jobs.append({"arm": "invariance", "seed": seed})
        jobs += [{"arm": arm, "seed": seed, "epochs": FLAGS.epochs} for arm in ARMS]
    settings = {"experiment": "effective_lr", "epochs": FLAGS.epochs, "arms": ARMS}
    rows = experiment.run_jobs(
        jobs,
        work,
        directory,
        settings,
        processes=FLAGS.processes,
        tell=lambda row: f"{row['arm']}, seed {row['seed']}",
    )
    write_report(rows, directory)
    print(f"Report in {directory / 'report.md'} and {directory / 'report.html'}")


# The report ----------------------------------------------------------------------------------


def write_report(rows: Sequence[experiment.Row], directory: Path) -> None:
    """Writes report.md, report.html and curves.png."""
    by_arm: dict[str, list[experiment.Row]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        by_arm.setdefault(row["arm"], []).append(row)
    seeds = len(by_arm[BASE])
    report = Report("Decay in front of a normalization sets the learning rate")
    report.text(
        f"Seeds 0 to {seeds - 1}; {FLAGS.epochs} epochs of {1437 // BATCH + 1} steps on the "
        f"digits, one label in ten wrong, SGD with momentum {MOMENTUM} and L2 in the loss unless "
        "said otherwise; λ in torch's units (Keras' l2 is λ/2). "
        f"Keras {keras.__version__}, backend {keras.backend.backend()}."
    )
    report.claims(claims(by_arm))
    report.text(
        "Means over seeds with 95 % intervals (Student's t), of natural logarithms where a factor "
        "is predicted. 'Holds' means that the whole interval is within the tolerance given."
    )
    report.heading("Every arm")
    report.table(
        ["arm", "test accuracy, %", "‖w‖ per filter", "its equilibrium", "angle per step",
         "its equilibrium"],
        [
            [arm, *(cell(arm, mean_of(by_arm[arm], name), name) for name in (
                "accuracy", "norm", "predicted_norm", "angle", "predicted_angle"))]
            for arm in ARMS
        ],
    )  # fmt: skip
    report.text(
        "Means over seeds, and over the last quarter of training (RMS for angles, in radians), "
        "geometric over layers. No equilibrium without decay, or where ‖w‖ is held."
    )
    pictures.lines(panels(by_arm), directory / "curves.png")
    report.picture(directory / "curves.png", "Means over the seeds.")
    report.write(directory)


def late(row: experiment.Row, name: str) -> float:
    """Returns the mean of the last quarter of a curve; RMS for angles."""
    values = [value for value in row[name] if value is not None]
    if not values:
        return math.nan
    last = np.array(values[-max(1, len(values) // 4) :])
    return float(np.sqrt(np.mean(last**2)) if "angle" in name else np.mean(last))


def cell(arm: str, number: float, name: str) -> str:
    """Returns a number for the table of arms."""
    held = ARMS[arm].get("held") and name.startswith("predicted")
    return "–" if held or math.isnan(number) else f"{number:.4g}"


def mean_of(rows: Sequence[experiment.Row], name: str) -> float:
    """Returns the mean over seeds of `late`."""
    return float(np.mean([late(row, name) for row in rows]))


def claims(by_arm: dict[str, list[experiment.Row]]) -> list[Claim]:
    """Returns what theory predicts, with what was seen."""
    found = []

    def logs(one: str, other: str, name: str, value: Any = late) -> list[float]:
        pairs = zip(by_arm[one], by_arm[other], strict=True)
        return [math.log(value(a, name) / value(b, name)) for a, b in pairs]

    def same(
        text: str, predicted: str, seen: Sequence[float], tolerance: float, unit: str = ""
    ) -> None:
        limit = f"{predicted} ± {tolerance:g}{unit}"
        # A prediction other than 0 has been taken off `seen` by then.
        found.append(Claim(text, limit, 0, estimate(seen), tolerance, unit))

    changes = [row["change"] for row in by_arm["invariance"]]
    for kind, name in (("BN", "batch"), ("LN", "layer"), ("WN", "weight")):
        same(
            f"Multiplying w by 0.1 to 10 in front of {name} normalization changes no output",
            "relative change 0", [change[kind] for change in changes], 1e-2,
        )  # fmt: skip
    first = lambda row, name: row[name][0]  # noqa: E731
    scaled = "η 0.4, λ 0.00125, w ×2"
    same(
        "w ×2, η ×4, λ /4: the same function at every step, to the end",
        "difference of final training losses, log 0", logs(scaled, BASE, "loss"), 1e-3,
    )  # fmt: skip
    for other in ("η 0.05, λ 0.01", "η 0.2, λ 0.0025"):
        same(
            f"Only ηλ matters: {other} turns w as {BASE} does",
            "ratio of angles, log 0", logs(other, BASE, "angle"), 0.1,
        )  # fmt: skip
        pairs = zip(by_arm[other], by_arm[BASE], strict=True)
        points = [late(a, "accuracy") - late(b, "accuracy") for a, b in pairs]
        same(f"… and gets as far: {other} against {BASE}", "difference 0", points, 2.0, " points")
    half = math.log(4) / 2
    same(
        "Not λ alone: with λ 0.005, η 0.2 turns w twice as far as η 0.05",
        f"ratio of angles, log {half:.3f}; beside it: 0",
        [value - half for value in logs("η 0.2, λ 0.005", "η 0.05, λ 0.005", "angle")], 0.1,
    )  # fmt: skip
    for arm, formula in ((BASE, "√(2ηλ/(1+m))"), ("AdamW, λ 1", "√(2ηλ(1−β₁)/(1+β₁))")):
        rows = by_arm[arm]
        ratio = [math.log(late(row, "angle") / late(row, "predicted_angle")) for row in rows]
        same(f"In equilibrium w turns by {formula} per step ({arm})", "log ratio 0", ratio, 0.1)
        ratio = [math.log(late(row, "norm") / late(row, "predicted_norm")) for row in rows]
        same(f"… and has the norm of the formula ({arm})", "log ratio 0", ratio, 0.1)
    log = math.log(FACTOR)
    same(
        "SGD: w ×4 at the start, the first step turns it 16 times less (η/‖w‖²)",
        f"log {-2 * log:.3f}; beside it: 0",
        [v + 2 * log for v in logs("η 0.01, λ 0, w ×4", "η 0.01, λ 0", "angle", first)], 0.02,
    )  # fmt: skip
    same(
        "Adam cancels a part: w ×4 at the start, the first step turns it 4 times less (η/‖w‖)",
        f"log {-log:.3f}; beside it: 0",
        [v + log for v in logs("Adam, w ×4", "Adam", "angle", first)], 0.02,
    )  # fmt: skip
    free = logs(BASE, "η 0.1, λ 0", "angle")
    found.append(
        Claim("Free ‖w‖: decay makes w turn faster", "log ratio of angles > 0", 1, estimate(free))
    )
    one, other = "‖w‖ = 1, λ 0.005", "‖w‖ = 1, λ 0"
    same(
        "‖w‖ = 1 held: decay does not matter", "log ratio of angles 0",
        logs(one, other, "angle"), 0.2,
    )  # fmt: skip
    pairs = zip(by_arm[one], by_arm[other], strict=True)
    points = [late(a, "accuracy") - late(b, "accuracy") for a, b in pairs]
    same("… nor for the accuracy", "difference 0", points, 2.0, " points")
    return found


def panels(by_arm: dict[str, list[experiment.Row]]) -> list[pictures.Panel]:
    """Returns what to draw."""

    def of(arm: str, name: str, style: str = "-") -> tuple[Any, Any, str]:
        rows = by_arm[arm]
        values = np.array([[np.nan if v is None else v for v in row[name]] for row in rows])
        on_steps = len(values[0]) == len(rows[0]["step"]) and name not in ("accuracy", "loss")
        x = rows[0]["step"] if on_steps else range(1, len(values[0]) + 1)
        return x, values.mean(axis=0), style

    same_product = ["η 0.05, λ 0.01", BASE, "η 0.2, λ 0.0025"]
    same_decay = ["η 0.05, λ 0.005", BASE, "η 0.2, λ 0.005"]
    held = ["‖w‖ = 1, λ 0", "‖w‖ = 1, λ 0.005", "η 0.1, λ 0", BASE]
    return [
        pictures.Panel("the same ηλ", "epoch", "training loss",
                       {arm: of(arm, "loss") for arm in same_product}, yscale="log"),
        pictures.Panel("the same λ", "epoch", "training loss",
                       {arm: of(arm, "loss") for arm in same_decay}, yscale="log"),
        pictures.Panel("w ×2, η ×4, λ /4", "epoch", "training loss",
                       {BASE: of(BASE, "loss"), "η 0.4, λ 0.00125, w ×2":
                        of("η 0.4, λ 0.00125, w ×2", "loss", "o")}, yscale="log"),
        pictures.Panel("angle per step; dotted: predicted", "step", "radians",
                       {arm: of(arm, "angle") for arm in (*same_product, "η 0.2, λ 0.005")}
                       | {f"{arm}, predicted": of(arm, "predicted_angle", "k:")
                          for arm in (BASE, "η 0.2, λ 0.005")}, yscale="log"),
        pictures.Panel("norm per filter; dotted: predicted", "step", "‖w‖",
                       {arm: of(arm, "norm") for arm in same_product}
                       | {f"{arm}, predicted": of(arm, "predicted_norm", "k:")
                          for arm in same_product}, yscale="log"),
        pictures.Panel("‖w‖ = 1 held, or free", "step", "angle per step",
                       {arm: of(arm, "angle") for arm in held}, yscale="log"),
    ]  # fmt: skip


if __name__ == "__main__":
    run_main(main)
