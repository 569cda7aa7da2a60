"""Nested models, composite layers, subclassed models, foreign norms: with hand-written roles."""

import functools

import keras
import numpy as np
from keras import layers

from tests.models.role_cases_conv import BASIC, basic, resnet_v1_basic, stem
from tests.models.role_parts import (
    INTERIOR,
    OTHER,
    RESIDUAL_LAST,
    SHORTCUT,
    TRUNK,
    BasicBlock,
    Case,
    OddlyNamedChild,
    OddlyNamedNorm,
    OnePlusNorm,
    OpaqueBlock,
    PositionedTokens,
    RawBackend,
    RawBlock,
    RawNumpy,
    Stage,
    SubclassedNet,
    ThirdPartyRMS,
    TransformerEncoder,
    bn,
    classify,
    conv,
    image,
    ln,
    mlp,
    relu,
    tokens,
)


def nested_functional():
    """Backbone and head as two models: the first block's skip crosses the border."""
    x = image()
    backbone = keras.Model(x, stem(x), name="backbone")
    z = image()
    body = keras.Model(z, basic(z, "b1"), name="body")
    y = image()
    return keras.Model(y, classify(body(backbone(y))))


def nested_in_nested():
    x = image()
    inner = keras.Model(x, basic(stem(x), "b1"), name="inner")
    z = image()
    middle = keras.Model(z, bn(inner(z), "middle_bn"), name="middle")
    y = image()
    return keras.Model(y, classify(middle(y)))


def nested_sequential():
    """The whole branch is a Sequential, with a Sequential inside."""
    x = image()
    head = keras.Sequential(
        [layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization(name="bn1")], name="head"
    )
    branch = keras.Sequential(
        [
            head,
            layers.ReLU(),
            layers.Conv2D(4, 3, padding="same"),
            layers.BatchNormalization(name="bn2"),
        ],
        name="branch",
    )
    y = stem(x)
    return keras.Model(x, classify(layers.Add()([y, branch(y)])))


def sequential_of_composites():
    return keras.Sequential(
        [
            image(),
            layers.Conv2D(4, 3, padding="same"),
            layers.BatchNormalization(name="stem_bn"),
            BasicBlock(4, name="block1"),
            BasicBlock(8, 2, name="block2"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )


COMPOSITES = {
    "stem_bn": TRUNK,
    "block1/bn1": INTERIOR,
    "block1/bn2": RESIDUAL_LAST,
    "block2/bn1": INTERIOR,
    "block2/bn2": RESIDUAL_LAST,
    "block2/bn0": SHORTCUT,
}


def composite_in_composite():
    x = image()
    y = Stage(8, name="stage1")(stem(x))
    return keras.Model(x, classify(bn(Stage(16, name="stage2")(y), "final_bn")))


def subclassed():
    model = SubclassedNet(name="net")
    model(np.zeros((2, 8, 8, 4), "float32"))
    return model


def example_images():
    return np.zeros((2, 8, 8, 4), "float32")


def subclassed_in_functional():
    x = image()
    return keras.Model(x, layers.Softmax()(SubclassedNet(name="net")(x)))


def keras_example_transformer():
    ids = keras.Input((6,), dtype="int32")
    x = TransformerEncoder(8, 2, name="encoder")(PositionedTokens(name="embed")(ids))
    return keras.Model(ids, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def mixed_precision():
    """Casts between half and single precision are identities."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        x = image()
        y = BasicBlock(8, 2, name="block2")(BasicBlock(4, name="block1")(stem(x)))
        return keras.Model(x, layers.Dense(3, dtype="float32")(layers.Flatten()(y)))
    finally:
        keras.config.set_dtype_policy(policy)


# --- what cannot be opened ---------------------------------------------------


def opaque(cls):
    """bn1's only way on leads into a layer that cannot be opened, so it cannot be told.

    A norm comes later, but between the two there could be a join. What comes after is known.
    """
    x = image()
    y = cls(name="secret")(bn(conv(x), "bn1"))
    return keras.Model(x, classify(relu(bn(conv(y), "bn2"))))


def opaque_in_branch():
    x = tokens()
    y = layers.Add()([x, layers.Dense(8)(RawBackend(name="secret")(mlp(ln(x, "ln1"))))])
    y = layers.Add()([y, mlp(ln(y, "ln2"))])
    return keras.Model(x, layers.Dense(3)(ln(y, "final_ln")))


def raw_blocks():
    """Blocks with raw code, behind a model of layers that is not."""
    x = image()
    stem = keras.Sequential(
        [
            image(),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(name="inside_bn"),
            layers.Conv2D(4, 3, padding="same"),
            layers.BatchNormalization(name="stem_bn"),
        ],
        name="stem",
    )
    y = RawBlock(4, name="block2")(RawBlock(4, name="block1")(stem(x)))
    return keras.Model(x, classify(y))


def opaque_composite():
    """A norm inside a layer that cannot be opened has a γ all the same, and one role: unknown."""
    x = tokens()
    y = OpaqueBlock(8, name="secret")(layers.Dense(8)(x))
    return keras.Model(x, layers.Dense(3)(ln(y, "final_ln")))


# --- foreign norms -----------------------------------------------------------


@functools.cache
def _registered():
    """Registers the norms that cannot be known by their attributes, once."""
    import keras_gamma

    keras_gamma.register_normalization(OddlyNamedNorm, kind="odd", scale="stretch")
    keras_gamma.register_normalization(OnePlusNorm, kind="rms", scale="scale", neutral=0.0)
    return OddlyNamedNorm, OddlyNamedChild, OnePlusNorm


def foreign(norm):
    """Pre-norm, with the foreign class as inner, last and final norm."""
    x = tokens()
    h = layers.Dense(8, activation="relu")(norm(name="n1")(x))
    y = layers.Add()([x, layers.Dense(8)(norm(name="n2")(h))])
    return keras.Model(x, layers.Dense(3)(norm(name="n3")(y)))


def registered(index):
    return foreign(_registered()[index])


FOREIGN = {"n1": INTERIOR, "n2": RESIDUAL_LAST, "n3": TRUNK}


def raw(role):
    """The role where raw backend code can be read (TensorFlow's graph), else unknown."""
    return role if keras.backend.backend() == "tensorflow" else OTHER


CASES = [
    Case(
        "nested_functional",
        nested_functional,
        {"stem_bn": TRUNK, "b1_bn1": INTERIOR, "b1_bn2": RESIDUAL_LAST},
    ),
    Case(
        "nested_in_nested",
        nested_in_nested,
        {"stem_bn": TRUNK, "b1_bn1": INTERIOR, "b1_bn2": RESIDUAL_LAST, "middle_bn": TRUNK},
    ),
    Case(
        "nested_sequential",
        nested_sequential,
        {"stem_bn": TRUNK, "bn1": INTERIOR, "bn2": RESIDUAL_LAST},
    ),
    Case("sequential_of_composites", sequential_of_composites, COMPOSITES),
    Case(
        "sequential_of_models",
        lambda: keras.Sequential([image(), resnet_v1_basic(), layers.Softmax()]),
        BASIC,
    ),
    Case(
        "composite_in_composite",
        composite_in_composite,
        {
            "stem_bn": INTERIOR,
            # block1 of a Stage projects, block2 carries the identity.
            **{
                f"stage{stage}/{name}": role
                for stage in (1, 2)
                for name, role in {
                    "block1/bn1": INTERIOR,
                    "block1/bn2": RESIDUAL_LAST,
                    "block1/bn0": SHORTCUT,
                    "block2/bn1": INTERIOR,
                    "block2/bn2": RESIDUAL_LAST,
                }.items()
            },
            "final_bn": TRUNK,
        },
    ),
    Case("subclassed", subclassed, {**COMPOSITES, "tail_bn": TRUNK}, inputs=example_images),
    Case("subclassed_in_functional", subclassed_in_functional, {**COMPOSITES, "tail_bn": TRUNK}),
    Case(
        "keras_example_transformer",
        keras_example_transformer,
        {f"block{n}/norm{k}": TRUNK for n in (1, 2) for k in (1, 2)},
    ),
    Case("mixed_precision", mixed_precision, COMPOSITES),
    Case(
        "opaque_backend",
        lambda: opaque(RawBackend),
        {"bn1": raw(INTERIOR), "bn2": TRUNK},
        mentions=("secret",),
    ),
    Case(
        "opaque_numpy",
        lambda: opaque(RawNumpy),
        {"bn1": OTHER, "bn2": TRUNK},
        mentions=("secret",),
    ),
    Case(
        "opaque_in_branch",
        opaque_in_branch,
        {"ln1": raw(RESIDUAL_LAST), "ln2": RESIDUAL_LAST, "final_ln": TRUNK},
        mentions=("secret",),
    ),
    Case(
        "opaque_composite",
        opaque_composite,
        {"secret/norm": raw(RESIDUAL_LAST), "final_ln": TRUNK},
        mentions=("secret",),
    ),
    Case(
        "raw_blocks",
        raw_blocks,
        {
            # Read on TensorFlow; elsewhere what a layer within yields goes into closed code.
            **{f"block{n}/bn1": raw(INTERIOR) for n in (1, 2)},
            **{f"block{n}/bn2": raw(RESIDUAL_LAST) for n in (1, 2)},
            "inside_bn": INTERIOR,
            "stem_bn": raw(TRUNK),
        },
    ),
    Case("third_party_norm", lambda: foreign(ThirdPartyRMS), FOREIGN),
    Case("registered_norm", lambda: registered(0), FOREIGN),
    Case("registered_parent", lambda: registered(1), FOREIGN),
    Case("one_plus_scale_norm", lambda: registered(2), FOREIGN),
]
