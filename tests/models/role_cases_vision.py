"""More designs for images, each the size of a toy, with roles written by hand beforehand."""

import keras
from keras import layers, ops

from tests.models.role_cases_inner import depthwise, gelu, stem
from tests.models.role_parts import (
    INTERIOR,
    OTHER,
    RESIDUAL_LAST,
    SHORTCUT,
    TRUNK,
    Case,
    bn,
    classify,
    conv,
    image,
    ln,
    mlp,
    register,
    relu,
    self_attention,
)


def gn(x, name, **kwargs):
    return layers.GroupNormalization(2, name=name, **kwargs)(x)


def silu(x):
    return layers.Activation("silu")(x)


def up(x):
    return layers.UpSampling2D(2)(x)


def pool(x):
    return layers.MaxPooling2D(2)(x)


def unit(x, name, filters=4, strides=1, act=relu):
    """Convolution, norm, activation."""
    return act(bn(conv(x, filters, 3, strides), name))


# --- pyramids and U-shapes ---------------------------------------------------


@register
class WeightedSum(layers.Layer):
    """Fast normalized fusion: weights are positive, and sum to one."""

    def build(self, shapes):
        self.weights_ = self.add_weight(name="w", shape=(len(shapes),), initializer="ones")

    def call(self, tensors):
        weights = ops.relu(self.weights_)
        weights = weights / (ops.sum(weights) + 1e-4)
        return sum(weights[i] * tensor for i, tensor in enumerate(tensors))


def bidirectional_pyramid():
    """Two levels, down and up again; a head with shared convolutions and a norm for each level."""
    x = image()
    p3 = bn(conv(x), "p3_bn")
    p4 = bn(conv(silu(p3), strides=2), "p4_bn")
    td3 = WeightedSum()([p3, up(p4)])
    n3 = bn(conv(silu(td3)), "td3_bn")
    out4 = WeightedSum()([p4, pool(n3)])
    n4 = bn(conv(silu(out4)), "out4_bn")
    shared = layers.Conv2D(4, 3, padding="same")
    last = layers.Conv2D(2, 3, padding="same")
    outputs = [last(silu(bn(shared(n), f"head{i}_bn"))) for i, n in ((3, n3), (4, n4))]
    return keras.Model(x, outputs)


def full_scale_skips():
    """U-Net 3+: every decoder stage concatenates all scales, each behind a convolution and norm."""
    x = image()
    e1 = unit(x, "e1_bn")
    e2 = unit(pool(e1), "e2_bn")
    e3 = unit(pool(e2), "e3_bn")
    d2 = [unit(pool(e1), "d2a_bn"), unit(e2, "d2b_bn"), unit(up(e3), "d2c_bn")]
    d2 = unit(layers.Concatenate()(d2), "d2_bn")
    d1 = [unit(e1, "d1a_bn"), unit(up(d2), "d1b_bn"), unit(up(up(e3)), "d1c_bn")]
    d1 = unit(layers.Concatenate()(d1), "d1_bn")
    return keras.Model(x, conv(d1, 2, 1))


def attention_gate():
    """Attention U-Net: which part of the skip is let through is seen by a sum of both."""
    x = image()
    e1 = unit(x, "e1_bn")
    g = up(unit(pool(e1), "e2_bn"))
    seen = relu(bn(conv(g, 2, 1), "g_bn") + bn(conv(e1, 2, 1), "x_bn"))
    psi = layers.Activation("sigmoid")(bn(conv(seen, 1, 1), "psi_bn"))
    d1 = unit(layers.Concatenate()([e1 * psi, g]), "d1_bn")
    return keras.Model(x, conv(d1, 2, 1))


def v2_block(x, name):
    y = conv(relu(bn(x, f"{name}_bn1")))
    return x + conv(relu(bn(y, f"{name}_bn2")))


def hourglass():
    """Both ways out of the stem are residual blocks; the lower one is smaller."""
    x = image()
    h = stem(x)
    low = up(v2_block(pool(h), "low"))
    h = layers.Add()([v2_block(h, "high"), low])
    return keras.Model(x, conv(unit(h, "head_bn"), 2, 1))


def deep_aggregation():
    """DLA: a root over the outputs of two residual blocks, with a skip from the second."""
    x = image()
    h = stem(x)
    found = []
    for name in ("b1", "b2"):
        y = bn(conv(unit(h, f"{name}_bn1")), f"{name}_bn2")
        h = relu(h + y)
        found.append(h)
    root = bn(conv(layers.Concatenate()(found[::-1]), kernel=1), "root_bn")
    return keras.Model(x, classify(relu(root + h)))


def cross_stage_list():
    """YOLO's C2f: a split, bottlenecks whose outputs are all collected; then pooled pyramids."""
    x = image()
    h = unit(x, "in_bn", act=silu)
    parts = list(ops.split(h, 2, axis=-1))
    for name in ("m1", "m2"):
        y = unit(unit(parts[-1], f"{name}_bn1", 2, act=silu), f"{name}_bn2", 2, act=silu)
        parts.append(parts[-1] + y)
    h = unit(layers.Concatenate()(parts), "out_bn", act=silu)
    pools = [unit(h, "sppf_bn1", 2, act=silu)]
    for _ in range(3):
        pools.append(layers.MaxPooling2D(3, 1, padding="same")(pools[-1]))
    return keras.Model(x, conv(unit(layers.Concatenate()(pools), "sppf_bn2", act=silu), 2, 1))


# --- blocks ------------------------------------------------------------------


def universal_inverted_bottleneck():
    x = image()
    h = stem(x)
    y = bn(depthwise(h), "start_bn")
    y = unit(y, "expand_bn", 8)
    y = relu(bn(depthwise(y), "middle_bn"))
    y = bn(conv(y, kernel=1), "project_bn")
    return keras.Model(x, classify(h + y))


def max_vit():
    """A pre-activated inverted bottleneck, then attention in windows and on a grid."""
    x = image()
    h = gelu(bn(conv(x), "stem_bn"))
    y = gelu(bn(conv(bn(h, "pre_bn"), 8, 1), "expand_bn"))
    y = gelu(bn(depthwise(y), "dw_bn"))
    gate = layers.Dense(8, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(y))
    h = h + conv(y * gate, kernel=1)
    for name, order in (("window", (0, 1, 3, 2, 4, 5)), ("grid", (0, 2, 4, 1, 3, 5))):
        y = ln(h, f"{name}_ln1")
        y = ops.transpose(ops.reshape(y, (-1, 2, 4, 2, 4, 4)), order)
        shape = y.shape[1:]
        y = self_attention(ops.reshape(y, (-1, shape[-3] * shape[-2], 4)))
        y = ops.transpose(ops.reshape(y, (-1, *shape)), [order.index(i) for i in range(6)])
        h = h + ops.reshape(y, (-1, 8, 8, 4))
        h = h + mlp(ln(h, f"{name}_ln2"), "gelu")
    return keras.Model(x, classify(ln(h, "final_ln")))


def conv_then_attend():
    """CoAtNet: where the map shrinks, the skip is pooled and projected without a norm."""
    x = image()
    h = gelu(bn(conv(x), "stem_bn"))
    y = gelu(bn(conv(gelu(bn(h, "pre_bn")), 8, 1, 2), "expand_bn"))
    y = gelu(bn(depthwise(y), "dw_bn"))
    h = conv(pool(h), 6, 1) + conv(y, 6, 1)
    small = ops.reshape(pool(h), (-1, 4, 6))
    y = self_attention(ops.reshape(pool(ln(h, "ln1")), (-1, 4, 6)))
    h = layers.Dense(8)(small) + layers.Dense(8)(y)
    h = h + mlp(ln(h, "ln2"), "gelu")
    return keras.Model(x, layers.Dense(3)(ln(h, "final_ln")))


def residual_dense():
    """ESRGAN's block with norms: everything before is concatenated, the last part is scaled."""
    x = image()
    h = stem(x)
    a = unit(h, "a_bn")
    b = unit(layers.Concatenate()([h, a]), "b_bn")
    y = conv(layers.Concatenate()([h, a, b]))
    return keras.Model(x, classify(h + 0.2 * y))


def residual_attention():
    """A soft mask beside a trunk of its own: `(1 + mask) · t`."""
    x = image()
    h = stem(x)
    t = h + bn(conv(unit(h, "t_bn1")), "t_bn2")
    m = up(unit(pool(h), "m_bn"))
    mask = layers.Activation("sigmoid")(bn(conv(m, kernel=1), "mask_bn"))
    return keras.Model(x, classify(layers.Add()([t, t * mask])))


def switched_norms():
    """Three norms of one tensor, mixed."""
    x = image()
    h = conv(x)
    y = 0.5 * bn(h, "bn") + 0.3 * ln(h, "ln") + 0.2 * gn(h, "gn")
    return keras.Model(x, classify(relu(bn(conv(relu(y)), "next_bn"))))


def maxout():
    x = image()
    y = layers.Maximum()([bn(conv(x), "a_bn"), bn(conv(x), "b_bn")])
    return keras.Model(x, classify(unit(y, "next_bn")))


@register
class StandardizedConv(layers.Conv2D):
    """Its kernel is standardized whenever it is used."""

    def call(self, x):
        kernel = ops.convert_to_tensor(self.kernel)  # JAX takes no variable here.
        mean, variance = ops.moments(kernel, axes=[0, 1, 2], keepdims=True)
        kernel = (kernel - mean) * ops.rsqrt(variance + 1e-5)
        return ops.conv(x, kernel, strides=list(self.strides), padding=self.padding)


def standardized_weights():
    x = image()
    h = relu(gn(StandardizedConv(4, 3, padding="same")(x), "stem_gn"))
    y = relu(gn(StandardizedConv(4, 3, padding="same")(h), "gn1"))
    y = gn(StandardizedConv(4, 3, padding="same")(y), "gn2")
    return keras.Model(x, classify(relu(h + y)))


def channels_first():
    """The channels come first, to the norm as well."""
    x = keras.Input((8, 6))

    def mix(t, name):
        t = layers.Conv1D(8, 3, padding="same")(layers.Permute((2, 1))(t))
        return layers.BatchNormalization(axis=1, name=name)(layers.Permute((2, 1))(t))

    h = relu(mix(x, "stem_bn"))
    h = relu(h + mix(relu(mix(h, "bn1")), "bn2"))
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(h)))


@register
class ChannelAffine(layers.Layer):
    """γ and β for a norm that has none."""

    def build(self, shape):
        self.gain = self.add_weight(name="gain", shape=(shape[-1],), initializer="ones")
        self.shift = self.add_weight(name="shift", shape=(shape[-1],), initializer="zeros")

    def call(self, x):
        return x * self.gain + self.shift


def affine_of_its_own():
    x = image()
    h = stem(x)
    y = layers.BatchNormalization(scale=False, center=False)(conv(h))
    return keras.Model(x, classify(h + ChannelAffine(name="affine")(y)))


# --- generators and discriminators -------------------------------------------


@register
class Reflect(layers.Layer):
    def call(self, x):
        return ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")


def instance(x, name):
    return layers.GroupNormalization(-1, name=name)(x)


def cycle_gan():
    x = image(8, 3)
    h = relu(instance(layers.Conv2D(4, 3)(Reflect()(x)), "in_gn"))
    h = relu(instance(conv(h, 4, 3, 2), "down_gn"))
    for name in ("a", "b"):
        y = relu(instance(layers.Conv2D(4, 3)(Reflect()(h)), f"{name}_gn1"))
        y = instance(layers.Conv2D(4, 3)(Reflect()(y)), f"{name}_gn2")
        h = layers.add([h, y])
    h = layers.Conv2DTranspose(4, 3, strides=2, padding="same")(h)
    h = relu(instance(h, "up_gn"))
    return keras.Model(x, layers.Conv2D(3, 3, activation="tanh")(Reflect()(h)))


def spectral(filters, kernel=3, **kwargs):
    return layers.SpectralNormalization(layers.Conv2D(filters, kernel, padding="same", **kwargs))


def discriminator():
    """A residual block with spectral norms, pooled on both ways."""
    x = image()
    h = spectral(4)(x)
    y = spectral(6)(relu(ln(spectral(4)(h), "ln")))
    h = layers.AveragePooling2D(2)(y) + layers.AveragePooling2D(2)(spectral(6, 1)(h))
    return keras.Model(x, classify(relu(h)))


def spatially_adaptive():
    """SPADE: a map of classes, through a norm of its own, scales and shifts a norm without γ."""
    x, segments = image(), image(channels=3, name="segments")

    def spade(t, name):
        s = relu(bn(conv(segments), f"{name}_bn"))
        t = layers.BatchNormalization(scale=False, center=False)(t)
        return t * (1.0 + conv(s)) + conv(s)

    y = conv(relu(spade(x, "s1")))
    y = conv(relu(spade(y, "s2")))
    return keras.Model([x, segments], conv(x + y, 3))


def styled():
    """Styles scale and shift instance norms without γ, up to the image."""
    z = keras.Input((8,))
    w = ln(layers.Dense(8, activation="relu")(z), "w_ln")
    h = layers.Reshape((4, 4, 4))(layers.Dense(64)(z))
    for _ in range(2):
        h = layers.GroupNormalization(-1, scale=False, center=False)(conv(h))
        scale, shift = (layers.Dense(4)(w)[:, None, None, :] for _ in range(2))
        h = h * (scale + 1.0) + shift
    return keras.Model(z, conv(h, 3, 1))


def mask_head():
    """Masks are products of queries and pixels; classes are read off the queries."""
    x = image()
    pixels = relu(gn(conv(x), "pixel_gn"))
    queries = ops.reshape(layers.AveragePooling2D(4)(conv(pixels, 8)), (-1, 4, 8))
    queries = queries + self_attention(ln(queries, "ln1"))
    queries = ln(queries, "query_ln")
    masks = ops.einsum("bqc,bhwc->bqhw", layers.Dense(4)(queries), pixels)
    return keras.Model(x, [masks, layers.Dense(3)(queries)])


CASES = [
    Case(
        "bidirectional_pyramid",
        bidirectional_pyramid,
        {
            "p3_bn": TRUNK,
            "p4_bn": TRUNK,
            "td3_bn": RESIDUAL_LAST,
            "out4_bn": INTERIOR,
            "head3_bn": TRUNK,
            "head4_bn": TRUNK,
        },
    ),
    Case(
        "full_scale_skips",
        full_scale_skips,
        {
            **dict.fromkeys(
                (
                    "e1_bn",
                    "e2_bn",
                    "e3_bn",
                    "d2a_bn",
                    "d2b_bn",
                    "d2c_bn",
                    "d2_bn",
                    "d1a_bn",
                    "d1b_bn",
                    "d1c_bn",
                ),
                INTERIOR,
            ),
            "d1_bn": TRUNK,
        },
    ),
    # The sum that is looked at has a skip, linear in the encoder's map.
    Case(
        "attention_gate",
        attention_gate,
        {
            "e1_bn": INTERIOR,
            "e2_bn": INTERIOR,
            "g_bn": RESIDUAL_LAST,
            "x_bn": SHORTCUT,
            "psi_bn": OTHER,
            "d1_bn": TRUNK,
        },
    ),
    Case(
        "hourglass",
        hourglass,
        {
            "stem_bn": TRUNK,
            "low_bn1": INTERIOR,
            "low_bn2": RESIDUAL_LAST,
            "high_bn1": INTERIOR,
            "high_bn2": RESIDUAL_LAST,
            "head_bn": TRUNK,
        },
    ),
    Case(
        "deep_aggregation",
        deep_aggregation,
        {
            "stem_bn": TRUNK,
            "b1_bn1": INTERIOR,
            "b1_bn2": RESIDUAL_LAST,
            "b2_bn1": INTERIOR,
            "b2_bn2": RESIDUAL_LAST,
            "root_bn": RESIDUAL_LAST,
        },
    ),
    Case(
        "cross_stage_list",
        cross_stage_list,
        {
            "in_bn": TRUNK,
            "m1_bn1": INTERIOR,
            "m1_bn2": RESIDUAL_LAST,
            "m2_bn1": INTERIOR,
            "m2_bn2": RESIDUAL_LAST,
            "out_bn": INTERIOR,
            "sppf_bn1": INTERIOR,
            "sppf_bn2": TRUNK,
        },
    ),
    Case(
        "universal_inverted_bottleneck",
        universal_inverted_bottleneck,
        {
            "stem_bn": TRUNK,
            "start_bn": INTERIOR,
            "expand_bn": INTERIOR,
            "middle_bn": INTERIOR,
            "project_bn": RESIDUAL_LAST,
        },
    ),
    Case(
        "max_vit",
        max_vit,
        {
            "stem_bn": TRUNK,
            "pre_bn": INTERIOR,
            "expand_bn": INTERIOR,
            "dw_bn": RESIDUAL_LAST,
            **{f"{n}_ln{i}": RESIDUAL_LAST for n in ("window", "grid") for i in (1, 2)},
            "final_ln": TRUNK,
        },
    ),
    Case(
        "conv_then_attend",
        conv_then_attend,
        {
            "stem_bn": TRUNK,
            "pre_bn": INTERIOR,
            "expand_bn": INTERIOR,
            "dw_bn": RESIDUAL_LAST,
            "ln1": RESIDUAL_LAST,
            "ln2": RESIDUAL_LAST,
            "final_ln": TRUNK,
        },
    ),
    Case(
        "residual_dense",
        residual_dense,
        {"stem_bn": TRUNK, "a_bn": RESIDUAL_LAST, "b_bn": RESIDUAL_LAST},
    ),
    Case(
        "residual_attention",
        residual_attention,
        {
            "stem_bn": TRUNK,
            "t_bn1": INTERIOR,
            "t_bn2": RESIDUAL_LAST,
            "m_bn": INTERIOR,
            "mask_bn": OTHER,
        },
    ),
    Case(
        "switched_norms",
        switched_norms,
        {**dict.fromkeys(("bn", "ln", "gn"), OTHER), "next_bn": TRUNK},
    ),
    Case("maxout", maxout, {"a_bn": INTERIOR, "b_bn": INTERIOR, "next_bn": TRUNK}),
    Case(
        "standardized_weights",
        standardized_weights,
        {"stem_gn": TRUNK, "gn1": INTERIOR, "gn2": RESIDUAL_LAST},
    ),
    Case(
        "channels_first",
        channels_first,
        {"stem_bn": TRUNK, "bn1": INTERIOR, "bn2": RESIDUAL_LAST},
    ),
    Case("affine_of_its_own", affine_of_its_own, {"stem_bn": TRUNK, "affine": RESIDUAL_LAST}),
    Case(
        "cycle_gan",
        cycle_gan,
        {
            "in_gn": INTERIOR,
            "down_gn": TRUNK,
            "a_gn1": INTERIOR,
            "a_gn2": RESIDUAL_LAST,
            "b_gn1": INTERIOR,
            "b_gn2": RESIDUAL_LAST,
            "up_gn": TRUNK,
        },
    ),
    Case("discriminator", discriminator, {"ln": RESIDUAL_LAST}),
    # Scale and shift follow the map together; what they make goes to the next norm, or the branch.
    Case("spatially_adaptive", spatially_adaptive, {"s1_bn": INTERIOR, "s2_bn": TRUNK}),
    Case("styled", styled, {"w_ln": TRUNK}),
    Case("mask_head", mask_head, {"pixel_gn": TRUNK, "ln1": RESIDUAL_LAST, "query_ln": TRUNK}),
]
