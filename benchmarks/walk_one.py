"""Walks one model. Runs in a process of its own, forked from one that has imported all it needs.

Nothing is computed at import: a fork of a process whose backend has started hangs.
"""

import collections
import os
import re
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import zoo
import zoo_third_party as third
from coverage_rows import Row, append

import keras_gamma
from keras_gamma import Role
from keras_gamma.checks import Evidence
from keras_gamma.checks.claims import Agreement, Measured, compare

MODELS: dict[str, Any] = {
    "applications": lambda every: zoo.applications(),
    "hub": lambda every: zoo.hub(),
    "cv": lambda every: zoo.cv(),
    "kecam": third.kecam,
    "kimm": third.kimm,
    "medicai": third.medicai,
    "volumes": third.volumes,
    "segment": third.segment,
    "unet": third.unet_collection,
    "bayesflow": third.bayesflow,
    "aeon": third.aeon,
    "kgcnn": third.kgcnn,
    "tcn": third.tcn,
    "vit": third.vit_keras,
}
APPLY = {Role.RESIDUAL_LAST, Role.INTERIOR}


def walk_into(
    path: Path, package: str, version: str, name: str, every: bool, keep: str = ""
) -> None:
    """Builds a model by its name, walks it, and adds the row; `keep`: where its report is kept."""
    warnings.simplefilter("ignore")
    file = Path(keep) / f"{package}:{name.replace('/', '_')}.json" if keep else None
    append(path, walk(package, version, name, build(package, name, every), file))


def build(package: str, name: str, every: bool = True) -> Any:
    """The recipe of a model, by its name."""
    return dict(MODELS[package](every))[name]


def walk(package: str, version: str, name: str, recipe: Any, keep: Path | None = None) -> Row:
    """Walks one model."""
    if recipe is None:
        return Row(package, version, name, error="no recipe in benchmarks/zoo.py")
    keras.utils.set_random_seed(0)
    try:
        model = recipe()
    except Exception as error:
        return Row(package, version, name, unbuilt=_short(error))
    try:
        start, cpu = time.perf_counter(), time.process_time()
        roles = keras_gamma.find_roles(model)
        if keep is not None:
            keep.write_text(roles.to_json(), encoding="utf-8")
        middle, cpu_middle = time.perf_counter(), time.process_time()
        found = keras_gamma.verify(model, roles)
        end, cpu_end = time.perf_counter(), time.process_time()
    except Exception as error:
        return Row(package, version, name, error=_short(error))
    # The counts are of γ; what is refuted may be another learned scale, too.
    gammas = [e for e in found if not e.is_scale]
    untold = [e for e in gammas if e.agreement is Agreement.NOT_TESTABLE]
    return Row(
        package,
        version,
        name,
        {str(role): n for role, n in roles.counts().items()},
        sum("closed" in g.reason or "cannot see into" in g.reason for g in roles),
        sum(e.agreement is Agreement.AGREE for e in gammas),
        [
            [e.path, str(e.role), str(e.measured), e.evidence]
            for e in found
            if e.agreement is Agreement.DISAGREE
        ],
        dict(collections.Counter(_general(e.evidence) for e in untold)),
        dict(collections.Counter(_general(g.reason) for g in roles if g.role is Role.OTHER)),
        _power(gammas),
        [f"{note.kind}: {note.path}" for note in roles.notes],
        round(middle - start, 3),
        round(end - middle, 2),
        [round(cpu_middle - cpu, 3), round(cpu_end - cpu_middle, 2)],
    )


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _power(found: list[Evidence]) -> dict[str, list[int]]:
    """Each γ with each role in turn: how many claims are refuted, of how many."""
    power: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for entry in found:
        for claimed in Role:
            verdict, _ = compare(claimed, Measured(entry.measured, entry.evidence))
            if claimed is entry.role:
                verdict = entry.agreement
            cell = power[f"{entry.role}>{claimed}"]
            cell[0] += verdict is Agreement.DISAGREE
            cell[1] += 1
    return dict(power)


def _general(reason: str) -> str:
    """A reason without the names of layers, which are quoted."""
    return re.sub(r"'[^']*'|\d+", "…", reason)
