"""docs/storage.md, row by row: a decision is kept, or somebody says at once that it is lost."""

import contextlib
import importlib.util
import pathlib
import re
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_gamma
from keras_gamma.decay import DecisionNotKept
from tests.decay import storage_roads as roads

KINDS = ("built-in", "no argument", "exclude list", "our optimizers")
KEPT, TOLD = "kept", "told"
ALL = dict.fromkeys(KINDS, KEPT)
IN_CONFIG = {"built-in": KEPT, "no argument": TOLD, "exclude list": TOLD, "our optimizers": KEPT}

# Road -> what happens to each kind of decision; the table of docs/storage.md.
TABLE = {
    "keras_archive": ALL,
    "keras_archive_by_keras": IN_CONFIG,
    "unzipped": ALL,
    "h5": IN_CONFIG,
    "by_clone_model": IN_CONFIG,
    "by_our_clone_model": ALL,
    "by_from_config": IN_CONFIG,
    "by_deepcopy": IN_CONFIG,
    "by_pickle": IN_CONFIG,
    "by_deepcopy_carried_over": ALL,
    "freeze_and_unfreeze": ALL,
    "by_quantize": ALL,
    "backup_and_restore": ALL,
    "in_another_process": ALL,
    "in_another_backend": ALL,
}

PENALTIES = {
    "built-in": {"LayerNormalization": [roads.L2]},
    "no argument": {"RMSNormalization": [roads.L2], "OwnNorm": [roads.L2]},
}
KERNELS = ["one_fc/kernel", "out/kernel", "three_fc/kernel", "two_fc/kernel"]


def decided(kind, inner, model, **kwargs):
    """Decides on `inner`, and compiles `model`, which holds it."""
    if kind in PENALTIES:
        keras_gamma.apply_guidelines(inner, l2=roads.L2)
        model.compile(keras.optimizers.SGD(roads.ETA, **kwargs), roads.loss())
        return
    cls = keras.optimizers.SGD if kind == "exclude list" else keras_gamma.optimizers.SGDW
    optimizer = cls(roads.ETA, weight_decay=roads.DECAY, **kwargs)
    # Those of Keras take the decision for the inner model; ours need it for all variables.
    decide_for = inner if kind == "exclude list" else model
    keras_gamma.exclude_from_weight_decay(optimizer, decide_for, guidelines="none")
    if kind == "exclude list" and model is not inner:
        keras_gamma.exclude_from_weight_decay(optimizer, model, guidelines="none")
    model.compile(optimizer, roads.loss())


def is_kept(kind, model):
    if kind in PENALTIES:
        found, wanted = roads.penalties(model), PENALTIES[kind]
        return {name: found.get(name) for name in wanted} == wanted
    names = {"/".join(v.path.split("/")[-2:]) for v in model.trainable_variables}
    return roads.decayed(model) == [name for name in KERNELS if name in names]


@contextlib.contextmanager
def losses():
    """Collects the sentences that say that a decision is lost; other warnings are errors."""
    told = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*(HDF5|quantize|compiled the loaded|eagerly).*")
        warnings.simplefilter("always", DecisionNotKept)
        yield told
    told += [str(w.message) for w in caught if issubclass(w.category, DecisionNotKept)]


def outcome(kind, model, road, folder):
    with losses() as told:
        after = road(model, folder)
    if is_kept(kind, after):
        return KEPT
    assert told, "lost in silence"
    assert all(re.search(r"keras_gamma\.(load_model|decay|optimizers)", text) for text in told)
    return TOLD


@pytest.mark.usefixtures("steps")
@pytest.mark.one_in(7)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("road", [name for name in TABLE if not name.startswith("in_another")])
def test_roads(road, kind, tmp_path):
    inner = roads.base()
    model = roads.with_head(inner)
    decided(kind, inner, model)
    assert is_kept(kind, model)
    assert outcome(kind, model, getattr(roads, road), tmp_path) == TABLE[road][kind]


@pytest.mark.parametrize(
    "road",
    [
        pytest.param("in_another_process", marks=pytest.mark.slow),
        pytest.param("in_another_backend", marks=pytest.mark.slow),
    ],
)
def test_all_at_once_in_another_process(road, tmp_path):
    if road == "in_another_backend":
        pytest.importorskip(roads.OTHER_BACKEND)
    inner = roads.base()
    model = roads.with_head(inner)
    for kind in ("built-in", "exclude list"):
        decided(kind, inner, model)
    with losses():
        after = getattr(roads, road)(model, tmp_path)
    assert all(is_kept(kind, after) for kind in ("built-in", "no argument", "exclude list"))


# Whoever holds the layer saves it -------------------------------------------------------------


def new_head(inner):
    return keras.Model(inner.input, layers.Dense(2, name="out")(inner.output), name="new")


def sharing(inner):
    """A second model on the same layers, but the last."""
    y = inner.get_layer("three_join").output
    return keras.Model(inner.input, layers.Dense(2, name="out")(y), name="sharing")


HOLDERS = {
    "new head on base.input": new_head,
    "outer model": roads.with_head,
    "outer of an outer model": lambda inner: roads.with_head_twice(inner),
    "two models sharing layers": sharing,
}


@pytest.mark.one_in(3)
@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("holder", HOLDERS)
def test_whoever_holds_the_layer_saves_it(holder, kind, tmp_path):
    inner = roads.base()
    model = HOLDERS[holder](inner)
    decided(kind, inner, model)
    assert outcome(kind, model, roads.keras_archive, tmp_path) == KEPT


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("kind", ["built-in", "no argument"])
def test_the_inner_model_alone(kind, tmp_path):
    inner = roads.base()
    model = roads.with_head(inner)
    keras_gamma.apply_guidelines(model, l2=roads.L2)
    assert outcome(kind, inner, roads.keras_archive, tmp_path) == KEPT


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("kind", ["exclude list", "our optimizers"])
def test_the_inner_model_is_saved_without_the_optimizer(kind, tmp_path):
    inner = roads.base()
    model = roads.with_head(inner)
    decided(kind, inner, model)
    if kind == "our optimizers":
        model.optimizer.build(model.trainable_variables)
    with losses() as told:
        inner.save(tmp_path / "inner.keras")
    assert len(told) == 1 and "no optimizer" in told[0]


def test_two_submodels_of_one_name(tmp_path):
    """The penalty comes back to the right one of two layers that have the same path."""
    towers = []
    x = keras.Input((4,))
    for name in ("left", "right"):
        y = keras.Input((4,))
        enc = keras.Model(y, layers.RMSNormalization(name="rms")(y), name="enc")
        z = keras.Input((4,))
        towers.append(keras.Model(z, enc(z), name=name))
    y = layers.Concatenate()([tower(x) for tower in towers])
    model = keras.Model(x, layers.Dense(2, name="out")(y))
    keras_gamma.apply_guidelines(towers[1], l2=roads.L2, guidelines="all")
    for road in (roads.keras_archive, roads.by_our_clone_model):
        with losses():
            after = road(model, tmp_path)
        found = [
            [v.regularizer is not None for v in after.get_layer(name).trainable_variables]
            for name in ("left", "right")
        ]
        assert found == [[False], [True]]


WRITER = getattr(keras.saving, "save_weights", keras.Model.save_weights)


@pytest.mark.parametrize("save", [keras.Model.save_weights, WRITER], ids=["method", "function"])
def test_weights_alone(save, tmp_path):
    """They change no decision of the model that loads them; saving says that they hold none."""
    inner = roads.base()
    model = roads.with_head(inner)
    decided("no argument", inner, model)
    with losses() as told:
        save(model, tmp_path / "m.weights.h5")
    assert len(told) == 1 and "GammaPlan.apply" in told[0]
    with losses() as told:
        model.load_weights(tmp_path / "m.weights.h5")
    assert is_kept("no argument", model) and not told


@pytest.mark.one_in(2)
@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("kind", KINDS)
def test_ema(kind, tmp_path):
    inner = roads.base()
    model = roads.with_head(inner)
    decided(kind, inner, model, use_ema=True)
    model.optimizer.build(model.trainable_variables)  # Keras loads no other of this kind.
    assert outcome(kind, model, roads.keras_archive, tmp_path) == KEPT


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("kind", ["exclude list", "our optimizers"])
def test_loss_scale_optimizer(kind, tmp_path):
    model = roads.with_head(roads.base())
    decided(kind, model, model)
    model.compile(keras.optimizers.LossScaleOptimizer(model.optimizer), roads.loss())
    model.optimizer.build(model.trainable_variables)  # Keras loads no other of this kind.
    assert outcome(kind, model, roads.keras_archive, tmp_path) == KEPT


@pytest.mark.usefixtures("steps")
def test_parts_of_a_multi_optimizer(tmp_path):
    inner = roads.base()
    model = roads.with_head(inner)
    one, other = (keras.optimizers.SGD(roads.ETA, weight_decay=roads.DECAY) for _ in range(2))
    for optimizer in (one, other):
        keras_gamma.exclude_from_weight_decay(optimizer, model, guidelines="none")
    parts = keras.optimizers.OptimizerMap(one, {"out/.*": other})
    model.compile(keras.optimizers.MultiOptimizer(parts), "mse")
    assert outcome("exclude list", model, roads.keras_archive, tmp_path) == KEPT


@pytest.mark.one_in(3)
@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("kind", ["built-in", "no argument", "exclude list"])
def test_lora(kind, tmp_path):
    inner = roads.base()
    model = roads.with_head(inner)
    decided(kind, inner, model)
    inner.get_layer("one_fc").enable_lora(1)
    model.compile(model.optimizer, "mse")
    if kind == "exclude list":
        spared = {"built_in/gamma", "rms/scale", "third_party/gain", "one_fc/bias", "out/bias"}
        assert not spared & set(roads.decayed(model))
    else:
        assert outcome(kind, model, roads.keras_archive, tmp_path) == KEPT


def test_lora_and_our_optimizers():
    """The new weights are unknown to it: an error, and what to do."""
    inner = roads.base()
    model = roads.with_head(inner)
    decided("our optimizers", inner, model)
    inner.get_layer("one_fc").enable_lora(1)
    with pytest.raises(ValueError, match=r"no decision.*lora.*plan_weight_decay"):
        model.optimizer.build(model.trainable_variables)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="it writes by TensorFlow")
@pytest.mark.usefixtures("steps")
def test_tensorboard_loses_nothing(tmp_path):
    """It shows the model's config: nobody rebuilds a model from that."""
    pytest.importorskip("tensorboard")  # TensorFlow 2.21 does not bring it
    model = roads.with_head(roads.base())
    decided("no argument", model, model)
    with losses() as told:
        callback = keras.callbacks.TensorBoard(tmp_path, write_graph=True)
        model.fit(np.ones((2, 4)), np.ones((2, 2)), verbose=0, callbacks=[callback])
    assert not told


class Around(keras.Model):
    """Its config says nothing of what it holds."""

    def __init__(self, inner=None, **kwargs):
        super().__init__(**kwargs)
        self.inner = roads.base() if inner is None else inner

    def call(self, x):
        return self.inner(x)

    def get_config(self):
        return {"name": self.name}


def test_the_config_of_a_model_that_was_built_later():
    """It rebuilds the layers from nothing."""
    inner = roads.base()
    keras_gamma.apply_guidelines(inner, l2=roads.L2)
    model = Around(inner)
    model(np.ones((1, 4)))
    with losses() as told:
        again = Around.from_config(model.get_config())
    again(np.ones((1, 4)))
    assert not again.losses and len(told) == 1 and "config of Around" in told[0]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a format of TensorFlow")
@pytest.mark.parametrize("later", [False, True])
def test_a_saved_model_has_no_decision(later, tmp_path):
    """What is exported can be trained on, by `TFSMLayer`: it is told when it is exported."""
    model = roads.base()
    keras_gamma.apply_guidelines(model, l2=roads.L2)
    if later:
        model = roads.with_head(model)
    with losses() as told:
        model.export(tmp_path / "exported", verbose=False)
    assert len(told) == 1 and re.search("exported|ExportArchive", told[0])
    served = layers.TFSMLayer(tmp_path / "exported", call_endpoint="serve")
    # Not `served.losses`, which fails in Keras 3.8.
    assert served.trainable_variables
    assert [v for v in served.trainable_variables if getattr(v, "regularizer", None)] == []


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras needs torch_xla for it")
def test_an_export_archive_has_no_decision(tmp_path):
    """`keras.export.ExportArchive` by hand: told once for each."""
    model = roads.base()
    keras_gamma.apply_guidelines(model, l2=roads.L2)
    for _ in range(2):
        archive = keras.export.ExportArchive()
        archive.track(model)
        with losses() as told:
            for name in ("serve", "train"):
                archive.add_endpoint(
                    name,
                    lambda x, training=name == "train": model(x, training=training),
                    [keras.InputSpec(shape=(None, 4), dtype="float32")],
                )
            archive.write_out(tmp_path / "exported", verbose=False)
        assert len(told) == 1 and "ExportArchive" in told[0]


hub = pytest.mark.skipif(importlib.util.find_spec("keras_hub") is None, reason="no keras-hub")


def backbone(name):
    import keras_hub

    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8}
    if name == "gpt2":
        cls = keras_hub.models.GPT2Backbone
        return cls(vocabulary_size=10, max_sequence_length=8, **sizes)
    return keras_hub.models.LlamaBackbone(
        vocabulary_size=10, num_layers=1, num_query_heads=2, num_key_value_heads=1,
        hidden_dim=8, intermediate_dim=8,
    )  # fmt: skip


def count(model):
    return len(model.losses)


@pytest.mark.one_in(2)
@hub
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_presets(name, tmp_path):
    model = backbone(name)
    keras_gamma.apply_guidelines(model, l2=roads.L2)
    with losses() as told:
        model.save_to_preset(str(tmp_path / "by_hub"))
    assert len(told) == 1 and "save_to_preset" in told[0]
    with losses() as told:
        keras_gamma.decay.save_to_preset(model, tmp_path / "ours")
        again = keras_gamma.decay.from_preset(type(model), tmp_path / "ours")
    assert count(again) == count(model) > 0 and not told
    assert count(type(model).from_preset(str(tmp_path / "ours"))) == 0  # If not, say so in docs.


@pytest.mark.slow
@hub
def test_a_task_around_a_backbone(tmp_path):
    """The decision on the backbone is the task's, too, and its preset's."""
    import keras_hub

    model = backbone("gpt2")
    keras_gamma.apply_guidelines(model, l2=roads.L2)
    task = keras_hub.models.GPT2CausalLM(backbone=model, preprocessor=None)
    with losses():
        keras_gamma.decay.save_to_preset(task, tmp_path)
        loaded = keras_gamma.decay.from_preset(keras_hub.models.GPT2CausalLM, tmp_path,
                                               preprocessor=None)  # fmt: skip
        alone = keras_gamma.decay.from_preset(keras_hub.models.GPT2Backbone, tmp_path)
    assert count(loaded) == count(alone) == count(model) > 0


def test_a_preset_without_decisions(tmp_path):
    with pytest.raises(ValueError, match="not written by"):
        keras_gamma.decay.from_preset(object, tmp_path)


def test_the_docs_show_this_table():
    path = pathlib.Path(__file__).parents[2] / "docs" / "storage.md"
    rows = re.findall(r"^\| (.+) \| `(\w+)` \|$", path.read_text(encoding="utf-8"), re.MULTILINE)
    shown = {name: [cell.strip() for cell in cells.split("|")[1:]] for cells, name in rows}
    wanted = {name: [row[kind] for kind in KINDS] for name, row in TABLE.items()}
    assert shown == wanted


def test_the_tests_that_the_docs_name_are_there():
    tests = pathlib.Path(__file__).parents[1]
    page = (tests.parent / "docs" / "storage.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .+ \| (`test_\w+\.py::.+`) \|$", page, re.MULTILINE)
    assert len(rows) == 22  # The thirteen, and what was found later.
    for row in rows:
        file, names = row.strip("`").split("::", 1)
        (path,) = tests.rglob(file)
        for name in names.split("`, `"):
            assert f"\ndef {name}(" in path.read_text(encoding="utf-8"), name
