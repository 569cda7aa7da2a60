"""`find_roles` against hand-written roles, and the laws that hold for every model of the table."""

import re
import sys

import keras
import numpy as np
import pytest
from keras import layers
from keras.src.backend.common import global_state

from keras_gamma import Role, find_roles
from tests.models.numeric_roles import Structure
from tests.models.role_models import BY_NAME, CASES, FLAT
from tests.models.role_parts import SubclassedNet

# Every law holds for every model of the table: by default each looks at its own tenth of them.
pytestmark = pytest.mark.one_in(40)

KINDS = {
    "resnet_v1_basic": "batch",
    "resnet_v1_group": "group",
    "resnet_v1_layer": "layer",
    "resnet_v1_rms": "rms",
}

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
# `clone_model` refuses models that are written as a class.
cloneable = pytest.mark.parametrize(
    "case", [case for case in CASES if case.inputs is None], ids=lambda case: case.name
)


def owner(path):
    """A variable's path without the variable."""
    return path.rpartition("/")[0]


def by_key(report, keys):
    """Maps each key to the roles of the calls of the one entry whose path ends with it."""
    found = {}
    for entry in report:
        fits = [key for key in keys if f"/{owner(entry.path)}".endswith(f"/{key}")]
        assert len(fits) == 1, f"{entry.path} is named by {fits}"
        assert fits[0] not in found, f"two entries end with {fits[0]}"
        found[fits[0]] = tuple(str(role) for role, _ in entry.calls)
    return found


def check(report, expected):
    """Holds a report against hand-written roles."""
    found = by_key(report, expected)
    assert found.keys() == expected.keys()
    for entry in report:
        assert entry.role in [role for role, _ in entry.calls]
    assert {
        key: calls if isinstance(expected[key], tuple) else "+".join(sorted(set(calls)))
        for key, calls in found.items()
    } == expected


def roles(report):
    return [entry.role for entry in report]


def every_layer(model):
    return list(model._flatten_layers(include_self=True, recursive=True))


def every_name(model):
    """The names of all layers and operations of a model, however deep."""
    names = set()
    for layer in every_layer(model):
        names.add(layer.name)
        names.update(operation.name for operation in getattr(layer, "operations", ()))
    return names


# --- the table ---------------------------------------------------------------


@pytest.mark.one_in(12)
@every_case
def test_roles_of_the_table(case):
    check(find_roles(case.build(), case.example()), case.expected)


@every_case
def test_reasons_are_sentences_about_the_model(case):
    model = case.build()
    names = every_name(model)
    for entry in find_roles(model, case.example()):
        assert any(reason in entry.reason for _, reason in entry.calls)
        for role, reason in entry.calls:
            text = reason.strip()
            assert text and "\n" not in text
            assert not re.search(r"[.!?]\s+[A-Z]", text), f"more than one sentence: {text}"
            assert any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in names), text
            if role == Role.OTHER:
                assert all(word in text for word in case.mentions), text


@pytest.mark.parametrize("name, kind", KINDS.items())
def test_kinds(name, kind):
    report = find_roles(BY_NAME[name].build())
    assert [entry.kind for entry in report] == [kind] * len(BY_NAME[name].expected)


def test_entries_carry_layer_and_variable():
    model = BY_NAME["resnet_v1_basic"].build()
    for entry in find_roles(model):
        assert entry.layer is model.get_layer(entry.layer.name)
        assert entry.variable is entry.layer.gamma
        assert entry.path == entry.variable.path


def test_registered_scale_is_the_variable():
    for name, attribute in [
        ("registered_norm", "stretch"),
        ("registered_parent", "stretch"),
        ("one_plus_scale_norm", "scale"),
    ]:
        for entry in find_roles(BY_NAME[name].build()):
            assert entry.variable is getattr(entry.layer, attribute)


def test_counts():
    report = find_roles(BY_NAME["resnet_v1_basic"].build())
    assert {role: n for role, n in report.counts().items() if n} == {
        Role.TRUNK: 1,
        Role.INTERIOR: 2,
        Role.RESIDUAL_LAST: 2,
        Role.SHORTCUT: 1,
    }
    assert len(report) == 6


def test_printed_report_names_every_layer():
    report = find_roles(BY_NAME["resnet_v1_basic"].build())
    assert all(name in report.table() for name in BY_NAME["resnet_v1_basic"].expected)


@pytest.mark.parametrize("wrong", ["resnet", None, layers.Dense(3)])
def test_not_a_model(wrong):
    with pytest.raises(TypeError):
        find_roles(wrong)


def test_a_model_nobody_called_needs_inputs():
    with pytest.raises(ValueError, match="inputs"):
        find_roles(SubclassedNet())


# --- laws --------------------------------------------------------------------


@cloneable
def test_clone_agrees(case):
    clone = keras.models.clone_model(case.build())
    check(find_roles(clone), case.expected)


@cloneable
def test_names_do_not_matter(case):
    """Every layer gets a name that says nothing, then one that lies."""
    model = case.build()
    before = roles(find_roles(model))
    for lie in ("layer", "shortcut_residual_downsample_bn_last_gamma"):
        number = iter(range(10_000))

        def rename(layer, lie=lie, number=number):
            name = f"{lie}_{next(number)}"
            if isinstance(layer, keras.Layer):
                return type(layer).from_config({**layer.get_config(), "name": name})
            # Before Keras 3.11 not every operation takes a name.
            operation = type(layer).from_config(layer.get_config())
            operation.name = name
            return operation

        renamed = keras.models.clone_model(model, clone_function=rename)
        assert not set(case.expected) & {layer.name for layer in renamed.layers}
        assert roles(find_roles(renamed)) == before


@cloneable
def test_nesting_agrees(case):
    """The model as one layer of another: of a Sequential where it has one input and one output."""
    model = case.build()
    if len(model.inputs) == len(model.outputs) == 1:
        source = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype)
        check(find_roles(keras.Sequential([source, model])), case.expected)
    inputs = [keras.Input(t.shape[1:], dtype=t.dtype) for t in model.inputs]
    outer = keras.Model(inputs, model(inputs if len(inputs) > 1 else inputs[0]))
    check(find_roles(outer), case.expected)


@cloneable
def test_asking_twice_agrees(case):
    model = case.build()
    first, second = find_roles(model), find_roles(model)
    assert [(e.path, e.role, e.reason, e.calls) for e in first] == [
        (e.path, e.role, e.reason, e.calls) for e in second
    ]


def test_weights_and_training_do_not_matter():
    model = BY_NAME["resnet_v1_basic"].build()
    model.compile("sgd", "mse")
    model.fit(np.random.normal(size=(8, 8, 8, 4)), np.zeros((8, 3)), verbose=0)
    for variable in model.trainable_variables:
        variable.assign(0 * variable)
    check(find_roles(model), BY_NAME["resnet_v1_basic"].expected)


@pytest.mark.parametrize("case", FLAT, ids=lambda case: case.name)
def test_entries_come_in_data_flow_order(case):
    model = case.build()
    ancestors = Structure(model).ancestors
    outputs = [id(entry.layer.output) for entry in find_roles(model)]
    assert len(outputs) == len(case.expected)
    for position, later in enumerate(outputs):
        for earlier in outputs[:position]:
            assert later not in ancestors[earlier]


# --- no trace ----------------------------------------------------------------

NAMED = [
    lambda: layers.Dense(1),
    lambda: layers.Activation("relu"),
    lambda: layers.Add(),
    lambda: layers.Softmax(),
    lambda: layers.BatchNormalization(),
    lambda: layers.LayerNormalization(),
    lambda: layers.Dropout(0.1),
    lambda: layers.EinsumDense("ab,bc->ac", 3),
    lambda: layers.InputLayer((1,)),
    lambda: keras.Sequential(),
    lambda: functional(keras.Input((1,), name="same")),
]


def functional(x):
    return keras.Model(x, layers.Activation("relu", name="same_too")(x))


def serials():
    """The running numbers of names that Keras would hand out next."""
    numbers = [re.search(r"_(\d+)$", make().name) for make in NAMED]
    return [int(number[1]) if number else 0 for number in numbers]


def node_tensors(layer):
    try:
        return [id(t) for t in keras.tree.flatten([layer.input, layer.output])]
    except (AttributeError, ValueError) as error:
        return str(type(error))


def attributes(layer):
    return {name: id(value) for name, value in vars(layer).items()}


def footprint(model):
    """Everything about a model that asking for roles must leave alone."""
    every = every_layer(model)
    return {
        "config": repr(model.get_config()),
        "layers": [id(layer) for layer in every],
        "names": [layer.name for layer in every],
        "attributes": [attributes(layer) for layer in every],
        "nodes": [(len(o._inbound_nodes), len(o._outbound_nodes)) for o in every],
        "operations": [
            (len(o._inbound_nodes), len(o._outbound_nodes))
            for o in getattr(model, "operations", ())
        ],
        "tensors": [node_tensors(layer) for layer in every],
        "losses": len(model.losses),
        "built": [layer.built for layer in every],
        "paths": [variable.path for variable in model.variables],
        "variables": [id(variable) for variable in model.variables],
        "values": [variable.numpy().tobytes() for variable in model.variables],
    }


@every_case
def test_asking_leaves_no_trace(case):
    model, example = case.build(), case.example()
    if not all(layer.built for layer in every_layer(model)):
        find_roles(model, example)  # The first look builds what is not built, as a call would.
    before = footprint(model)
    first = serials()
    report = find_roles(model, example)
    second = serials()
    after = footprint(model)
    assert len(report)
    for aspect in before:
        assert after[aspect] == before[aspect], aspect
    # Every maker names exactly one more thing; what it takes as inputs counts for itself.
    again = serials()
    assert np.subtract(second, first).tolist() == np.subtract(again, second).tolist()


def test_the_footprint_would_notice():
    """The check above is worth something: one symbolic call of the model does not pass it."""
    model = BY_NAME["resnet_v1_basic"].build()
    before, first = footprint(model), serials()
    model(keras.Input((8, 8, 4)))
    for layer in model.layers[1:2]:
        layer(keras.Input((8, 8, 4)))
    second, after = serials(), footprint(model)
    third = serials()
    assert before["nodes"] != after["nodes"]
    assert np.subtract(second, first).tolist() != np.subtract(third, second).tolist()


def begin_anew():
    """Sets the seeds. (Before Keras 3.13 `set_random_seed` leaves the global generator alone.)"""
    global_state.set_global_attribute("global_seed_generator", None)
    keras.utils.set_random_seed(11)


def test_asking_leaves_global_random_numbers_alone():
    model = BY_NAME["join_drop_path"].build()
    begin_anew()
    expected = np.asarray(keras.random.normal((3,))), np.random.normal(size=3)
    begin_anew()
    find_roles(model)
    found = np.asarray(keras.random.normal((3,))), np.random.normal(size=3)
    np.testing.assert_array_equal(found, expected)


def test_asking_leaves_random_states_alone():
    model = BY_NAME["join_drop_path"].build()
    seeds = [v for v in model.variables if "seed" in v.path]
    assert seeds
    before = [v.numpy().tolist() for v in seeds]
    find_roles(model)
    assert [v.numpy().tolist() for v in seeds] == before


def test_asking_adds_no_losses():
    x = keras.Input((6, 8))
    y = layers.LayerNormalization(name="ln")(layers.ActivityRegularization(0.1)(x))
    model = keras.Model(x, layers.Dense(3, kernel_regularizer="l2", activity_regularizer="l2")(y))
    model(np.ones((2, 6, 8), "float32"))
    before = [float(keras.ops.convert_to_numpy(loss)) for loss in model.losses]
    assert len(before) == 3
    check(find_roles(model), {"ln": "trunk"})
    assert [float(keras.ops.convert_to_numpy(loss)) for loss in model.losses] == before


# --- models of others --------------------------------------------------------


def counts(report):
    return {str(role): n for role, n in report.counts().items() if n}


def test_resnet50():
    model = keras.applications.ResNet50(weights=None)
    report = find_roles(model)
    assert counts(report) == {"interior": 33, "residual_last": 16, "shortcut": 4}
    found = {e.layer.name: e.role for e in report}
    assert found["conv1_bn"] == "interior"
    assert found["conv2_block1_0_bn"] == "shortcut"
    assert found["conv2_block1_3_bn"] == "residual_last"
    assert found["conv2_block2_2_bn"] == "interior"


@pytest.mark.slow
def test_resnet50_v2():
    report = find_roles(keras.applications.ResNet50V2(weights=None))
    assert counts(report) == {"interior": 28, "residual_last": 16, "trunk": 5}
    assert [e.layer.name for e in report if e.role == "trunk"] == [
        "conv2_block1_preact_bn",
        "conv3_block1_preact_bn",
        "conv4_block1_preact_bn",
        "conv5_block1_preact_bn",
        "post_bn",
    ]


@pytest.mark.slow
def test_densenet121():
    report = find_roles(keras.applications.DenseNet121(weights=None))
    assert counts(report) == {"interior": 120, "trunk": 1}
    assert [e.layer.name for e in report if e.role == "trunk"] == ["bn"]


@pytest.mark.slow
def test_mobilenet_v2():
    """Which blocks have an Add: 2, 4, 5, 7, 8, 9, 11, 12, 14 and 15.

    Without one, a projection is `trunk` where the next block carries it on its identity skip (1, 3,
    6, 10, 13), and `interior` where the next reader is a convolution with a norm: block 0 (block 1
    has stride 2) and block 16 (the last 1x1 convolution). That one's own norm reaches the logits.
    """
    report = find_roles(keras.applications.MobileNetV2(weights=None, input_shape=(64, 64, 3)))
    found = {role: {e.layer.name for e in report if e.role == role} for role in Role}
    assert found["residual_last"] == {
        f"block_{n}_project_BN" for n in (2, 4, 5, 7, 8, 9, 11, 12, 14, 15)
    }
    assert found["trunk"] == {f"block_{n}_project_BN" for n in (1, 3, 6, 10, 13)} | {"Conv_1_bn"}
    assert {"bn_Conv1", "expanded_conv_project_BN", "block_16_project_BN"} <= found["interior"]
    assert counts(report) == {"interior": 36, "residual_last": 10, "trunk": 6}


@pytest.mark.slow
def test_keras_cv_resnet18():
    keras_cv = pytest.importorskip("keras_cv")
    model = keras_cv.models.ResNetBackbone(
        stackwise_filters=[64, 128, 256, 512],
        stackwise_blocks=[2, 2, 2, 2],
        stackwise_strides=[1, 2, 2, 2],
        include_rescaling=False,
        input_shape=(32, 32, 3),
        block_type="basic_block",
    )
    expected = {"interior": 8, "residual_last": 8, "shortcut": 3, "trunk": 1}
    assert counts(find_roles(model)) == expected


def test_keras_hub_bert():
    keras_hub = pytest.importorskip("keras_hub")
    model = keras_hub.models.BertBackbone(
        vocabulary_size=11,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=6,
    )
    assert counts(find_roles(model)) == {"trunk": 5}


def test_keras_hub_gpt2():
    keras_hub = pytest.importorskip("keras_hub")
    model = keras_hub.models.GPT2Backbone(
        vocabulary_size=11,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=6,
    )
    assert counts(find_roles(model)) == {"residual_last": 4, "trunk": 1}


def test_keras_hub_vit():
    keras_hub = pytest.importorskip("keras_hub")
    model = keras_hub.models.ViTBackbone(
        image_shape=(8, 8, 3), patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16
    )
    assert counts(find_roles(model)) == {"residual_last": 4, "trunk": 1}


# --- size --------------------------------------------------------------------


@pytest.fixture
def deep_chain():
    """2,000 pre-norm blocks of nothing but a norm. Keras' own walk recurses, ours must not."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        x = y = keras.Input((2,))
        for _ in range(2_000):
            y = layers.Add()([y, layers.LayerNormalization()(y)])
        model = keras.Model(x, layers.LayerNormalization()(y))
    finally:
        sys.setrecursionlimit(limit)
    return model


@pytest.mark.slow
def test_deep_chain(deep_chain):
    limit = sys.getrecursionlimit()
    report = find_roles(deep_chain)
    assert sys.getrecursionlimit() == limit
    assert counts(report) == {"residual_last": 2_000, "trunk": 1}
    assert roles(report)[-1] == "trunk"
