"""Blocks of well-known families, each the size of a toy, with hand-written roles."""

import keras
from keras import layers, ops

from tests.models.role_cases_inner import gelu, stem
from tests.models.role_parts import (
    INTERIOR,
    OTHER,
    RESIDUAL_LAST,
    SHORTCUT,
    TRUNK,
    Case,
    LayerScale,
    bn,
    classify,
    conv,
    image,
    ln,
    mlp,
    register,
    relu,
    self_attention,
    tokens,
)


def dense(x, units=8, **kwargs):
    return layers.Dense(units, use_bias=False, **kwargs)(x)


def headed(x, y):
    """A last norm and a projection of each token."""
    return keras.Model(x, dense(ln(y, "final_ln"), 3))


# --- convolutional -----------------------------------------------------------


def wave_net():
    """Gated convolutions; what the blocks read off is summed beside the stream."""
    x = tokens(12, 8)
    h, read = x, []
    for name in ("bn1", "bn2", "bn3"):
        n = bn(h, name)
        t = layers.Conv1D(8, 2, padding="causal", activation="tanh")(n)
        t = t * layers.Conv1D(8, 2, padding="causal", activation="sigmoid")(n)
        read.append(layers.Conv1D(8, 1)(t))
        h = h + layers.Conv1D(8, 1)(t)
    return keras.Model(x, dense(relu(layers.Add()(read)), 3))


def ghost_block():
    """Half of the channels are made of the other half by a cheap convolution."""
    x = image()
    h = stem(x)
    a = relu(bn(conv(h, 2, 1), "a_bn"))
    b = relu(bn(layers.DepthwiseConv2D(3, padding="same")(a), "b_bn"))
    y = bn(conv(layers.Concatenate()([a, b]), kernel=1), "last_bn")
    return keras.Model(x, classify(h + y))


def mobile_vit():
    """Convolutions around a transformer, whose result is put beside the input of both."""
    x = image()
    h = stem(x)
    t = layers.Reshape((64, 8))(dense(layers.Activation("silu")(bn(conv(h), "local_bn")), 8))
    t = t + self_attention(ln(t, "ln1"))
    t = ln(t + mlp(ln(t, "ln2")), "ln_out")
    y = relu(bn(conv(layers.Reshape((8, 8, 8))(t), kernel=1), "back_bn"))
    return keras.Model(x, classify(relu(bn(conv(layers.Concatenate()([h, y])), "fused_bn"))))


def rsu():
    """U²-Net: a small U-net whose result is added to what it starts from."""
    x = image()
    start = stem(x)
    a = relu(bn(conv(start), "a_bn"))
    b = relu(bn(conv(layers.MaxPooling2D()(a)), "b_bn"))
    d = layers.Concatenate()([layers.UpSampling2D()(b), a])
    return keras.Model(x, classify(relu(bn(conv(d), "d_bn")) + start))


def pyramid_net():
    """The skip is filled up with zeros; a norm ends the branch."""
    x = image()
    h = stem(x)
    y = bn(conv(relu(bn(conv(bn(h, "bn1"), 6), "bn2")), 6), "bn3")
    skip = ops.pad(h, [(0, 0), (0, 0), (0, 0), (0, 2)])
    return keras.Model(x, classify(bn(skip + y, "post_bn")))


def fractal():
    """The mean of a shallow path and a deep one."""
    x = image()
    h = relu(conv(x))
    deep = bn(conv(relu(bn(conv(h), "bn2"))), "bn3")
    return keras.Model(x, classify(layers.Average()([bn(conv(h), "bn1"), deep])))


def reversible():
    """Two halves of the channels change in turns."""
    x = image()
    h = bn(conv(x), "stem_bn")
    a, b = ops.split(h, 2, axis=-1)
    for i in (1, 2):
        a = a + conv(relu(bn(b, f"f{i}_bn")), 2)
        b = b + conv(relu(bn(a, f"g{i}_bn")), 2)
    return keras.Model(x, classify(layers.Concatenate()([a, b])))


def shake_shake():
    """A skip and two branches, each with half of the weight."""
    x = image()
    h = stem(x)
    a, b = (bn(conv(relu(bn(conv(h), f"{n}1_bn"))), f"{n}2_bn") for n in "ab")
    return keras.Model(x, classify(h + (0.5 * a + 0.5 * b)))


def coordinate_attention():
    """Rows and columns are pooled, normed together, and gate the block."""
    x = image()
    h = stem(x)
    y = bn(conv(h), "y_bn")
    rows = ops.mean(y, axis=2, keepdims=True)
    columns = ops.transpose(ops.mean(y, axis=1, keepdims=True), (0, 2, 1, 3))
    g = layers.Activation("hard_silu")(
        bn(conv(ops.concatenate([rows, columns], axis=1), kernel=1), "gate_bn")
    )
    gr = ops.sigmoid(conv(g[:, :8], kernel=1))
    gc = ops.sigmoid(conv(ops.transpose(g[:, 8:], (0, 2, 1, 3)), kernel=1))
    return keras.Model(x, classify(h + bn(conv(y * gr * gc, kernel=1), "last_bn")))


def non_local():
    """Attention over places, behind which a norm of its own."""
    x = image()
    h = relu(bn(conv(x), "stem_bn"))
    q, k, v = (ops.reshape(conv(h, 2, 1), (-1, 64, 2)) for _ in range(3))
    y = ops.softmax(q @ ops.transpose(k, (0, 2, 1))) @ v
    y = bn(conv(ops.reshape(y, (-1, 8, 8, 2)), 4, 1), "last_bn")
    return keras.Model(x, classify(h + y))


def levit():
    """Norms in place of the projections' biases, on queries, keys and values."""
    x = tokens()
    q, k, v = (layers.BatchNormalization(name=f"{n}_bn")(dense(x)) for n in "qkv")
    y = ops.softmax(q @ ops.transpose(k, (0, 2, 1))) @ v
    y = bn(dense(layers.Activation("hard_silu")(y)), "last_bn")
    return keras.Model(x, dense(x + y, 3))


# --- transformers ------------------------------------------------------------


def relu_linear_attention():
    """EfficientViT: q (kᵀ v) / q (kᵀ 1). Of q and k the quotient keeps no scale, but of v."""
    x = tokens()
    n = ln(x, "ln")
    q, k, v = relu(dense(n)), relu(dense(n)), dense(n)
    above = q @ (ops.transpose(k, (0, 2, 1)) @ v)
    below = q @ ops.expand_dims(ops.sum(k, axis=1), -1)
    return headed(x, x + dense(above / (below + 1e-6)))


def softmax_linear_attention():
    x = tokens()
    n = ln(x, "ln")
    q, k = ops.softmax(dense(n), -1), ops.softmax(dense(n), 1)
    return headed(x, x + dense(q @ (ops.transpose(k, (0, 2, 1)) @ dense(n))))


def spatial_reduction():
    """PVT: keys and values are read off a smaller map, behind a norm."""
    x = tokens(8, 8)
    n = ln(x, "ln")
    small = ln(layers.Conv1D(8, 2, strides=2)(n), "reduced_ln")
    return headed(x, x + self_attention(n, small))


@register
class ClassToken(layers.Layer):
    """A learned token for each example."""

    def build(self, shape):
        self.token = self.add_weight(name="token", shape=(1, 1, shape[-1]))

    def call(self, x):
        return ops.repeat(self.token, ops.shape(x)[0], axis=0)


def class_attention():
    """CaiT: only the class token goes on; it reads itself and the patches."""
    x = tokens()
    c = ClassToken()(x)
    for i in (1, 2):
        n = ln(ops.concatenate([c, x], axis=1), f"ln{i}")
        c = c + LayerScale(name=f"scale{i}")(self_attention(n[:, :1], n))
    return keras.Model(x, dense(ln(c, "final_ln"), 3))


def cross_covariance():
    """XCiT: attention between channels, and a convolution with a norm within."""
    x = tokens()
    n = ln(x, "ln1")
    q, k, v = dense(n), dense(n), dense(n)
    q, k = (t / ops.sqrt(ops.sum(t * t, 1, keepdims=True) + 1e-12) for t in (q, k))
    y = x + dense(v @ ops.softmax(ops.transpose(k, (0, 2, 1)) @ q))
    h = bn(gelu(layers.Conv1D(8, 3, padding="same")(ln(y, "ln2"))), "bn")
    return headed(x, y + LayerScale(name="scale")(layers.Conv1D(8, 3, padding="same")(h)))


def adapters(norm):
    """A bottleneck with a skip of its own, behind the attention."""
    x = tokens()
    a = self_attention(ln(x, "ln"))
    inside = ln(a, "adapter_ln") if norm else a
    return headed(x, x + (a + dense(dense(inside, 2, activation="relu"))))


def adapter_behind_a_norm():
    """The adapter's stream starts at a norm, and its branch takes the scale out."""
    x = tokens()
    a = ln(self_attention(x), "ln")
    return headed(x, x + (a + dense(dense(ln(a, "adapter_ln"), 2, activation="relu"))))


def low_rank_update():
    """LoRA: a projection and its low-rank change are one projection."""
    x = tokens()
    n = ln(x, "ln")
    return headed(x, x + dense(relu(dense(n) + dense(dense(n, 2)))))


def token_shift():
    """RWKV: a mean of each token and the one before, then squared ReLU."""
    x = tokens()
    n = ln(x, "ln")
    before = ops.pad(n, [(0, 0), (1, 0), (0, 0)])[:, :-1]
    s = n + LayerScale(name="mu")(before - n)
    return headed(x, x + dense(ops.square(relu(dense(s)))))


def bypass():
    """Zipformer: between what comes in and what goes out, by a learned factor."""
    x = tokens()
    y = x + mlp(ln(x, "ln"))
    return headed(x, x + LayerScale(name="bypass")(y - x))


def retention():
    """A norm on what is read, and a gate of the same input."""
    x = tokens()
    n = ln(x, "ln")
    q, k, v = dense(n), dense(n), dense(n)
    y = layers.GroupNormalization(2, name="gn")((q @ ops.transpose(k, (0, 2, 1))) @ v)
    return headed(x, x + dense(ops.silu(dense(n)) * y))


def gated_then_normed():
    """Mamba 2: the gate comes before the norm."""
    x = tokens()
    n = ln(x, "ln")
    y = layers.Conv1D(8, 2, padding="causal", activation="silu")(dense(n))
    y = ln(y * ops.silu(dense(n)), "gated_ln")
    return headed(x, x + dense(y))


def experts():
    """The two likelier of three MLPs, weighed by a softmax."""
    x = tokens()
    n = ln(x, "ln")
    weights, chosen = ops.top_k(ops.softmax(dense(n, 3)), 2)
    gates = ops.sum(ops.one_hot(chosen, 3) * weights[..., None], axis=-2)
    y = x
    for i in range(3):
        y = y + mlp(n) * gates[..., i : i + 1]
    return headed(x, y)


def speech():
    """wav2vec 2: convolutions, positions by a convolution, post-norm blocks."""
    x = keras.Input((64, 1))
    h = gelu(layers.GroupNormalization(4, name="gn")(layers.Conv1D(8, 4, strides=4)(x)))
    h = dense(ln(gelu(layers.Conv1D(8, 2, strides=2)(h)), "features_ln"))
    h = ln(h + gelu(layers.Conv1D(8, 3, padding="same")(h)), "ln0")
    h = ln(h + self_attention(h), "ln1")
    return keras.Model(x, dense(ln(h + mlp(h), "ln2"), 3))


def attention_pooling():
    """The scores and what they weigh are of one norm."""
    x = tokens()
    n = ln(x + mlp(x), "ln")
    return keras.Model(x, dense(ops.sum(n * ops.softmax(dense(n, 1), axis=1), axis=1), 3))


# --- tables, graphs, points --------------------------------------------------


def gated_residual_network():
    """TFT: a gate on the branch, a norm behind the sum."""
    x = y = tokens()
    for name in ("ln1", "ln2"):
        h = dense(y, 8, activation="elu")
        y = ln(y + dense(h) * dense(h, 8, activation="sigmoid"), name)
    return keras.Model(x, dense(y, 3))


def tab_net():
    """Gated linear units; sums are scaled to keep their variance."""
    x = keras.Input((6,))

    def unit(t, name):
        a, b = ops.split(bn(dense(t, 16), name), 2, axis=-1)
        return a * ops.sigmoid(b)

    h = unit(bn(x, "in_bn"), "bn1")
    h = (h + unit(h, "bn2")) * 0.7
    return keras.Model(x, dense(h, 3))


def cross_network():
    """Deep & cross: the first stream multiplies each layer."""
    x = keras.Input((6,))
    first = y = bn(x, "bn")
    for _ in range(2):
        y = first * layers.Dense(6)(y) + y
    return keras.Model(x, dense(y, 3))


def graph_convolution():
    """Neighbours come in by a matrix of the inputs."""
    x, edges = tokens(6, 8), keras.Input((6, 6))
    h = relu(bn(dense(x), "in_bn"))
    for i in (1, 2):
        h = h + relu(bn(edges @ dense(h), f"bn{i}"))
    return keras.Model([x, edges], dense(ops.mean(h, axis=1), 3))


def edge_convolution():
    """Differences to other points: nothing that a norm scales gets out of step."""
    x = tokens(5, 4)

    def edges(t):
        others = ops.expand_dims(t, 1)
        ones = ops.expand_dims(t, 2)
        return ops.concatenate([others - ones, ops.repeat(ones, 5, axis=2)], axis=-1)

    h = ops.max(relu(bn(dense(edges(x), 4), "bn1")), axis=2)
    h = ops.max(relu(bn(dense(edges(h), 4), "bn2")), axis=2)
    return keras.Model(x, dense(h, 3))


def transform_net():
    """PointNet: the points are multiplied by a matrix that is computed from them."""
    x = tokens(6, 4)
    h = ops.max(relu(bn(dense(x), "t_bn")), axis=1)
    y = x @ ops.reshape(dense(h, 16), (-1, 4, 4))
    return keras.Model(x, dense(ops.max(relu(bn(dense(y), "bn")), axis=1), 3))


CASES = [
    Case(
        "wave_net",
        wave_net,
        # The sum of what is read off forks behind bn1, whose part carries that on.
        {"bn1": TRUNK, "bn2": RESIDUAL_LAST, "bn3": RESIDUAL_LAST},
    ),
    Case(
        "ghost_block",
        ghost_block,
        {"stem_bn": TRUNK, "a_bn": INTERIOR, "b_bn": INTERIOR, "last_bn": RESIDUAL_LAST},
    ),
    Case(
        "mobile_vit",
        mobile_vit,
        {
            "stem_bn": INTERIOR,
            "local_bn": TRUNK,
            "ln1": RESIDUAL_LAST,
            "ln2": RESIDUAL_LAST,
            "ln_out": INTERIOR,
            "back_bn": INTERIOR,
            "fused_bn": TRUNK,
        },
    ),
    Case("rsu", rsu, {"stem_bn": TRUNK, "a_bn": INTERIOR, "b_bn": INTERIOR, "d_bn": RESIDUAL_LAST}),
    Case(
        "pyramid_net",
        pyramid_net,
        {
            "stem_bn": TRUNK,
            "bn1": INTERIOR,
            "bn2": INTERIOR,
            "bn3": RESIDUAL_LAST,
            "post_bn": TRUNK,
        },
    ),
    Case("fractal", fractal, {"bn1": SHORTCUT, "bn2": INTERIOR, "bn3": RESIDUAL_LAST}),
    Case(
        "reversible",
        reversible,
        {
            "stem_bn": TRUNK,
            **{f"{n}{i}_bn": RESIDUAL_LAST for n in "fg" for i in (1, 2)},
        },
    ),
    Case(
        "shake_shake",
        shake_shake,
        {
            "stem_bn": TRUNK,
            **{f"{n}1_bn": INTERIOR for n in "ab"},
            **{f"{n}2_bn": RESIDUAL_LAST for n in "ab"},
        },
    ),
    Case(
        "coordinate_attention",
        coordinate_attention,
        {"stem_bn": TRUNK, "y_bn": INTERIOR, "gate_bn": OTHER, "last_bn": RESIDUAL_LAST},
    ),
    Case("non_local", non_local, {"stem_bn": TRUNK, "last_bn": RESIDUAL_LAST}),
    Case(
        "levit", levit, {"q_bn": OTHER, "k_bn": OTHER, "v_bn": INTERIOR, "last_bn": RESIDUAL_LAST}
    ),
    Case("relu_linear_attention", relu_linear_attention, {"ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case(
        "softmax_linear_attention",
        softmax_linear_attention,
        {"ln": RESIDUAL_LAST, "final_ln": TRUNK},
    ),
    Case(
        "spatial_reduction",
        spatial_reduction,
        {"ln": OTHER, "reduced_ln": RESIDUAL_LAST, "final_ln": TRUNK},
    ),
    # The first token is a weight: what is added to it begins the stream.
    Case(
        "class_attention", class_attention, {"ln1": TRUNK, "ln2": RESIDUAL_LAST, "final_ln": TRUNK}
    ),
    Case(
        "cross_covariance",
        cross_covariance,
        {"ln1": RESIDUAL_LAST, "ln2": INTERIOR, "bn": RESIDUAL_LAST, "final_ln": TRUNK},
    ),
    Case("adapters", lambda: adapters(False), {"ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case(
        "adapters_with_a_norm",
        lambda: adapters(True),
        # It scales the adapter's skip alone.
        {"ln": TRUNK, "adapter_ln": RESIDUAL_LAST, "final_ln": TRUNK},
    ),
    Case(
        "adapter_behind_a_norm",
        adapter_behind_a_norm,
        {"ln": TRUNK, "adapter_ln": RESIDUAL_LAST, "final_ln": TRUNK},
    ),
    Case("low_rank_update", low_rank_update, {"ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case("token_shift", token_shift, {"ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case("bypass", bypass, {"ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case("retention", retention, {"ln": RESIDUAL_LAST, "gn": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case(
        "gated_then_normed",
        gated_then_normed,
        {"ln": INTERIOR, "gated_ln": RESIDUAL_LAST, "final_ln": TRUNK},
    ),
    Case("experts", experts, {"ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case(
        "speech",
        speech,
        {"gn": INTERIOR, "features_ln": TRUNK, "ln0": TRUNK, "ln1": TRUNK, "ln2": TRUNK},
    ),
    Case("attention_pooling", attention_pooling, {"ln": TRUNK}),
    Case("gated_residual_network", gated_residual_network, {"ln1": TRUNK, "ln2": TRUNK}),
    Case("tab_net", tab_net, {"in_bn": INTERIOR, "bn1": TRUNK, "bn2": RESIDUAL_LAST}),
    Case("cross_network", cross_network, {"bn": TRUNK}),
    Case(
        "graph_convolution",
        graph_convolution,
        {"in_bn": TRUNK, "bn1": RESIDUAL_LAST, "bn2": RESIDUAL_LAST},
    ),
    Case("edge_convolution", edge_convolution, {"bn1": INTERIOR, "bn2": TRUNK}),
    # Points of the input keep their scale, but the matrix does not: bn absorbs it.
    Case("transform_net", transform_net, {"t_bn": INTERIOR, "bn": TRUNK}),
]
