"""Skips with factors, gates, re-parameterizable sums, and designs of blocks: hand-written roles."""

import keras
from keras import layers, ops

from tests.models.role_cases_inner import depthwise, headed, pool, stem
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

# --- skips with a factor -----------------------------------------------------

FACTORS = {
    "both": lambda x, f: 0.7 * x + 0.7 * f,
    "both_swapped": lambda x, f: f * 0.7 + x * 0.7,
    "skip": lambda x, f: x * 0.7 + f,
    "divided": lambda x, f: x / 1.4 + f / 1.4,
    "negative": lambda x, f: f - (-x),
    "rescaling": lambda x, f: layers.Add()([layers.Rescaling(0.7)(x), f]),
    "ops": lambda x, f: ops.add(ops.multiply(0.7, x), ops.multiply(f, 0.7)),
}


def factors(join):
    """The branch is linear, too: only the factor-free identity tells the skip."""
    x = image()
    y = stem(x)
    return keras.Model(x, classify(join(y, bn(conv(y), "branch_bn"))))


def deep_norm():
    """LN(α · x + f(x)): post-norm, with a constant on the skip."""
    x = tokens()
    y = ln(x, "emb_ln")
    y = ln(1.5 * y + self_attention(y), "ln1")
    y = ln(1.5 * y + mlp(y), "ln2")
    return keras.Model(x, layers.Dense(3)(y))


def scaled_inception_resnet():
    """A branch of a concatenation and a linear convolution, times 0.2."""
    x = image()
    y = stem(x)
    a = relu(bn(conv(y, 2, 1), "bn_a"))
    b = relu(bn(conv(relu(bn(conv(y, 2, 1), "bn_b1")), 2), "bn_b2"))
    up = layers.Conv2D(4, 1)(layers.Concatenate()([a, b]))
    return keras.Model(x, classify(relu(layers.Add()([y, up * 0.2]))))


# --- re-parameterizable sums -------------------------------------------------


def mobile_one():
    """Several convolutions and the input, each with a norm: one convolution when fused."""
    x = image()
    y = relu(conv(x))
    terms = [bn(conv(y), f"conv_bn{n}") for n in (1, 2)]
    terms += [bn(conv(y, 4, 1), "scale_bn"), bn(y, "skip_bn")]
    y = relu(sum(terms[1:], start=terms[0]))
    return keras.Model(x, classify(relu(bn(conv(y), "tail_bn"))))


def rep_mixer():
    """FastViT: x + s · (mixer(x) − norm(x)), the mixer a sum of norms."""
    x = image()
    y = relu(conv(x))
    mixer = bn(depthwise(y), "mixer_bn") + bn(y, "mixer_skip_bn")
    y = y + LayerScale(name="scale")(mixer - bn(y, "norm_bn"))
    return keras.Model(x, classify(y))


# --- gates -------------------------------------------------------------------


def excite_with_norm(gate, project):
    """Squeeze-and-excite with a norm in its bottleneck."""
    x = image()
    y = stem(x)
    a = relu(bn(conv(y), "bn1"))
    a = a if project else bn(conv(a), "bn2")
    g = layers.Dense(2)(layers.GlobalAveragePooling2D(keepdims=True)(a))
    g = layers.Dense(4)(relu(bn(g, "gate_bn")))
    a = layers.Multiply()([a, layers.Activation(gate)(g)])
    a = bn(conv(a), "bn2") if project else a
    return keras.Model(x, classify(relu(y + a)))


def channel_and_space():
    """CBAM: the gate's logits are a sum of what a shared MLP makes of two poolings."""
    x = image()
    y = stem(x)
    a = bn(conv(relu(bn(conv(y), "bn1"))), "bn2")
    shared = keras.Sequential([layers.Dense(2, activation="relu"), layers.Dense(4)])
    mean = shared(layers.GlobalAveragePooling2D(keepdims=True)(a))
    peak = shared(layers.GlobalMaxPooling2D(keepdims=True)(a))
    a = a * ops.sigmoid(mean + peak)
    return keras.Model(x, classify(relu(y + a)))


def self_calibrated():
    """SCNet: a gate of x + f(x), on a convolution beside it."""
    x = image()
    h = relu(bn(conv(x), "bn_in"))
    down = layers.AveragePooling2D(2)(h)
    up = layers.UpSampling2D(2)(bn(conv(down), "gate_bn"))
    y = bn(conv(h), "value_bn") * ops.sigmoid(h + up)
    y = relu(bn(conv(y), "out_bn"))
    return keras.Model(x, classify(relu(x + bn(conv(y), "last_bn"))))


def highway():
    """g · x + (1 − g) · f(x): neither term is the stream."""
    x = tokens()
    g = layers.Dense(8, activation="sigmoid")(x)
    y = g * x + (1.0 - g) * layers.LayerNormalization(name="branch_ln")(mlp(x))
    return keras.Model(x, layers.Dense(3)(ln(y, "final_ln")))


def gate_on_a_skip():
    """x + x · gate(x): the gate's norm acts through the gate alone."""
    x = image()
    y = stem(x)
    g = ops.sigmoid(bn(conv(y), "gate_bn"))
    return keras.Model(x, classify(y + y * g))


def gated_activation():
    """tanh · sigmoid (WaveNet): the hyperbolic tangent carries the scale near 0, like any other."""
    x = tokens()
    h = ln(x, "ln")
    y = ops.tanh(layers.Dense(8)(h)) * ops.sigmoid(layers.Dense(8)(h))
    return keras.Model(x, layers.Dense(3)(ln(x + layers.Dense(8)(y), "final_ln")))


def sigmoid_network():
    """A sigmoid that nothing is multiplied with is an activation, no gate."""
    x = tokens()
    y = x + layers.Dense(8)(layers.Dense(12, activation="sigmoid")(ln(x, "ln")))
    return keras.Model(x, layers.Dense(3)(ln(y, "final_ln")))


def sigmoid_output():
    x = tokens()
    return keras.Model(x, layers.Dense(3, activation="sigmoid")(ln(x, "ln")))


def receptance():
    """RWKV's channel mix: sigmoid(r) · v, with a norm of its own in front of r."""
    x = tokens()
    h = ln(x, "ln")
    r = ops.sigmoid(layers.Dense(8)(ln(layers.Dense(8)(h), "r_ln")))
    v = layers.Dense(8)(ops.square(ops.relu(layers.Dense(12)(h))))
    return keras.Model(x, layers.Dense(3)(ln(x + r * v, "final_ln")))


def selective_state():
    """Mamba's outer block: silu(z) · conv(u), projected."""
    x = tokens()
    h = layers.RMSNormalization(name="rms")(x)
    u = ops.silu(layers.Conv1D(12, 3, padding="causal", groups=12)(layers.Dense(12)(h)))
    y = x + layers.Dense(8)(u * ops.silu(layers.Dense(12)(h)))
    return keras.Model(x, layers.Dense(3)(layers.RMSNormalization(name="final_rms")(y)))


def spatial_gating():
    """gMLP: half of the channels, normed and mixed over the tokens, multiplies the other half."""
    x = tokens()
    h = layers.Dense(16, activation="gelu")(ln(x, "ln"))
    u, v = ops.split(h, 2, axis=-1)
    v = layers.Permute((2, 1))(layers.Dense(6)(layers.Permute((2, 1))(ln(v, "gate_ln"))))
    return keras.Model(x, layers.Dense(3)(ln(x + layers.Dense(8)(u * v), "final_ln")))


# --- designs of blocks -------------------------------------------------------


def selective_kernel():
    """SKNet: two branches are summed to choose between them."""
    x = image()
    y = stem(x)
    a = relu(bn(conv(y), "bn_a"))
    b = relu(bn(conv(y, 4, 5), "bn_b"))
    s = layers.GlobalAveragePooling2D(keepdims=True)(a + b)
    z = relu(bn(layers.Dense(2)(s), "choice_bn"))
    choice = ops.softmax(ops.stack([layers.Dense(4)(z), layers.Dense(4)(z)], axis=1), axis=1)
    v = a * choice[:, 0] + b * choice[:, 1]
    return keras.Model(x, classify(relu(y + bn(conv(v), "bn3"))))


def split_attention():
    """ResNeSt: two halves of one normed map, chosen between by a softmax."""
    x = image()
    y = stem(x)
    h = relu(bn(conv(y, 8), "bn1"))
    a, b = ops.split(h, 2, axis=-1)
    s = layers.GlobalAveragePooling2D(keepdims=True)(a + b)
    z = relu(bn(layers.Dense(2)(s), "choice_bn"))
    choice = ops.softmax(ops.reshape(layers.Dense(8)(z), (-1, 1, 1, 2, 4)), axis=3)
    v = a * choice[:, :, :, 0] + b * choice[:, :, :, 1]
    return keras.Model(x, classify(relu(y + bn(conv(v), "bn3"))))


def cross_stage_partial():
    """CSP: half of the channels pass residual blocks, and are concatenated with the other half."""
    x = image()
    a = relu(bn(conv(x, 4, 1), "part1_bn"))
    b = relu(bn(conv(x, 4, 1), "part2_bn"))
    h = relu(bn(conv(b, 2, 1), "b_bn1"))
    b = b + relu(bn(conv(h), "b_bn2"))
    y = relu(bn(conv(layers.Concatenate()([a, b]), 4, 1), "merge_bn"))
    return keras.Model(x, classify(y))


def high_resolution():
    """HRNet: two resolutions, each with a block, exchange."""
    x = image()
    s = stem(x)
    low = relu(bn(conv(s, 4, 3, 2), "transition_bn"))
    high = relu(s + bn(conv(relu(bn(conv(s), "high_bn1"))), "high_bn2"))
    low = relu(low + bn(conv(relu(bn(conv(low), "low_bn1"))), "low_bn2"))
    up = layers.UpSampling2D(2)(bn(conv(low, 4, 1), "up_bn"))
    down = bn(conv(high, 4, 3, 2), "down_bn")
    return keras.Model(x, [layers.Conv2D(2, 1)(relu(high + up)), classify(relu(down + low))])


def dual_path():
    """DPN: a part of each block's output is added, the rest concatenated."""
    x = image()
    h = conv(x, 6)
    added, dense = h[..., :4], h[..., 4:]
    for n in (1, 2):
        h = relu(bn(layers.Concatenate()([added, dense]), f"b{n}_bn1"))
        h = conv(relu(bn(conv(h, 4, 1), f"b{n}_bn2")), 6)
        added = added + h[..., :4]
        dense = layers.Concatenate()([dense, h[..., 4:]])
    y = relu(bn(layers.Concatenate()([added, dense]), "post_bn"))
    return keras.Model(x, classify(y))


def shuffle():
    """ShuffleNet V2: half of the channels stay, the other half is worked on; then they mix."""
    x = image(8, 8)
    y = relu(bn(conv(x, 8), "stem_bn"))
    a, b = ops.split(y, 2, axis=-1)
    b = relu(bn(conv(b, 4, 1), "bn1"))
    b = bn(depthwise(b), "bn2")
    b = relu(bn(conv(b, 4, 1), "bn3"))
    y = ops.reshape(layers.Concatenate()([a, b]), (-1, 8, 8, 2, 4))
    y = ops.reshape(ops.transpose(y, (0, 1, 2, 4, 3)), (-1, 8, 8, 8))
    return keras.Model(x, classify(relu(bn(conv(y, 8, 1), "head_bn"))))


def conformer():
    """Half-step MLPs around an attention and a convolution with a norm inside, and a last norm."""
    x = tokens()
    y = x + 0.5 * mlp(ln(x, "ff1_ln"))
    y = y + self_attention(ln(y, "attention_ln"))
    h = layers.Dense(16)(ln(y, "conv_ln"))
    h = h[..., :8] * ops.sigmoid(h[..., 8:])
    h = layers.Conv1D(8, 3, padding="same", groups=8)(h)
    y = y + layers.Dense(8)(ops.silu(bn(h, "conv_bn")))
    y = y + 0.5 * mlp(ln(y, "ff2_ln"))
    y = ln(y, "block_ln")
    return keras.Model(x, layers.Dense(3)(y + 0.5 * mlp(ln(y, "next_ln"))))


def swin_v2():
    """The norms stand at the end of each branch."""
    x = tokens()
    y = x + ln(self_attention(x), "ln1")
    y = y + ln(mlp(y), "ln2")
    return keras.Model(x, layers.Dense(3)(ln(y, "final_ln")))


def norm_former():
    """A norm behind the attention, and one in the middle of the MLP."""
    x = tokens()
    y = x + ln(self_attention(ln(x, "ln1")), "attention_ln")
    h = layers.Dense(12, activation="gelu")(ln(y, "ln2"))
    return keras.Model(x, layers.Dense(3)(ln(y + layers.Dense(8)(ln(h, "middle_ln")), "final_ln")))


@register
class Gain(layers.Layer):
    """A learned scalar on a branch (ReZero, SkipInit)."""

    def build(self, shape):
        self.alpha = self.add_weight(name="alpha", shape=(), initializer="zeros")

    def call(self, x):
        return self.alpha * x


def rezero():
    x = tokens()
    y = x + Gain(name="gain")(mlp(ln(x, "ln")))
    return keras.Model(x, layers.Dense(3)(y))


@register
class Latents(layers.Layer):
    """Learned queries, the same for each example."""

    def build(self, shape):
        self.latents = self.add_weight(name="latents", shape=(3, 8), initializer="random_normal")

    def call(self, x):
        return ops.broadcast_to(self.latents, (x.shape[0] or ops.shape(x)[0], 3, 8))


def perceiver():
    """Learned latents read the input: what the sum adds to is a variable."""
    x = tokens()
    z = Latents(name="latents")(x)
    z = z + self_attention(ln(z, "query_ln"), ln(x, "value_ln"))
    z = z + mlp(ln(z, "mlp_ln"))
    z = z + self_attention(ln(z, "self_ln"))
    return keras.Model(x, layers.Dense(3)(ln(z, "final_ln")))


def efficient_formerish():
    """A pooling mixer inside a block with squeeze-and-excite: both pass γ."""
    x = image()
    y = bn(x, "bn_in")
    m = pool(y) - y
    m = m * layers.Dense(4, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(m))
    return headed(x, x + m)


def talking_heads():
    """A linear mix of the heads before and after the softmax."""
    x = tokens()
    h = ln(x, "ln")
    q, k, v = (ops.reshape(layers.Dense(8)(h), (-1, 6, 2, 4)) for _ in range(3))
    logits = ops.einsum("btnd,bsnd->btsn", q, k)
    weights = layers.Dense(2)(ops.softmax(layers.Dense(2)(logits), axis=2))
    y = ops.reshape(ops.einsum("btsn,bsnd->btnd", weights, v), (-1, 6, 8))
    return keras.Model(x, layers.Dense(3)(ln(x + layers.Dense(8)(y), "final_ln")))


def projected():
    """A plain projected block, with the constant on the projected skip."""
    x = image()
    y = stem(x)
    a = bn(conv(relu(bn(conv(y, 8, 3, 2), "bn1")), 8), "bn2")
    return keras.Model(x, classify(relu(0.5 * bn(conv(y, 8, 1, 2), "skip_bn") + a)))


CASES = [
    *(
        Case(
            f"factor_{name}",
            lambda join=join: factors(join),
            {"stem_bn": TRUNK, "branch_bn": RESIDUAL_LAST},  # x times a number is still x
        )
        for name, join in FACTORS.items()
    ),
    Case("deep_norm", deep_norm, dict.fromkeys(("emb_ln", "ln1", "ln2"), TRUNK)),
    Case(
        "scaled_inception_resnet",
        scaled_inception_resnet,
        {"stem_bn": TRUNK, "bn_a": RESIDUAL_LAST, "bn_b1": INTERIOR, "bn_b2": RESIDUAL_LAST},
    ),
    Case(
        "mobile_one",
        mobile_one,
        {
            **dict.fromkeys(("conv_bn1", "conv_bn2", "scale_bn", "skip_bn"), OTHER),
            "tail_bn": TRUNK,
        },
        mentions=("re-parameterizable",),
    ),
    Case(
        "rep_mixer",
        rep_mixer,
        # Each sets its share of the inner sum, whose terms are all linear in y.
        dict.fromkeys(("mixer_bn", "mixer_skip_bn", "norm_bn"), OTHER),
        mentions=("re-parameterizable",),
    ),
    *(
        Case(
            f"excite_with_norm_{gate}{'_projected' if project else ''}",
            lambda gate=gate, project=project: excite_with_norm(gate, project),
            {
                "stem_bn": TRUNK,
                "bn1": INTERIOR,
                "gate_bn": OTHER,  # it makes the gate steeper
                "bn2": RESIDUAL_LAST,
            },
        )
        for gate in ("sigmoid", "hard_sigmoid")
        for project in (False, True)
    ),
    Case(
        "channel_and_space",
        channel_and_space,
        {"stem_bn": TRUNK, "bn1": INTERIOR, "bn2": RESIDUAL_LAST},
    ),
    Case(
        "self_calibrated",
        self_calibrated,
        {
            "bn_in": INTERIOR,  # value_bn absorbs it; what is left acts in the gate
            "gate_bn": OTHER,
            "value_bn": INTERIOR,  # times a gate, then absorbed by out_bn
            "out_bn": INTERIOR,
            "last_bn": RESIDUAL_LAST,
        },
    ),
    Case("highway", highway, {"branch_ln": OTHER, "final_ln": TRUNK}),
    Case("gate_on_a_skip", gate_on_a_skip, {"stem_bn": TRUNK, "gate_bn": OTHER}),
    Case("gated_activation", gated_activation, {"ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case("sigmoid_network", sigmoid_network, {"ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case("sigmoid_output", sigmoid_output, {"ln": TRUNK}),
    Case("receptance", receptance, {"ln": RESIDUAL_LAST, "r_ln": OTHER, "final_ln": TRUNK}),
    Case("selective_state", selective_state, {"rms": RESIDUAL_LAST, "final_rms": TRUNK}),
    Case(
        "spatial_gating",
        spatial_gating,
        {"ln": RESIDUAL_LAST, "gate_ln": RESIDUAL_LAST, "final_ln": TRUNK},
    ),
    Case(
        "selective_kernel",
        selective_kernel,
        {
            "stem_bn": TRUNK,
            "bn_a": OTHER,  # a sum of two branches without a skip
            "bn_b": OTHER,
            "choice_bn": OTHER,  # the temperature of the choice
            "bn3": RESIDUAL_LAST,
        },
    ),
    Case(
        "split_attention",
        split_attention,
        # Both halves scale with bn1, so do their sums; bn3 absorbs it.
        {"stem_bn": TRUNK, "bn1": INTERIOR, "choice_bn": OTHER, "bn3": RESIDUAL_LAST},
    ),
    Case(
        "cross_stage_partial",
        cross_stage_partial,
        {
            "part1_bn": INTERIOR,
            "part2_bn": TRUNK,  # the block's skip carries it
            "b_bn1": INTERIOR,
            "b_bn2": RESIDUAL_LAST,
            "merge_bn": TRUNK,
        },
    ),
    Case(
        "high_resolution",
        high_resolution,
        {
            "stem_bn": TRUNK,
            "transition_bn": TRUNK,
            "high_bn1": INTERIOR,
            "high_bn2": RESIDUAL_LAST,
            "low_bn1": INTERIOR,
            "low_bn2": RESIDUAL_LAST,
            # Both terms of an exchange come from activations: there is no skip.
            "up_bn": OTHER,
            "down_bn": OTHER,
        },
    ),
    Case(
        "dual_path",
        dual_path,
        {
            "b1_bn1": INTERIOR,
            "b1_bn2": RESIDUAL_LAST,
            "b2_bn1": INTERIOR,
            "b2_bn2": RESIDUAL_LAST,
            "post_bn": TRUNK,
        },
    ),
    Case(
        "shuffle",
        shuffle,
        {
            "stem_bn": INTERIOR,
            "bn1": INTERIOR,
            "bn2": INTERIOR,
            "bn3": INTERIOR,
            "head_bn": TRUNK,
        },
    ),
    Case(
        "conformer",
        conformer,
        {
            "ff1_ln": RESIDUAL_LAST,
            "attention_ln": RESIDUAL_LAST,
            "conv_ln": INTERIOR,  # conv_bn absorbs it
            "conv_bn": RESIDUAL_LAST,
            "ff2_ln": RESIDUAL_LAST,
            "block_ln": TRUNK,
            "next_ln": RESIDUAL_LAST,
        },
    ),
    Case("swin_v2", swin_v2, {"ln1": RESIDUAL_LAST, "ln2": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case(
        "norm_former",
        norm_former,
        {
            "ln1": INTERIOR,
            "attention_ln": RESIDUAL_LAST,
            "ln2": INTERIOR,
            "middle_ln": RESIDUAL_LAST,
            "final_ln": TRUNK,
        },
    ),
    Case("rezero", rezero, {"ln": RESIDUAL_LAST}),
    Case(
        "perceiver",
        perceiver,
        {
            "query_ln": OTHER,
            "value_ln": TRUNK,  # the stream begins with it
            "mlp_ln": RESIDUAL_LAST,
            "self_ln": RESIDUAL_LAST,
            "final_ln": TRUNK,
        },
    ),
    Case("pool_mixer_gated", efficient_formerish, {"bn_in": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case("talking_heads", talking_heads, {"ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case(
        "projection_between_streams",
        projected,
        {"stem_bn": INTERIOR, "skip_bn": SHORTCUT, "bn1": INTERIOR, "bn2": RESIDUAL_LAST},
    ),
]
