"""Texts with labels, and texts with translations: made on the spot, or of tensorflow-datasets."""

import dataclasses
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from examples.core.cli import UsageError
from examples.data import dates, preparing
from examples.data.arrays import held_out
from examples.data.splits import Splits, choose, warn_if_shared

DATES, LINES = "dates", "stdlib_lines"
PARTS = ("train", "validation", "test")
# Not tkinter, idlelib or test, which distributions of Python leave out.
_PACKAGES = (
    "asyncio", "ctypes", "email", "encodings", "http", "importlib", "multiprocessing", "unittest",
    "urllib", "xml",
)  # fmt: skip
_LINES_PER_PACKAGE = 1500
_SHORTEST = 16


@dataclasses.dataclass(frozen=True)
class Part:
    """One split: texts, and with each its label or its translation."""

    texts: list[str]
    answers: Any

    def cut(self, count: int) -> "Part":
        """Returns the first so many; all of them if `count` is 0."""
        if not count:
            return self
        return Part(self.texts[:count], self.answers[:count])


@dataclasses.dataclass(frozen=True)
class Sentences:
    """What to learn from, to validate on (perhaps nothing), and to test on."""

    name: str
    parts: dict[str, Part]
    classes: tuple[str, ...] = ()
    splits: Splits | None = None

    def describe(self) -> dict[str, object]:
        """Returns what belongs in a report."""
        found: dict[str, object] = {"name": self.name}
        found |= {f"{part}_size": len(texts.texts) for part, texts in self.parts.items()}
        if self.classes:
            found["classes"] = list(self.classes)
        if self.splits:
            found["splits"] = dataclasses.asdict(self.splits)
        return found


@dataclasses.dataclass(frozen=True)
class Asked:
    """Which set and which of its splits: what the flags of these names say."""

    dataset: str | None
    data_dir: str | None
    train_split: str | None
    validation_split: str | None
    test_split: str | None
    limit_examples: int


def labelled(asked: Asked) -> Sentences:
    """Returns texts with labels.

    Args:
        asked: a set of tensorflow-datasets with texts and one label, such as `glue/sst2`; of
            several texts one is made. `None`: lines of the standard library.
    """
    if asked.dataset in (None, LINES):
        return _made(asked, LINES, *_stdlib_lines(), classes=_PACKAGES)
    builder = preparing.prepared(str(asked.dataset), asked.data_dir, _texts_and_label)
    texts, label = _texts_and_label(builder.info)

    def read(example: dict[str, Any]) -> tuple[str, Any]:
        return " [SEP] ".join(_text(example[key]) for key in texts), int(example[label])

    return _loaded(asked, builder, read, tuple(builder.info.features[label].names))


def translated(asked: Asked, *, swap: bool) -> Sentences:
    """Returns texts with translations.

    Args:
        asked: a translation set of tensorflow-datasets, such as `wmt14_translate/de-en`. `None`:
            dates in words.
        swap: whether to translate the other way.
    """
    if asked.dataset in (None, DATES):
        pairs = dates.pairs(20_000)
        sources, targets = ([pair[side] for pair in pairs] for side in (0, 1))
        return _made(asked, DATES, *((targets, sources) if swap else (sources, targets)))
    builder = preparing.prepared(str(asked.dataset), asked.data_dir, _text_and_translation)
    keys = _text_and_translation(builder.info)
    source, target = reversed(keys) if swap else keys
    return _loaded(asked, builder, lambda example: (_text(example[source]), _text(example[target])))


def _texts_and_label(info: tfds.core.DatasetInfo) -> tuple[list[str], str]:
    """Returns the features that are text, and the one that is a label."""
    features = info.features
    texts = [key for key, feature in features.items() if isinstance(feature, tfds.features.Text)]
    labels = [k for k, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    if not texts or len(labels) != 1:
        raise UsageError(
            f"{info.name} has the features {list(features)}; --task=classification needs one or "
            "more texts and one label"
        )
    return texts, labels[0]


def _text_and_translation(info: tfds.core.DatasetInfo) -> tuple[str, str]:
    """Returns the features that are a text and its translation."""
    features = dict(info.features.items())
    keys = list(info.supervised_keys or ())[:2]
    texts = [key for key in keys if isinstance(features.get(key), tfds.features.Text)]
    if len(texts) < 2:
        raise UsageError(
            f"{info.name} is no translation set: its supervised_keys name no two texts"
        )
    return texts[0], texts[1]


def _loaded(
    asked: Asked, builder: tfds.core.DatasetBuilder, read: Any, classes: tuple[str, ...] = ()
) -> Sentences:
    splits = _splits(asked, builder, read, bool(classes))
    parts = {}
    for part in PARTS:
        split = getattr(splits, part)
        texts: list[str] = []
        answers: list[Any] = []
        for number, example in enumerate(_examples(builder, split) if split else ()):
            if part == "train" and asked.limit_examples and number >= asked.limit_examples:
                break
            text, answer = read(example)
            texts.append(text)
            answers.append(answer)
        if split and not texts:
            raise UsageError(f"the split {split!r} of {builder.info.name} has no examples")
        parts[part] = Part(texts, np.array(answers, np.int64) if classes else answers)
        if classes and texts and min(answers) < 0:
            raise UsageError(
                f"the split {split!r} of {builder.info.name} has examples without a label; choose "
                "another with --train_split, --validation_split or --test_split"
            )
    warn_if_shared(builder.info, splits)
    return Sentences(builder.info.full_name, parts, classes, splits)


def _splits(
    asked: Asked, builder: tfds.core.DatasetBuilder, read: Any, with_labels: bool
) -> Splits:
    """Chooses splits; a test set whose labels are kept secret, like GLUE's, counts as none."""
    there = preparing.available_splits(builder.info)
    if with_labels and asked.test_split is None and "test" in there and "validation" in there:
        first = next(iter(_examples(builder, "test")), None)
        if first is not None and read(first)[1] < 0:
            print(f"{builder.info.name}: the labels of its test are not public")
            there = [split for split in there if split != "test"]
    return choose(
        builder.info.name,
        there,
        train=asked.train_split,
        validation=asked.validation_split,
        test=asked.test_split,
    )


def _examples(builder: tfds.core.DatasetBuilder, split: str) -> Any:
    try:
        return tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))
    except (ValueError, AssertionError) as error:  # tfds' own ways of not knowing a split
        there = ", ".join(preparing.available_splits(builder.info))
        raise UsageError(f"{builder.info.name} has no split {split!r}; it has {there}") from error


def _made(
    asked: Asked,
    name: str,
    texts: Sequence[str],
    answers: Sequence[Any],
    classes: tuple[str, ...] = (),
) -> Sentences:
    """Splits what was made here: of every ten examples one is for testing, one to validate on."""
    for flag in ("train_split", "test_split"):
        if getattr(asked, flag) is not None:
            raise UsageError(f"--{flag} is for sets of tensorflow-datasets; {name} has its own")
    if asked.validation_split not in (None, "none"):
        raise UsageError(f"--validation_split={asked.validation_split}: {name} knows only none")
    chosen = held_out(len(texts))
    if asked.validation_split == "none":
        chosen["train"] = np.sort(np.concatenate([chosen["train"], chosen["validation"]]))
        chosen["validation"] = chosen["validation"][:0]
    parts = {}
    for part, numbers in chosen.items():
        found = [answers[number] for number in numbers]
        parts[part] = Part(
            [texts[number] for number in numbers], np.array(found, np.int64) if classes else found
        )
    parts["train"] = parts["train"].cut(asked.limit_examples)
    return Sentences(name, parts, classes)


def _stdlib_lines() -> tuple[list[str], list[int]]:
    """Lines of the standard library's source that only one of the packages has, and which."""
    root = Path(sysconfig.get_path("stdlib"))
    owners: dict[str, set[int]] = {}
    for number, package in enumerate(_PACKAGES):
        for path in sorted((root / package).rglob("*.py")):
            if "test" in path.parts or "tests" in path.parts:
                continue
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if len(line.strip()) >= _SHORTEST:
                    owners.setdefault(line.strip(), set()).add(number)
    random = np.random.default_rng(0)
    found: list[tuple[str, int]] = []
    for number, package in enumerate(_PACKAGES):
        lines = [line for line, who in owners.items() if who == {number}]
        if not lines:
            raise UsageError(
                f"this Python has no sources of {package} in {root}, from which the default data "
                "set is made; give --dataset, a set of tensorflow-datasets such as glue/sst2"
            )
        chosen = np.sort(random.permutation(len(lines))[:_LINES_PER_PACKAGE])
        found += [(lines[index], number) for index in chosen]
    order = random.permutation(len(found))
    return [found[index][0] for index in order], [found[index][1] for index in order]


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
