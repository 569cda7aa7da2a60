"""Which γ should be decayed? Every role on and off, with many seeds, and honest statistics.

    python examples/ablation.py

trains a ResNet on the digits with L2 on the γ of no role, of all, of those that keras_gamma's
default guidelines select, and of each role alone: 7 arms, 5 seeds, about a quarter of an hour on
two CPU cores. The arms of a seed share initial weights, order of examples and augmentation, so that
differences are paired. The same command goes on where it was stopped, and makes the report again.

    python examples/ablation.py --dataset=glyphs --model=resnet14_v1 --width=16 --epochs=12 \\
        --batch_size=64 --arms=none,all,paper --seeds=8 --output_dir=runs/ablation_glyphs

uses a set on which differences of a point can show. `--arms=every`: all 16 subsets of the roles.

    python examples/ablation.py --dataset=cifar100 --model=resnet20_v1 --width=16 --flip \\
        --epochs=200 --batch_size=128 --weight_decay=5e-4 --processes=1 \\
        --output_dir=runs/ablation_cifar100

is for a GPU; not run here.

    python examples/ablation.py --design=factorial --seeds=8 --output_dir=runs/factorial_ablation

crosses the roles: every subset of them is an arm, so that every run tells about every role. Says
beforehand what the seeds will be able to tell, and at the end effects, interactions, and what
is equivalent to nothing. The flags of train_resnet.py work, too, and are the same for every arm.
Results in --output_dir: results.jsonl, report.md, report.html, curves.png, effects.png, and a
folder for each run.
"""

import collections
import csv
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # Run as a script.
    import _repository  # noqa: F401

import examples.core.quiet  # noqa: F401  (before Keras)

# isort: split
import numpy as np
from absl import flags

from examples import train_resnet
from examples.core import settings as core_settings
from examples.core.cli import UsageError, run_main
from examples.experiments import experiment, factorial_sections, pictures, significance
from examples.experiments.reports import Report, tell
from examples.experiments.significance import Claim, geometric_mean, paired
from keras_gamma import Guidelines, Role
from keras_gamma.dynamics import monitor_log

FLAGS = flags.FLAGS

EPOCHS = 30
ROLES = (Role.RESIDUAL_LAST, Role.SHORTCUT, Role.INTERIOR, Role.TRUNK)

flags.DEFINE_list(
    "arms",
    ["none", "all", "paper", *ROLES],
    "What to compare: none, all, paper (the default guidelines), roles joined by +, such as "
    "residual_last+interior; or every, for all subsets of the four roles.",
)
flags.DEFINE_enum(
    "design",
    "one_by_one",
    ["one_by_one", "factorial"],
    "one_by_one: the arms of --arms; factorial: every subset of --roles.",
)
flags.DEFINE_list("roles", list(map(str, ROLES)), "With --design=factorial: what to cross.")
flags.DEFINE_float(
    "deviation",
    0.5,
    "With --design=factorial: by how many points a main effect varies between seeds, for the "
    "power that is printed beforehand; 0.4 to 0.5 on the digits.",
    lower_bound=1e-6,
)
flags.DEFINE_integer("seeds", 5, "Seeds 0, 1, …; each arm is trained with each.", lower_bound=1)
flags.DEFINE_integer("processes", 2, "Runs at a time.", lower_bound=1)
flags.FLAGS.set_default("output_dir", "runs/ablation")
flags.FLAGS.set_default("monitor_every", 20)
flags.FLAGS.set_default("epochs", EPOCHS)
# Arms are compared at their last epoch, and nothing is chosen: curves may be of the test set.
flags.FLAGS.set_default("validation_split", "test")
flags.adopt_module_key_flags(train_resnet)
flags.adopt_module_key_flags(core_settings)


def main(argv: Sequence[str]) -> None:
    """Does the runs that are missing, and writes the report."""
    del argv
    factorial = FLAGS.design == "factorial"
    words = factorial_sections.arms_of(parse_roles(FLAGS.roles)) if factorial else FLAGS.arms
    arms = {arm: guidelines_of(arm) for arm in parse_arms(words)}
    for flag in ("guidelines", "seed", "noresume", "strategy"):
        if flag in FLAGS and FLAGS[flag].present:
            raise UsageError(f"--{flag} is set by the experiment itself")
    directory = Path(FLAGS.output_dir)
    settings = core_settings.values_of(*train_resnet.read_settings(EPOCHS)) | {
        "experiment": "ablation",
        "monitor_every": FLAGS.monitor_every,
    }
    del settings["guidelines"], settings["seed"]
    # Seed by seed, so that an interrupted experiment has whole seeds.
    jobs = [
        {"arm": arm, "guidelines": guidelines, "seed": seed}
        for seed in range(FLAGS.seeds)
        for arm, guidelines in arms.items()
    ]
    shared = core_settings.command_line(
        {name: settings[name] for name in settings if name not in ("experiment", "monitor_every")}
        | {"data_dir": FLAGS.data_dir}
    )
    print(f"{len(arms)} arms x {FLAGS.seeds} seeds in {directory}")
    if factorial:
        print(factorial_sections.power(FLAGS.seeds, FLAGS.deviation))
    clock = factorial_sections.Clock(len(jobs))

    def show(row: experiment.Row) -> str:
        done = len(monitor_log.read_lines(directory / "results.jsonl")) - 1  # A line of settings.
        told = f"{row['arm']}, seed {row['seed']}: {row['final_test_accuracy']:.4f}"
        return f"{told}  {clock.tick(done)}"

    rows = experiment.run_jobs(
        jobs,
        partial(train, directory / "runs", shared),
        directory,
        settings,
        processes=FLAGS.processes,
        tell=show,
        threads=True,
    )
    write_report(rows, list(arms), settings, directory)
    print(f"Report in {directory / 'report.md'} and {directory / 'report.html'}")


def parse_arms(words: Sequence[str]) -> list[str]:
    """Returns the names of the arms, each once."""
    arms: list[str] = []
    for word in words:
        if word == "every":
            for count in range(len(ROLES) + 1):
                subsets = itertools.combinations(ROLES, count)
                arms += ["+".join(subset) or "none" for subset in subsets]
        else:
            guidelines_of(word)
            arms.append(word)
    return list(dict.fromkeys(arms))


def parse_roles(words: Sequence[str]) -> list[str]:
    """Returns the roles to cross, each once."""
    if unknown := [word for word in words if word not in ROLES]:
        raise UsageError(f"--roles: {unknown[0]!r} is no role; roles are {', '.join(ROLES)}")
    if not words or len(set(words)) < len(words):
        raise UsageError(f"--roles: each role once, and at least one; got {','.join(words)!r}")
    return list(words)


def guidelines_of(arm: str) -> str:
    """Returns the guidelines of an arm."""
    if arm in ("none", "all", "paper"):
        return str(Guidelines.parse(arm))
    roles = arm.split("+")
    if unknown := [role for role in roles if role not in ROLES]:
        raise UsageError(
            f"--arms: {unknown[0]!r} is no role; roles are {', '.join(ROLES)}, and none, all, "
            "paper and every are arms, too"
        )
    return str(Guidelines.parse(",".join(f"{role}=1" for role in roles)))


def train(runs: Path, shared: Sequence[str], job: experiment.Job) -> experiment.Row:
    """Trains one arm with one seed, in a process of its own; returns its results."""
    folder = runs / job["arm"] / f"seed{job['seed']}"
    command = [sys.executable, str(Path(train_resnet.__file__).resolve()), "--verbose=0"]
    command += [f"--output_dir={folder}", f"--seed={job['seed']}", "--tensorboard=no"]
    command += [f"--guidelines={job['guidelines']}", f"--monitor_every={FLAGS.monitor_every}"]
    command += shared
    environment = os.environ | experiment.share_of_cores(FLAGS.processes)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        said = done.stderr.strip()
        last = said.splitlines()[-1] if said else f"exit code {done.returncode}"
        why = last.removeprefix("error: ") if last.startswith("error: ") else said[-2000:]
        raise UsageError(f"the run in {folder} failed: {why}")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    names = ("final_test_accuracy", "final_test_loss", "final_loss", "dataset", "versions")
    return {name: metrics[name] for name in names} | mechanism(folder / "monitor.jsonl")


def mechanism(path: Path) -> dict[str, Any]:
    """Returns what the monitor saw in the last quarter of training: geometric means."""
    header, rows = monitor_log.read(path)
    if header is None or not rows:
        raise UsageError(f"{path} holds no measurement; use a smaller --monitor_every")
    last = rows[-max(1, len(rows) // 4) :]
    collected: dict[str, list[float]] = collections.defaultdict(list)
    for row in last:
        collected["branch_to_skip"] += [b["ratio"] for b in row["branches"].values()]
        for numbers in row["kernels"].values():
            collected["kernel_effective_learning_rate"].append(numbers["effective_learning_rate"])
        for role, numbers in row["roles"].items():
            collected[f"gamma_norm_{role}"].append(numbers["norm"])
            collected[f"gamma_effective_learning_rate_{role}"].append(
                numbers["effective_learning_rate"]
            )
    return {name: geometric_mean(values) for name, values in collected.items()}


# The report ----------------------------------------------------------------------------------


def write_report(
    rows: Sequence[experiment.Row],
    arms: Sequence[str],
    settings: dict[str, Any],
    directory: Path,
) -> None:
    """Writes report.md, report.html and curves.png."""
    by_arm = {
        arm: sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["seed"])
        for arm in arms
    }
    seeds = len(by_arm[arms[0]])
    data, versions = rows[0]["dataset"], rows[0]["versions"]
    report = Report(f"Which γ to decay: {settings['model']} on {settings['dataset']}")
    report.text(
        f"{len(arms)} arms, seeds 0 to {seeds - 1}; {data['train_size']} training and "
        f"{data['test_size']} test images of {data['num_classes']} classes; {settings['epochs']} "
        f"epochs, batches of {settings['batch_size']}, {settings['optimizer']}, learning rate "
        f"{settings['learning_rate']}, {settings['decay']} weight decay "
        f"{settings['weight_decay']} on kernels in every arm, and on the γ of the arm. One image "
        f"is {100 / data['test_size']:.2g} points. Keras {versions['keras']}, TensorFlow "
        f"{versions['tensorflow']}. Final epoch's accuracy; no epoch was selected."
    )
    report.heading("Accuracy")
    accuracy = {arm: column(by_arm[arm], "final_test_accuracy", 100) for arm in arms}
    base = "none" if "none" in arms else arms[0]
    others = [arm for arm in arms if arm != base]
    differences = {arm: paired(accuracy[arm], accuracy[base]) for arm in others}
    corrected = dict(
        zip(others, significance.holm([d.p for d in differences.values()]), strict=True)
    )
    report.table(
        ["L2 on γ of", "accuracy, %", f"minus {base}, points", "p, corrected"],
        [
            [
                arm,
                tell(significance.estimate(accuracy[arm])),
                "–" if arm == base else tell(differences[arm]),
                "–" if arm == base else f"{corrected[arm]:.2g}",
            ]
            for arm in arms
        ],
    )
    report.text(
        "Means over seeds with 95 % intervals (Student's t); differences are paired by seed; "
        f"p-values of paired t-tests against {base}, Holm-corrected."
    )
    if FLAGS.design == "factorial":
        points = {(r["seed"], r["arm"]): round(100 * r["final_test_accuracy"], 4) for r in rows}
        factorial_sections.add(report, points, FLAGS.roles, directory)
    report.heading("Mechanism")
    names = list(dict.fromkeys(name for row in rows for name in row if is_mechanism(name)))

    def mean_of(arm: str, name: str) -> str:
        return f"{geometric_mean([row.get(name) for row in by_arm[arm]]) or 0:.3g}"

    report.table(
        ["", *arms],
        [[name.replace("_", " "), *(mean_of(arm, name) for arm in arms)] for name in names],
    )
    report.text(
        "Geometric means over the last quarter of training, over layers and seeds. branch to skip: "
        "variance of what branches add over that of what skips carry."
        " Losses are not compared: Keras counts the penalties in, and they differ between arms."
    )
    report.heading("What was predicted, and what was seen")
    report.claims(claims(by_arm))
    report.text(
        "Differences of accuracy in points, of the mechanism in natural logarithms, with 95 % "
        "intervals; p-values Holm-corrected for all claims of this table. 'No difference seen' "
        "means: not at this size, with this number of seeds; the interval says what is excluded."
    )
    curves = {arm: read_curves(directory / "runs" / arm) for arm in arms}
    pictures.learning_curves(curves, differences, base, directory / "curves.png")
    report.picture(directory / "curves.png", "Test accuracy, mean of the seeds; differences.")
    report.write(directory)


def is_mechanism(name: str) -> bool:
    """Whether a column of the results is one of `mechanism`."""
    return name.startswith(("branch_to_skip", "kernel_effective", "gamma_"))


def column(rows: Sequence[experiment.Row], name: str, factor: float = 1.0) -> list[float]:
    """Returns a column of the results; Keras computes accuracies in single precision."""
    return [round(factor * row[name], 4) for row in rows]


def claims(by_arm: dict[str, list[experiment.Row]]) -> list[Claim]:
    """Returns what theory predicts of the arms that are there, with what was seen."""
    found = []

    def compare(text: str, predicted: str, sign: int, one: str, other: str, name: str) -> None:
        if one not in by_arm or other not in by_arm:
            return
        rows = zip(by_arm[one], by_arm[other], strict=True)
        values = [(a.get(name), b.get(name)) for a, b in rows]
        pairs: list[tuple[float, float]] = [(a, b) for a, b in values if a and b]
        if not pairs:
            return
        if name == "final_test_accuracy":
            first, second = np.round(np.transpose(pairs) * 100, 4)
            unit = " points"
        else:
            first, second = np.log(np.transpose(pairs))
            unit = ""
        found.append(Claim(text, predicted, sign, paired(first, second), unit=unit))

    accuracy, branch = "final_test_accuracy", "branch_to_skip"
    compare("The guidelines beat no decay of γ", "paper > none", 1, "paper", "none", accuracy)
    compare("The guidelines beat decay of all γ", "paper > all", 1, "paper", "all", accuracy)
    compare(
        "Decay of the last γ of branches weakens branches beside skips",
        "branch to skip: residual_last < none", -1, "residual_last", "none", branch,
    )  # fmt: skip
    compare(
        "Decay of γ on shortcuts strengthens branches beside skips",
        "branch to skip: shortcut > none", 1, "shortcut", "none", branch,
    )  # fmt: skip
    compare(
        "Decay of interior γ raises their effective learning rate",
        "η/‖γ‖²: interior > none", 1, "interior", "none",
        "gamma_effective_learning_rate_interior",
    )  # fmt: skip
    for role in (Role.SHORTCUT, Role.TRUNK):
        text = f"Decay of {role} γ does harm"
        compare(text, f"{role} < none", -1, role, "none", accuracy)
    for role in (Role.RESIDUAL_LAST, Role.INTERIOR):
        text = f"Decay of {role} γ helps"
        compare(text, f"{role} > none", 1, role, "none", accuracy)
    return found


def read_curves(folder: Path) -> np.ndarray:
    """Returns test accuracies in percent: shape `(seeds, epochs)`."""
    curves = []
    for path in sorted(folder.glob("seed*/log.csv")):
        with path.open(encoding="utf-8") as file:
            curves.append([100 * float(row["val_accuracy"]) for row in csv.DictReader(file)])
    return np.array(curves)


if __name__ == "__main__":
    run_main(main)
