"""Convolutional networks with hand-written roles."""

import itertools

import keras
from keras import layers, ops

from tests.models.role_parts import (
    INTERIOR,
    OTHER,
    RESIDUAL_LAST,
    SHORTCUT,
    TRUNK,
    Case,
    DropPath,
    bn,
    classify,
    conv,
    image,
    relu,
)


def basic(x, name, filters=4, strides=1, norm=bn, act=relu, join=None):
    """A ResNet v1 basic block: conv, norm, act, conv, norm; the sum; act."""
    y = act(norm(conv(x, filters, 3, strides), f"{name}_bn1"))
    y = norm(conv(y, filters), f"{name}_bn2")
    skip = norm(conv(x, filters, 1, strides), f"{name}_bn0") if strides != 1 else x
    return act(layers.Add()([skip, y]) if join is None else join(skip, y))


def stem(x, norm=bn):
    return relu(norm(conv(x), "stem_bn"))


# --- ResNet v1 ---------------------------------------------------------------


def resnet_v1_basic(norm=bn, act=relu):
    x = image()
    y = layers.MaxPooling2D(3, 1, padding="same")(act(norm(conv(x), "stem_bn")))
    y = basic(y, "b1", norm=norm, act=act)
    y = basic(y, "b2", 8, 2, norm=norm, act=act)
    return keras.Model(x, classify(y))


BASIC = {
    "stem_bn": TRUNK,  # the first skip is the identity: the stem's output is what it carries
    "b1_bn1": INTERIOR,
    "b1_bn2": RESIDUAL_LAST,
    "b2_bn1": INTERIOR,
    "b2_bn2": RESIDUAL_LAST,
    "b2_bn0": SHORTCUT,
}


def group(x, name):
    return layers.GroupNormalization(groups=2, name=name)(x)


def layer(x, name):
    return layers.LayerNormalization(axis=(1, 2, 3), name=name)(x)


def rms(x, name):
    return layers.RMSNormalization(name=name)(x)


def leaky(x):
    return layers.LeakyReLU(negative_slope=0.1)(x)


def gelu(x):
    return layers.Activation("gelu")(x)


def silu(x):
    return ops.silu(x)


def projection_stem():
    """ResNet-50's stem: both paths out of it meet a BN next."""
    x = image()
    y = layers.MaxPooling2D(2)(stem(x))
    a = relu(bn(conv(y, 4, 1), "b1_bn1"))
    a = relu(bn(conv(a, 4, 3), "b1_bn2"))
    a = bn(conv(a, 8, 1), "b1_bn3")
    y = relu(layers.Add()([bn(conv(y, 8, 1), "b1_bn0"), a]))
    a = relu(bn(conv(y, 4, 1), "b2_bn1"))
    a = relu(bn(conv(a, 4, 3), "b2_bn2"))
    a = bn(conv(a, 8, 1), "b2_bn3")
    return keras.Model(x, classify(relu(layers.Add()([y, a]))))


def resnet_d():
    """ResNet-D: the projection pools before its 1x1 convolution."""
    x = image()
    y = stem(x)
    skip = bn(conv(layers.AveragePooling2D(2)(y), 8, 1), "b1_bn0")
    a = relu(bn(conv(y, 8, 3, 2), "b1_bn1"))
    a = bn(conv(a, 8), "b1_bn2")
    return keras.Model(x, classify(relu(layers.Add()([skip, a]))))


def option_a():
    """The parameter-free skip: every second pixel, new channels filled with zeros."""
    x = image()
    y = stem(x)
    skip = ops.pad(y[:, ::2, ::2, :], ((0, 0), (0, 0), (0, 0), (2, 2)))
    a = relu(bn(conv(y, 8, 3, 2), "b1_bn1"))
    a = bn(conv(a, 8), "b1_bn2")
    return keras.Model(x, classify(relu(layers.Add()([skip, a]))))


def squeeze_and_excite():
    x = image()
    y = stem(x)
    a = relu(bn(conv(y), "b1_bn1"))
    a = bn(conv(a), "b1_bn2")
    gate = layers.GlobalAveragePooling2D(keepdims=True)(a)
    gate = layers.Dense(4, activation="sigmoid")(layers.Dense(2, activation="relu")(gate))
    y = relu(layers.Add()([y, layers.Multiply()([a, gate])]))
    return keras.Model(x, classify(y))


def fused_activation_on_projection():
    """With its activation fused into it the projection is no linear operation: there is no skip."""
    x = image()
    y = stem(x)
    skip = conv(y, 8, 1, 2, activation="relu")
    a = relu(bn(conv(y, 8, 3, 2), "b1_bn1"))
    a = bn(conv(a, 8), "b1_bn2")
    return keras.Model(x, classify(layers.Add()([skip, a])))


def fused_activation_in_branch():
    """The activation fused into the branch's first convolution tells it from the projection."""
    x = image()
    y = conv(x)
    skip = bn(conv(y, 8, 1, 2), "b1_bn0")
    a = conv(y, 8, 3, 2, activation="relu")
    a = bn(conv(a, 8), "b1_bn2")
    return keras.Model(x, classify(layers.Add()([a, skip])))


def cropped_skip():
    """Convolutions without padding: the skip is cropped to their size, which is linear."""
    x = image()
    y = stem(x)
    a = layers.Conv2D(4, 3, use_bias=False)(y)
    a = layers.Conv2D(4, 3, use_bias=False)(relu(bn(a, "b1_bn1")))
    y = layers.Add()([layers.Cropping2D(2)(y), bn(a, "b1_bn2")])
    return keras.Model(x, classify(y))


def scaled_skip():
    """A constant on both operands, as in the diffusion models' (x + f(x)) / sqrt 2."""
    x = image()
    y = stem(x)
    a = bn(conv(relu(bn(conv(y), "b1_bn1"))), "b1_bn2")
    return keras.Model(x, classify(y * 0.7071 + a * 0.7071))


def linear_projection_without_norm():
    x = image()
    y = stem(x)
    a = relu(bn(conv(y, 8, 3, 2), "b1_bn1"))
    a = bn(conv(a, 8), "b1_bn2")
    return keras.Model(x, classify(layers.Add()([conv(y, 8, 1, 2), a])))


# --- how a sum can be spelled ------------------------------------------------


def spelled(join):
    x = image()
    return keras.Model(x, classify(basic(stem(x), "b1", join=join)))


SPELLED = {"stem_bn": TRUNK, "b1_bn1": INTERIOR, "b1_bn2": RESIDUAL_LAST}
SPELLINGS = {
    "add_layer": lambda a, b: layers.Add()([a, b]),
    "add_layer_swapped": lambda a, b: layers.Add()([b, a]),
    "add_function": lambda a, b: layers.add([a, b]),
    "plus": lambda a, b: a + b,
    "plus_swapped": lambda a, b: b + a,
    "ops_add": ops.add,
    # (a + b) / 2 is the sum of the same two tensors, scaled: still a join
    "average_rescaled": lambda a, b: layers.Rescaling(2.0)(layers.Average()([a, b])),
    "plus_halved": lambda a, b: (a + b) * 0.5,
    "branch_scaled": lambda a, b: a + 0.3 * b,  # Inception-ResNet
    "branch_rescaled": lambda a, b: layers.Add()([a, layers.Rescaling(0.3)(b)]),
    "dropout_on_branch": lambda a, b: layers.Add()([a, layers.Dropout(0.2)(b)]),
    "drop_path_as_dropout": lambda a, b: a + layers.Dropout(0.2, noise_shape=(None, 1, 1, 1))(b),
    "drop_path": lambda a, b: a + DropPath()(b),
    "dropout_on_skip": lambda a, b: layers.Add()([layers.SpatialDropout2D(0.2)(a), b]),
    "identity_on_skip": lambda a, b: layers.Add()([layers.Identity()(a), b]),
    "linear_activation_on_skip": lambda a, b: layers.Add()([layers.Activation("linear")(a), b]),
    "reshape_on_both": lambda a, b: layers.Reshape((8, 8, 4))(
        layers.Add()([layers.Reshape((64, 4))(a), layers.Reshape((64, 4))(b)])
    ),
}


# --- ResNet v2 ---------------------------------------------------------------


def resnet_v2():
    """The first block projects its pre-activation, the second carries the identity."""
    x = image()
    y = conv(x)
    h = relu(bn(y, "b1_bn0"))
    a = relu(bn(conv(h, 8, 3, 2), "b1_bn1"))
    y = layers.Add()([conv(h, 8, 1, 2), conv(a, 8)])
    h = relu(bn(y, "b2_bn0"))
    a = relu(bn(conv(h, 8), "b2_bn1"))
    y = layers.Add()([y, conv(a, 8)])
    return keras.Model(x, classify(relu(bn(y, "post_bn"))))


def resnet_v2_normed_projection():
    """A projection with a norm of its own absorbs the pre-activation's γ."""
    x = image()
    h = relu(bn(conv(x), "b1_bn0"))
    a = relu(bn(conv(h, 8, 3, 2), "b1_bn1"))
    y = layers.Add()([bn(conv(h, 8, 1, 2), "b1_skip"), conv(a, 8)])
    return keras.Model(x, classify(relu(bn(y, "post_bn"))))


def resnet_v2_one_convolution():
    """With one convolution in the branch the pre-activation's γ is the last one."""
    x = image()
    y = conv(x)
    y = y + conv(relu(bn(y, "b1_bn0")))
    y = y + conv(relu(bn(y, "b2_bn0")))
    return keras.Model(x, classify(relu(bn(y, "post_bn"))))


# --- MobileNetV2 -------------------------------------------------------------


def inverted(x, name, filters, strides=1):
    y = layers.ReLU(6.0)(bn(conv(x, 8, 1), f"{name}_expand"))
    y = layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(y)
    y = layers.ReLU(6.0)(bn(y, f"{name}_depthwise"))
    y = bn(conv(y, filters, 1), f"{name}_project")
    return layers.Add()([x, y]) if strides == 1 and x.shape[-1] == filters else y


def mobilenet_v2():
    x = image()
    y = layers.ReLU(6.0)(bn(conv(x), "stem_bn"))
    y = inverted(y, "b0", 6)
    y = inverted(y, "b1", 4, 2)
    y = inverted(y, "b2", 4)
    y = inverted(y, "b3", 6, 2)
    y = layers.ReLU(6.0)(bn(conv(y, 8, 1), "head_bn"))
    return keras.Model(x, classify(y))


MOBILE = {
    "stem_bn": INTERIOR,
    "b0_expand": INTERIOR,
    "b0_depthwise": INTERIOR,
    # No Add of its own, and the next block has none either: b1_expand alone reads and absorbs it.
    # ("Without an Add it is trunk" is the short form of the trap; the definition decides.)
    "b0_project": INTERIOR,
    "b1_expand": INTERIOR,
    "b1_depthwise": INTERIOR,
    "b1_project": TRUNK,  # no Add of its own, and b2's identity skip carries it
    "b2_expand": INTERIOR,
    "b2_depthwise": INTERIOR,
    "b2_project": RESIDUAL_LAST,
    "b3_expand": INTERIOR,
    "b3_depthwise": INTERIOR,
    "b3_project": INTERIOR,  # head_bn absorbs it
    "head_bn": TRUNK,
}


# --- sums that are not residual ----------------------------------------------


def parallel_branches():
    """Inception as a sum: two branches, no skip; what comes before them is absorbed by both."""
    x = image()
    y = stem(x)
    a = relu(bn(conv(y, 4, 3), "bn_a"))
    b = relu(bn(conv(y, 4, 5), "bn_b"))
    y = relu(bn(conv(layers.Add()([a, b])), "tail_bn"))
    return keras.Model(x, classify(y))


def parallel_branches_pass():
    """One norm in front of both branches reaches every operand: the sum passes it on."""
    x = image()
    y = conv(x)
    h = bn(y, "bn_in")
    a, b = relu(conv(h, 4, 3)), relu(conv(h, 4, 5))
    y = layers.Add()([y, conv(layers.Add()([a, b]))])
    return keras.Model(x, classify(y))


def parallel_branches_pass_to_norm():
    """As before, and then a norm absorbs the whole sum."""
    x = image()
    h = stem(x)
    a, b = relu(conv(h, 4, 3)), relu(conv(h, 4, 5))
    y = bn(layers.Add()([a, b]), "tail_bn")
    return keras.Model(x, classify(y))


def repvgg(identity):
    """RepVGG: every operand is linear in the fork.

    "The one operand computed by linear operations only" does not exist if there are two or three;
    with the identity itself among the operands it is the skip, whatever the others are.
    """
    x = image()
    y = relu(conv(x))
    rest = {"norm": [bn(y, "bn_id")] if identity == "norm" else [], "raw": [y]}.get(identity, [])
    y = layers.Add()([bn(conv(y, 4, 3), "bn_3"), bn(conv(y, 4, 1), "bn_1"), *rest])
    y = relu(bn(conv(relu(y)), "tail_bn"))
    return keras.Model(x, classify(y))


def two_towers():
    """Two inputs: no tensor is the source of both operands, the sum has no fork."""
    a, b = image(name="left"), image(name="right")
    y = layers.Add()([relu(bn(conv(a), "left_bn")), relu(bn(conv(b), "right_bn"))])
    return keras.Model([a, b], classify(y))


# --- concatenation -----------------------------------------------------------


def densenet():
    x = image()
    y = stem(x)
    for n in (1, 2):
        a = conv(relu(bn(y, f"d{n}_bn1")), 8, 1)
        a = conv(relu(bn(a, f"d{n}_bn2")), 4)
        y = layers.Concatenate()([y, a])
    return keras.Model(x, classify(relu(bn(y, "final_bn"))))


def inception_resnet():
    """Branches side by side, joined by a concatenation, then added to the stream."""
    x = image()
    y = stem(x)
    a = relu(bn(conv(y, 2, 1), "bn_a"))
    b = relu(bn(conv(relu(bn(conv(y, 2, 1), "bn_b1")), 2), "bn_b2"))
    y = relu(y + 0.2 * conv(layers.Concatenate()([a, b]), 4, 1))
    return keras.Model(x, classify(y))


def unet(join):
    x = image()
    e = relu(bn(conv(x), "enc_bn"))
    d = relu(bn(conv(layers.MaxPooling2D(2)(e), 8), "mid_bn"))
    u = bn(conv(layers.UpSampling2D(2)(d)), "up_bn")
    y = relu(bn(conv(relu(join([e, u]))), "out_bn"))
    return keras.Model(x, layers.Conv2D(3, 1)(y))


def feature_pyramid():
    """FPN: a linear lateral convolution plus the upsampled coarser map.

    The lateral is the one linear operand, so it is the skip, and the encoder's γ in front of the
    fork scales what it carries.
    """
    x = image()
    e = relu(bn(conv(x), "enc_bn"))
    d = relu(bn(conv(e, 8, 3, 2), "mid_bn"))
    top = layers.UpSampling2D(2)(conv(d, 4, 1))
    y = layers.Add()([conv(e, 4, 1), top])
    return keras.Model(x, classify(y))


# --- nesting, sharing, several outputs ---------------------------------------


def nested_residual():
    x = image()
    y = conv(x)
    h = relu(bn(conv(y), "outer_bn1"))
    h = basic(h, "inner")
    y = layers.Add()([y, bn(conv(h), "outer_bn2")])
    return keras.Model(x, classify(y))


def several_outputs():
    x = image()
    y = basic(stem(x), "b1")
    aux = relu(bn(conv(y), "aux_bn"))
    y = basic(y, "b2", 8, 2)
    main = relu(bn(conv(y), "main_bn"))
    return keras.Model(x, {"main": classify(main), "aux": classify(aux), "map": y})


def output_and_stream():
    """The stem's norm is an output by itself and is absorbed elsewhere: it reaches an output."""
    x = image()
    y = bn(conv(x), "stem_bn")
    return keras.Model(x, [y, classify(bn(conv(relu(y)), "tail_bn"))])


def plain_sequential():
    return keras.Sequential(
        [
            image(),
            layers.Conv2D(4, 3, use_bias=False),
            layers.BatchNormalization(name="bn1"),
            layers.ReLU(),
            layers.Conv2D(4, 3, use_bias=False),
            layers.BatchNormalization(name="bn2"),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )


def softmax_output(as_layer):
    """A softmax at the output is no attention: nothing is weighted with it."""
    x = image()
    y = relu(bn(conv(x), "bn1"))
    y = layers.GlobalAveragePooling2D()(relu(bn(conv(y), "final_bn")))
    y = layers.Softmax()(layers.Dense(3)(y)) if as_layer else layers.Dense(3, "softmax")(y)
    return keras.Model(x, y)


def no_scale():
    """A norm without a γ has no role, and absorbs like any other."""
    x = image()
    y = relu(bn(conv(x), "bn1"))
    y = relu(bn(conv(y), "bn2", scale=False))
    y = y + bn(conv(relu(bn(conv(y), "b_bn1"))), "b_bn2")
    return keras.Model(x, classify(y))


def frozen():
    model = resnet_v1_basic()
    model.get_layer("b1_bn2").trainable = False
    model.get_layer("stem_bn").trainable = False
    return model


def unit_norm():
    """A norm without any variable fixes the scale too."""
    x = image()
    y = relu(bn(conv(x), "bn1"))
    y = layers.UnitNormalization(axis=(1, 2, 3))(conv(y))
    return keras.Model(x, classify(y))


CASES = [
    Case("resnet_v1_basic", resnet_v1_basic, BASIC),
    *(
        Case(f"resnet_v1_{norm.__name__}", lambda norm=norm: resnet_v1_basic(norm), BASIC)
        for norm in (group, layer, rms)
    ),
    *(
        Case(f"resnet_v1_{act.__name__}", lambda act=act: resnet_v1_basic(act=act), BASIC)
        for act in (gelu, silu, leaky)
    ),
    Case(
        "projection_stem",
        projection_stem,
        {
            "stem_bn": INTERIOR,
            "b1_bn1": INTERIOR,
            "b1_bn2": INTERIOR,
            "b1_bn3": RESIDUAL_LAST,
            "b1_bn0": SHORTCUT,
            "b2_bn1": INTERIOR,
            "b2_bn2": INTERIOR,
            "b2_bn3": RESIDUAL_LAST,
        },
    ),
    Case(
        "resnet_d",
        resnet_d,
        {"stem_bn": INTERIOR, "b1_bn0": SHORTCUT, "b1_bn1": INTERIOR, "b1_bn2": RESIDUAL_LAST},
    ),
    Case("option_a", option_a, {"stem_bn": TRUNK, "b1_bn1": INTERIOR, "b1_bn2": RESIDUAL_LAST}),
    Case(
        "squeeze_and_excite",
        squeeze_and_excite,
        {"stem_bn": TRUNK, "b1_bn1": INTERIOR, "b1_bn2": RESIDUAL_LAST},
    ),
    Case(
        "fused_activation_on_projection",
        fused_activation_on_projection,
        {"stem_bn": OTHER, "b1_bn1": INTERIOR, "b1_bn2": OTHER},
    ),
    Case(
        "fused_activation_in_branch",
        fused_activation_in_branch,
        {"b1_bn0": SHORTCUT, "b1_bn2": RESIDUAL_LAST},
    ),
    Case(
        "linear_projection_without_norm",
        linear_projection_without_norm,
        {"stem_bn": TRUNK, "b1_bn1": INTERIOR, "b1_bn2": RESIDUAL_LAST},
    ),
    Case("cropped_skip", cropped_skip, SPELLED),
    Case("scaled_skip", scaled_skip, SPELLED),
    *(
        Case(f"join_{name}", lambda join=join: spelled(join), SPELLED)
        for name, join in SPELLINGS.items()
    ),
    Case(
        "resnet_v2",
        resnet_v2,
        {
            "b1_bn0": TRUNK,  # in front of the projected shortcut, which has no norm
            "b1_bn1": RESIDUAL_LAST,
            "b2_bn0": INTERIOR,
            "b2_bn1": RESIDUAL_LAST,
            "post_bn": TRUNK,
        },
    ),
    Case(
        "resnet_v2_normed_projection",
        resnet_v2_normed_projection,
        {"b1_bn0": INTERIOR, "b1_skip": SHORTCUT, "b1_bn1": RESIDUAL_LAST, "post_bn": TRUNK},
    ),
    Case(
        "resnet_v2_one_convolution",
        resnet_v2_one_convolution,
        {"b1_bn0": RESIDUAL_LAST, "b2_bn0": RESIDUAL_LAST, "post_bn": TRUNK},
    ),
    Case("mobilenet_v2", mobilenet_v2, MOBILE),
    Case(
        "parallel_branches",
        parallel_branches,
        {"stem_bn": INTERIOR, "bn_a": OTHER, "bn_b": OTHER, "tail_bn": TRUNK},
    ),
    Case("parallel_branches_pass", parallel_branches_pass, {"bn_in": RESIDUAL_LAST}),
    Case(
        "parallel_branches_pass_to_norm",
        parallel_branches_pass_to_norm,
        {"stem_bn": INTERIOR, "tail_bn": TRUNK},
    ),
    Case(
        "repvgg_three_norms",
        lambda: repvgg("norm"),
        {"bn_3": OTHER, "bn_1": OTHER, "bn_id": OTHER, "tail_bn": TRUNK},
    ),
    Case("repvgg_strided", lambda: repvgg(None), {"bn_3": OTHER, "bn_1": OTHER, "tail_bn": TRUNK}),
    Case(
        "repvgg_raw_identity",
        lambda: repvgg("raw"),
        {"bn_3": RESIDUAL_LAST, "bn_1": RESIDUAL_LAST, "tail_bn": TRUNK},
    ),
    Case("two_towers", two_towers, {"left_bn": OTHER, "right_bn": OTHER}),
    Case(
        "densenet",
        densenet,
        {
            "stem_bn": INTERIOR,
            **{f"d{n}_bn{k}": INTERIOR for n, k in itertools.product((1, 2), (1, 2))},
            "final_bn": TRUNK,
        },
    ),
    Case(
        "inception_resnet",
        inception_resnet,
        {"stem_bn": TRUNK, "bn_a": RESIDUAL_LAST, "bn_b1": INTERIOR, "bn_b2": RESIDUAL_LAST},
    ),
    Case(
        "unet_additive",
        lambda: unet(layers.Add()),
        {"enc_bn": TRUNK, "mid_bn": INTERIOR, "up_bn": RESIDUAL_LAST, "out_bn": TRUNK},
    ),
    Case(
        "unet_concatenating",
        lambda: unet(layers.Concatenate()),
        {"enc_bn": INTERIOR, "mid_bn": INTERIOR, "up_bn": INTERIOR, "out_bn": TRUNK},
    ),
    Case("feature_pyramid", feature_pyramid, {"enc_bn": TRUNK, "mid_bn": RESIDUAL_LAST}),
    Case(
        "nested_residual",
        nested_residual,
        {
            # The inner skip carries it, and its path ends at the inner join.
            "outer_bn1": TRUNK,
            "inner_bn1": INTERIOR,
            "inner_bn2": RESIDUAL_LAST,
            "outer_bn2": RESIDUAL_LAST,
        },
    ),
    Case(
        "several_outputs",
        several_outputs,
        {
            "stem_bn": TRUNK,
            "b1_bn1": INTERIOR,
            "b1_bn2": RESIDUAL_LAST,
            "b2_bn1": INTERIOR,
            "b2_bn2": RESIDUAL_LAST,
            "b2_bn0": SHORTCUT,
            "aux_bn": TRUNK,
            "main_bn": TRUNK,
        },
    ),
    Case("output_and_stream", output_and_stream, {"stem_bn": TRUNK, "tail_bn": TRUNK}),
    Case("plain_sequential", plain_sequential, {"bn1": INTERIOR, "bn2": TRUNK}),
    Case("softmax_layer", lambda: softmax_output(True), {"bn1": INTERIOR, "final_bn": TRUNK}),
    Case("softmax_fused", lambda: softmax_output(False), {"bn1": INTERIOR, "final_bn": TRUNK}),
    Case("no_scale", no_scale, {"bn1": INTERIOR, "b_bn1": INTERIOR, "b_bn2": RESIDUAL_LAST}),
    Case("frozen", frozen, BASIC),
    Case("unit_norm", unit_norm, {"bn1": INTERIOR}),
]
