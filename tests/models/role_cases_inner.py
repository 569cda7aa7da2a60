"""Sums inside a branch, sums of logits, conditioning: with hand-written roles."""

import keras
from keras import layers, ops

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


def stem(x, name="stem_bn"):
    return relu(bn(conv(x), name))


def depthwise(x):
    return layers.DepthwiseConv2D(3, padding="same")(x)


def pool(x):
    return layers.AveragePooling2D(3, 1, padding="same")(x)


def gelu(x):
    return layers.Activation("gelu")(x)


def headed(x, y, name="final_ln"):
    """A last norm and a classifier."""
    return keras.Model(x, classify(ln(y, name)))


# --- inner joins -------------------------------------------------------------


def mlp_with_a_depthwise_skip(norm):
    """An MLP that adds to its hidden layer a depthwise convolution of it."""
    x = image()
    h = layers.Dense(6)(ln(x, "ln"))
    d = depthwise(h)
    h = h + (bn(d, "dw_bn") if norm else d)
    return headed(x, x + layers.Dense(4)(gelu(h)))


def pool_mixer(form):
    """PoolFormer: the mixer is what pooling changes."""
    x = image()
    y = layers.GroupNormalization(groups=1, name="gn1")(x)
    mixed = {
        "difference": lambda: pool(y) - y,
        "scaled": lambda: LayerScale(name="ls")(pool(y) - y),
        "learned": lambda: y + LayerScale(name="s")(y - pool(y)),
        "subtract_layer": lambda: layers.Subtract()([pool(y), y]),
    }[form]()
    y = x + mixed
    z = layers.GroupNormalization(groups=1, name="gn2")(y)
    return headed(x, y + layers.Dense(4)(layers.Dense(6, activation="gelu")(z)))


@register
class ResponseGain(layers.Layer):
    """Global response normalization (ConvNeXt V2): gain · x · n + offset + x."""

    def build(self, shape):
        self.gain = self.add_weight(name="gain", shape=shape[-1:], initializer="ones")
        self.offset = self.add_weight(name="offset", shape=shape[-1:], initializer="zeros")

    def call(self, x):
        g = ops.sqrt(ops.sum(ops.square(x), axis=(1, 2), keepdims=True))
        n = g / (ops.mean(g, axis=-1, keepdims=True) + 1e-6)
        return self.gain * (x * n) + self.offset + x


def convnext_v2():
    x = image()
    h = gelu(layers.Dense(6)(ln(depthwise(x), "ln")))
    return headed(x, x + layers.Dense(4)(ResponseGain(name="grn")(h)))


@register
class Decay(layers.Layer):
    """state · g with a learned g for each channel."""

    def build(self, shape):
        self.g = self.add_weight(name="g", shape=shape[-1:], initializer="ones")

    def call(self, x):
        return x * self.g


def recurrence(nonlinear):
    """s = g · s + k, unrolled over the tokens."""
    x = tokens(4, 8)
    k = layers.Dense(8)(ln(x, "ln"))
    decay = Decay(name="decay")
    state, states = k[:, 0], []
    for step in range(1, 4):
        states.append(state)
        state = decay(state) + (ops.silu(k[:, step]) if nonlinear else k[:, step])
    states.append(state)
    y = x + layers.Dense(8)(ops.stack(states, axis=1))
    return keras.Model(x, layers.Dense(3)(ln(y, "final_ln")))


def residual_group(inside):
    """A skip around residual blocks, as in image restoration; a norm in front of the blocks."""
    x = image()
    y = conv(x)
    h = bn(conv(y), "in_bn")
    for n in (1, 2):
        if inside == "no_norm":
            h = h + conv(relu(conv(h)))
        else:
            h = h + bn(conv(relu(bn(conv(h), f"b{n}_bn1"))), f"b{n}_bn2")
    y = y + conv(h)
    return keras.Model(x, layers.Conv2D(3, 1)(y))


def super_resolution():
    """SRResNet: residual blocks, then a norm, then the long skip."""
    x = image()
    y = relu(conv(x))
    h = y
    for n in (1, 2):
        h = h + bn(conv(relu(bn(conv(h), f"b{n}_bn1"))), f"b{n}_bn2")
    y = y + bn(conv(h), "group_bn")
    return keras.Model(x, layers.Conv2D(3, 1)(y))


def post_norm_in_a_branch():
    """An inner sum that a norm follows absorbs what reaches all of it."""
    x = image()
    h = bn(conv(x), "in_bn")
    h = bn(h + conv(relu(conv(h))), "post_bn")
    return keras.Model(x, layers.Conv2D(3, 1)(x + conv(relu(h))))


def linknet():
    """A long skip added behind an encoder of V1 blocks: the blocks' streams stay streams."""
    x = image()
    e = stem(x)
    d = relu(bn(conv(e, 8, 3, 2), "down_bn"))
    a = bn(conv(relu(bn(conv(d, 8), "b_bn1")), 8), "b_bn2")
    d = relu(layers.Add()([d, a]))
    u = relu(bn(conv(layers.UpSampling2D(2)(d)), "up_bn"))
    y = layers.Add()([e, u])
    return keras.Model(x, layers.Conv2D(3, 1)(relu(bn(conv(y), "head_bn"))))


def feature_pyramid_with_norms():
    """A lateral projection with a norm is the skip; what comes from above is the branch."""
    x = image()
    e = stem(x)
    d = relu(bn(conv(e, 8, 3, 2), "down_bn"))
    a = bn(conv(relu(bn(conv(d, 8), "b_bn1")), 8), "b_bn2")
    d = relu(layers.Add()([d, a]))
    top = layers.UpSampling2D(2)(bn(conv(d, 4, 1), "top_bn"))
    y = layers.Add()([bn(conv(e, 4, 1), "lateral_bn"), top])
    return keras.Model(x, layers.Conv2D(3, 3)(y))


def inner_join_across_the_fork():
    """The inner sum starts where the outer one does: what comes before both is the stream."""
    x = image()
    y = bn(conv(x), "in_bn")
    h = y + conv(relu(conv(y)))
    return keras.Model(x, layers.Conv2D(3, 1)(y + conv(relu(h))))


def low_rank_beside_attention(together):
    """Gemma 3n: a low-rank residual path beside the attention, both from one normed tensor."""
    x = tokens()
    n = ln(x, "in_ln")
    attended = ln(self_attention(n), "attended_ln")
    low = n + ln(layers.Dense(8)(layers.Dense(2)(n)), "low_ln")
    y = x + (attended + low) if together else ((x + attended) + low) * 0.7
    return keras.Model(x, layers.Dense(3)(ln(y, "final_ln")))


def routed_by_tanh():
    """Gemma 3n: what is added is the stream itself, weighed by a tanh of its norm."""
    x = tokens()
    routed = layers.Dense(4, activation="tanh", bias_initializer="random_normal")(ln(x, "ln"))
    y = x + x * layers.Dense(8, use_bias=False)(routed)
    return keras.Model(x, layers.Dense(3)(ln(y, "final_ln")))


def mean_removed():
    """x − mean(x) in a branch: γ reaches both terms."""
    x = tokens()
    h = layers.Dense(8)(ln(x, "ln"))
    h = h - ops.mean(h, axis=1, keepdims=True)
    return keras.Model(x, layers.Dense(3)(ln(x + layers.Dense(8)(h), "final_ln")))


# --- sums of logits ----------------------------------------------------------


@register
class RelativeAttention(layers.Layer):
    """Attention over a map, with learned relative positions that the queries look up.

    Args:
        positions: `"one"` for one table; `"decomposed"` for a table along the height and one along
            the width, spread over each other; `"shared_query"` for two matrix products that are
            added before any scaling.
        qk_norm: whether queries and keys have a norm.
    """

    def __init__(self, width, positions, qk_norm=False, **kwargs):
        super().__init__(**kwargs)
        self.width, self.positions = width, positions
        self.query, self.key, self.value, self.out = (layers.Dense(width) for _ in range(4))
        self.q_norm = layers.LayerNormalization(name="q_norm") if qk_norm else None
        self.k_norm = layers.LayerNormalization(name="k_norm") if qk_norm else None

    def build(self, shape):
        _, height, width, _ = shape
        table = {"shape": (height * width, self.width), "initializer": "random_normal"}
        if self.positions == "decomposed":
            sizes = {"along_height": height, "along_width": width}
            for name, size in sizes.items():
                shape = (size, size, self.width)
                setattr(self, name, self.add_weight(name=name, shape=shape))
        else:
            self.table = self.add_weight(name="table", **table)

    def call(self, x):
        _, height, width, _ = x.shape
        flat = ops.reshape(x, (-1, height * width, x.shape[-1]))
        q, k, v = self.query(flat), self.key(flat), self.value(flat)
        q = self.q_norm(q) if self.q_norm else q
        k = self.k_norm(k) if self.k_norm else k
        logits = ops.matmul(q, ops.transpose(k, (0, 2, 1)))
        if self.positions == "decomposed":
            grid = ops.reshape(q, (-1, height, width, self.width))
            rows = ops.einsum("bhwc,hkc->bhwk", grid, self.along_height)
            columns = ops.einsum("bhwc,wkc->bhwk", grid, self.along_width)
            logits = ops.reshape(logits, (-1, height, width, height, width))
            logits = logits + rows[..., None] + columns[..., None, :]
            logits = ops.reshape(logits, (-1, height * width, height * width))
        else:
            logits = logits + ops.matmul(q, ops.transpose(self.table))
        y = ops.matmul(ops.softmax(0.5 * logits, axis=-1), v)
        return self.out(ops.reshape(y, (-1, height, width, self.width)))


def relative_transformer(positions, qk_norm=False):
    x = image(4, 8)
    y = x + RelativeAttention(8, positions, qk_norm, name="attention")(ln(x, "ln1"))
    return headed(x, y + mlp(ln(y, "ln2")))


def bottleneck_attention(positions):
    """BoTNet: attention in the place of the middle convolution."""
    x = image(4, 8)
    y = relu(bn(conv(x, 4, 1), "bn1"))
    y = RelativeAttention(4, positions, name="attention")(y)
    y = relu(bn(y, "bn2"))
    y = relu(x + bn(conv(y, 8, 1), "bn3"))
    return keras.Model(x, classify(y))


def residual_logits():
    """RealFormer: each layer's logits are added to the next layer's."""
    x = tokens()
    y, logits = x, None
    for n in (1, 2):
        h = ln(y, f"ln{n}")
        q, k, v = (layers.Dense(8)(h) for _ in range(3))
        now = ops.matmul(q, ops.transpose(k, (0, 2, 1)))
        logits = now if logits is None else now + logits
        y = y + layers.Dense(8)(ops.matmul(ops.softmax(logits), v))
    return keras.Model(x, layers.Dense(3)(ln(y, "final_ln")))


# --- no false skips ----------------------------------------------------------


def attention_and_convolution(norm, separate=True):
    """Locally enhanced attention: a depthwise convolution of the values beside the attention."""
    x = image(4, 8)
    h = ops.reshape(ln(x, "ln"), (-1, 16, 8))
    if separate:
        q, k, v = (layers.Dense(8)(h) for _ in range(3))
    else:
        q, k, v = ops.split(layers.Dense(24)(h), 3, axis=-1)
    a = ops.matmul(ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1)))), v)
    local = depthwise(ops.reshape(v, (-1, 4, 4, 8)))
    local = bn(local, "dw_bn") if norm else local
    y = ops.reshape(a, (-1, 4, 4, 8)) + local
    return headed(x, x + layers.Dense(8)(y))


def split_in_scales():
    """Res2Net: each slice is added to what the one before it became."""
    x = image(8, 8)
    y = relu(bn(conv(x, 8, 1), "bn1"))
    slices = ops.split(y, 4, axis=-1)
    outputs = [slices[0]]
    now = relu(bn(conv(slices[1], 2), "bn_s1"))
    outputs.append(now)
    for n in (2, 3):
        now = relu(bn(conv(slices[n] + now, 2), f"bn_s{n}"))
        outputs.append(now)
    y = bn(conv(layers.Concatenate()(outputs), 8, 1), "bn3")
    return keras.Model(x, classify(relu(x + y)))


# --- conditioning ------------------------------------------------------------


def group(x, name):
    return layers.GroupNormalization(groups=2, name=name)(x)


def diffusion_block(x, condition, name, width=4):
    h = conv(ops.silu(group(x, f"{name}_gn1")), width)
    h = h + layers.Dense(width)(condition)[:, None, None, :]
    h = conv(ops.silu(group(h, f"{name}_gn2")), width)
    return x + h


def diffusion(activate_once):
    """Two blocks of a diffusion network: the time is added between their norms."""
    x, time = image(), keras.Input((6,), name="time")
    t = layers.Dense(6)(ops.silu(layers.Dense(6)(time)))
    y = conv(x)
    once = ops.silu(t)
    for name in ("b1", "b2"):
        y = diffusion_block(y, once if activate_once else ops.silu(t), name)
    return keras.Model([x, time], conv(ops.silu(group(y, "out_gn")), 3))


def class_conditional():
    """A label is a number without a scale, but what it looks up is computed from the inputs."""
    x, label = image(), keras.Input((), dtype="int32", name="label")
    c = layers.Embedding(10, 6)(label)
    y = diffusion_block(conv(x), ops.silu(c), "b1")
    return keras.Model([x, label], conv(ops.silu(group(y, "out_gn")), 3))


def conditional_scale_and_shift():
    """Scale and shift of a norm with a γ come from a condition: the shift does not follow γ."""
    x, c = tokens(), keras.Input((4,), name="condition")
    shift, scale = (layers.Dense(8)(c)[:, None, :] for _ in range(2))
    h = ln(x, "ln") * (1.0 + scale) + shift
    return keras.Model([x, c], layers.Dense(3)(ln(x + mlp(h), "final_ln")))


def conditioned_in_every_block():
    """Post-norm blocks whose branch ends with a shift by a condition, each by the same one."""
    x, c = keras.Input((8,)), keras.Input((4,), name="condition")
    h = x
    for n in range(2):
        branch = layers.Dense(8, activation="relu")(h) + layers.Dense(8)(c)
        h = ln(h + branch, f"ln{n}")
    return keras.Model([x, c], layers.Dense(2)(h))


def two_streams():
    """A lateral sum of two inputs' streams has no fork."""
    a, b = image(name="slow"), image(name="fast")
    slow = relu(bn(conv(a), "slow_bn"))
    fast = relu(bn(conv(b), "fast_bn"))
    y = slow + bn(conv(fast), "lateral_bn")
    y = relu(bn(conv(y), "tail_bn"))
    return keras.Model([a, b], [classify(y), classify(fast)])


def context_on_the_stream(norm):
    """x + context(x), the context one vector for the whole map."""
    x = image()
    y = stem(x)
    c = layers.Dense(2)(layers.GlobalAveragePooling2D(keepdims=True)(y))
    c = relu(ln(c, "context_ln") if norm else c)
    y = y + layers.Dense(4)(c)
    return keras.Model(x, classify(relu(bn(conv(y), "tail_bn"))))


def global_context_block():
    """GCNet: x + context(x) at the end of a bottleneck, weighed by a softmax over the map."""
    x = image()
    y = relu(bn(conv(x), "bn1"))
    y = bn(conv(y), "bn2")
    flat = ops.reshape(y, (-1, 64, 4))
    weights = ops.softmax(ops.reshape(conv(y, 1, 1), (-1, 1, 64)), axis=-1)
    c = ops.reshape(ops.matmul(weights, flat), (-1, 1, 1, 4))
    c = layers.Dense(4)(relu(ln(layers.Dense(2)(c), "context_ln")))
    y = y + c
    return keras.Model(x, classify(relu(x + y)))


CASES = [
    Case(
        "mlp_depthwise",
        lambda: mlp_with_a_depthwise_skip(False),
        # γ scales h and dwconv(h) alike, so their sum, so the branch.
        {"ln": RESIDUAL_LAST, "final_ln": TRUNK},
    ),
    Case(
        "mlp_depthwise_norm",
        lambda: mlp_with_a_depthwise_skip(True),
        # The convolution has a norm: γ reaches the inner skip alone and sets the mix there.
        {"ln": TRUNK, "dw_bn": RESIDUAL_LAST, "final_ln": TRUNK},
    ),
    *(
        Case(
            f"pool_mixer_{form}",
            lambda form=form: pool_mixer(form),
            # pool(y) and y scale alike with gn1.
            {"gn1": RESIDUAL_LAST, "gn2": RESIDUAL_LAST, "final_ln": TRUNK},
        )
        for form in ("difference", "scaled", "learned", "subtract_layer")
    ),
    # n does not depend on the scale of x: both x·n and x scale with γ.
    Case("convnext_v2", convnext_v2, {"ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    # Every state is a sum of terms that scale with γ.
    Case("recurrence", lambda: recurrence(False), {"ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case(
        "recurrence_activated", lambda: recurrence(True), {"ln": RESIDUAL_LAST, "final_ln": TRUNK}
    ),
    # The blocks have no norm: in_bn scales every term, up to the long skip's branch.
    Case("residual_group", lambda: residual_group("no_norm"), {"in_bn": RESIDUAL_LAST}),
    Case(
        "residual_group_of_norms",
        lambda: residual_group("norm"),
        {
            "in_bn": TRUNK,  # the inner skips alone carry it
            "b1_bn1": INTERIOR,
            "b1_bn2": RESIDUAL_LAST,
            "b2_bn1": INTERIOR,
            "b2_bn2": RESIDUAL_LAST,
        },
    ),
    Case(
        "super_resolution",
        super_resolution,
        {
            "b1_bn1": INTERIOR,
            "b1_bn2": RESIDUAL_LAST,
            "b2_bn1": INTERIOR,
            "b2_bn2": RESIDUAL_LAST,
            "group_bn": RESIDUAL_LAST,
        },
    ),
    # in_bn reaches both terms of the inner sum, and post_bn absorbs them.
    Case(
        "post_norm_in_a_branch",
        post_norm_in_a_branch,
        {"in_bn": INTERIOR, "post_bn": RESIDUAL_LAST},
    ),
    Case(
        "linknet",
        linknet,
        {
            "stem_bn": TRUNK,  # the long skip is the identity
            "down_bn": TRUNK,  # the block's skip carries it, its branch begins with a norm
            "b_bn1": INTERIOR,
            "b_bn2": RESIDUAL_LAST,
            "up_bn": RESIDUAL_LAST,  # the last γ of the long skip's branch
            "head_bn": TRUNK,
        },
    ),
    Case(
        "feature_pyramid_norms",
        feature_pyramid_with_norms,
        {
            "stem_bn": INTERIOR,  # lateral_bn and down_bn absorb it
            "down_bn": TRUNK,
            "b_bn1": INTERIOR,
            "b_bn2": RESIDUAL_LAST,
            "top_bn": RESIDUAL_LAST,
            "lateral_bn": SHORTCUT,
        },
    ),
    Case("inner_join_across_the_fork", inner_join_across_the_fork, {"in_bn": TRUNK}),
    *(
        Case(
            f"low_rank_beside_attention_{name}",
            lambda together=together: low_rank_beside_attention(together),
            # γ = 0 leaves the low-rank path nothing to start from: in_ln is its stream.
            {
                "in_ln": TRUNK,
                "attended_ln": RESIDUAL_LAST,
                "low_ln": RESIDUAL_LAST,
                "final_ln": TRUNK,
            },
        )
        for name, together in (("together", True), ("in_turn", False))
    ),
    # A tanh is 0 at 0: γ = 0 leaves x, as no sigmoid would.
    Case("routed_by_tanh", routed_by_tanh, {"ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case("mean_removed", mean_removed, {"ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    *(
        Case(
            f"relative_positions_{positions}",
            lambda positions=positions: relative_transformer(positions),
            # The values carry ln1; q·k and q·rel are logits.
            {"ln1": RESIDUAL_LAST, "ln2": RESIDUAL_LAST, "final_ln": TRUNK},
        )
        for positions in ("one", "decomposed")
    ),
    *(
        Case(
            f"relative_positions_{positions}_qk_norm",
            lambda positions=positions: relative_transformer(positions, True),
            {
                "ln1": RESIDUAL_LAST,
                "attention/q_norm": OTHER,
                "attention/k_norm": OTHER,
                "ln2": RESIDUAL_LAST,
                "final_ln": TRUNK,
            },
        )
        for positions in ("one", "decomposed")
    ),
    *(
        Case(
            f"bottleneck_attention_{positions}",
            lambda positions=positions: bottleneck_attention(positions),
            # bn2 absorbs what the values carry of bn1; behind it only bn3 is left.
            {"bn1": INTERIOR, "bn2": INTERIOR, "bn3": RESIDUAL_LAST},
        )
        for positions in ("one", "decomposed")
    ),
    Case(
        "residual_logits",
        residual_logits,
        {"ln1": RESIDUAL_LAST, "ln2": RESIDUAL_LAST, "final_ln": TRUNK},
    ),
    *(
        Case(
            f"attention_and_convolution_{name}",
            lambda separate=separate: attention_and_convolution(True, separate),
            # Neither term is the stream of the other: a sum of two branches, of which dw_bn scales
            # one; and ln scales the other, for dw_bn absorbs its part.
            {"ln": OTHER, "dw_bn": OTHER, "final_ln": TRUNK},
        )
        for name, separate in (("separate", True), ("fused", False))
    ),
    *(
        Case(
            f"attention_and_plain_convolution_{name}",
            lambda separate=separate: attention_and_convolution(False, separate),
            # Without a norm both terms scale with ln, and so does the branch.
            {"ln": RESIDUAL_LAST, "final_ln": TRUNK},
        )
        for name, separate in (("separate", True), ("fused", False))
    ),
    Case(
        "split_in_scales",
        split_in_scales,
        {
            # It scales the slices, which are added to what norms made of other slices.
            "bn1": TRUNK,
            "bn_s1": RESIDUAL_LAST,
            "bn_s2": RESIDUAL_LAST,
            "bn_s3": INTERIOR,  # read by bn3 alone
            "bn3": RESIDUAL_LAST,
        },
    ),
    *(
        Case(
            f"diffusion_{name}",
            lambda once=once: diffusion(once),
            {
                "b1_gn1": OTHER,  # the time does not scale with it, so gn2 does not absorb it
                "b1_gn2": RESIDUAL_LAST,
                "b2_gn1": OTHER,
                "b2_gn2": RESIDUAL_LAST,
                "out_gn": TRUNK,
            },
        )
        for name, once in (("activated_once", True), ("activated_each", False))
    ),
    Case(
        "class_conditional",
        class_conditional,
        {"b1_gn1": OTHER, "b1_gn2": RESIDUAL_LAST, "out_gn": TRUNK},
    ),
    # The skip is h, not what the condition adds, though h was made with the condition, too.
    Case("conditioned_in_every_block", conditioned_in_every_block, {"ln0": TRUNK, "ln1": TRUNK}),
    Case(
        "conditional_scale_and_shift",
        conditional_scale_and_shift,
        {"ln": OTHER, "final_ln": TRUNK},
    ),
    Case(
        "two_streams",
        two_streams,
        {"slow_bn": OTHER, "fast_bn": TRUNK, "lateral_bn": OTHER, "tail_bn": TRUNK},
    ),
    Case(
        "context_on_the_stream_norm",
        lambda: context_on_the_stream(True),
        # The map scales with stem_bn, the context does not: the skip alone carries it.
        {"stem_bn": TRUNK, "context_ln": RESIDUAL_LAST, "tail_bn": TRUNK},
    ),
    Case(
        "context_on_the_stream",
        lambda: context_on_the_stream(False),
        # Map and context scale with stem_bn alike: tail_bn absorbs both.
        {"stem_bn": INTERIOR, "tail_bn": TRUNK},
    ),
    Case(
        "global_context_block",
        global_context_block,
        # bn2 scales the map, context_ln takes its scale out of the context: the inner skip alone.
        {"bn1": INTERIOR, "bn2": TRUNK, "context_ln": RESIDUAL_LAST},
    ),
]
