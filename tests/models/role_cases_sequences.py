"""More designs for sequences, tables and graphs, with roles written by hand beforehand."""

import keras
from keras import layers, ops

from tests.models.role_parts import (
    INTERIOR,
    OTHER,
    RESIDUAL_LAST,
    SHORTCUT,
    TRUNK,
    Case,
    bn,
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


def rms(x, name):
    return layers.RMSNormalization(name=name)(x)


def split_heads(x, heads=2):
    return ops.transpose(ops.reshape(x, (-1, x.shape[1], heads, x.shape[2] // heads)), (0, 2, 1, 3))


def merge_heads(x):
    x = ops.transpose(x, (0, 2, 1, 3))
    return ops.reshape(x, (-1, x.shape[1], x.shape[2] * x.shape[3]))


def weigh(q, k):
    return ops.softmax(ops.matmul(q, ops.swapaxes(k, -1, -2)) / 2.0, axis=-1)


# --- transformers ------------------------------------------------------------


def latent_attention():
    """DeepSeek's: queries, and keys and values, by latents with norms; one key without."""
    x = tokens()
    h = rms(x, "rms1")
    q = dense(rms(dense(h, 4), "q_rms"))
    latent = rms(dense(h, 4), "kv_rms")
    k, v = dense(latent), dense(latent)
    k = layers.Concatenate()([k, dense(h, 2)])
    q = layers.Concatenate()([q, dense(h, 2)])
    y = x + dense(ops.matmul(weigh(q, k), v))
    y = y + mlp(rms(y, "rms2"), "silu")
    return keras.Model(x, dense(rms(y, "final_rms"), 3))


@register
class Weaker(layers.Layer):
    """`a - λ·b` with a learned λ."""

    def build(self, shapes):
        self.weakness = self.add_weight(name="lambda", shape=(), initializer="ones")

    def call(self, a, b):
        return a - self.weakness * b


def differential_attention():
    """The difference of two attention maps; each head has a norm of its own afterwards."""
    x = tokens()
    h = rms(x, "rms1")
    q1, q2, k1, k2 = (split_heads(dense(h)) for _ in range(4))
    weights = Weaker()(weigh(q1, k1), weigh(q2, k2))
    y = rms(ops.matmul(weights, split_heads(dense(h))), "head_rms")
    y = x + dense(merge_heads(y))
    return keras.Model(x, dense(rms(y, "final_rms"), 3))


def external_attention():
    """Keys and values are weights: what is computed from the data weighs them only."""
    x = tokens()
    weights = ops.softmax(dense(ln(x, "ln"), 12), axis=1)
    weights = weights / (1e-9 + ops.sum(weights, axis=-1, keepdims=True))
    return keras.Model(x, dense(ln(x + dense(weights), "final_ln"), 3))


def attention_free():
    """Attention by exponentials of keys, written out, with a gate for queries."""
    x = tokens()
    h = ln(x, "ln")
    q, k, v = dense(h), ops.exp(dense(h)), dense(h)
    y = ops.cumsum(k * v, axis=1) / ops.cumsum(k, axis=1)
    y = x + dense(ops.sigmoid(q) * y)
    return keras.Model(x, dense(ln(y, "final_ln"), 3))


def elu_attention():
    """Linear attention: `elu + 1` of queries and keys."""
    x = tokens()
    h = ln(x, "ln")
    q, k = ops.elu(dense(h)) + 1.0, ops.elu(dense(h)) + 1.0
    state = ops.einsum("btk,btv->bkv", k, dense(h))
    total = ops.einsum("btk,bk->bt", q, ops.sum(k, axis=1))
    y = ops.einsum("btk,bkv->btv", q, state) / (total[..., None] + 1e-6)
    return keras.Model(x, dense(ln(x + dense(y), "final_ln"), 3))


def focal_modulation():
    """Contexts of growing width, each with a gate, are summed and multiplied with the query."""
    x = image()
    h = ln(x, "ln")
    q, context, gates = (layers.Conv2D(n, 1)(h) for n in (4, 4, 3))
    mixed = 0.0
    for level in range(2):
        context = layers.DepthwiseConv2D(3, padding="same", activation="gelu")(context)
        mixed = mixed + context * gates[..., level : level + 1]
    wide = layers.Activation("gelu")(ops.mean(context, axis=(1, 2), keepdims=True))
    mixed = mixed + wide * gates[..., 2:]
    y = x + layers.Conv2D(4, 1)(q * layers.Conv2D(4, 1)(mixed))
    return keras.Model(x, layers.Conv2D(3, 1)(ln(y, "final_ln")))


def two_residual_streams():
    """ResiDual: a post-norm stream, and the sum of all branches beside it."""
    x = tokens()
    h = total = dense(x)
    for i in range(2):
        a = self_attention(h) if i == 0 else mlp(h)
        h, total = ln(h + a, f"ln{i}"), total + a
    return keras.Model(x, dense(h + ln(total, "final_ln"), 3))


def adaptive_zero():
    """DiT: norms without γ are shifted and scaled, branches gated, by a condition with a norm."""
    x, c = tokens(), keras.Input((4,), name="condition")
    c_ = layers.Activation("silu")(ln(layers.Dense(8)(c), "c_ln"))
    h = x
    for branch in (self_attention, mlp):
        parts = layers.Dense(24)(c_)[:, None, :]
        shift, scale, gate = ops.split(parts, 3, axis=-1)
        y = layers.LayerNormalization(scale=False, center=False)(h)
        h = h + gate * branch(y * (1 + scale) + shift)
    return keras.Model([x, c], dense(h, 3))


@register
class Seeds(layers.Layer):
    """Learned queries, the same for every example."""

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def build(self, shape):
        self.seeds = self.add_weight(
            name="seeds", shape=(1, self.count, shape[-1]), initializer="random_normal"
        )

    def call(self, x):
        return ops.broadcast_to(self.seeds, (ops.shape(x)[0], self.count, x.shape[-1]))


def set_transformer():
    """Induced attention, then pooling by a learned seed; post-norm blocks."""
    x = tokens()

    def block(q, kv, name):
        h = ln(q + self_attention(q, kv), f"{name}_ln1")
        return ln(h + dense(h, activation="relu"), f"{name}_ln2")

    h = dense(x)
    h = block(h, block(Seeds(3)(h), h, "in"), "out")
    h = block(Seeds(1)(h), dense(h, activation="relu"), "pool")
    return keras.Model(x, layers.Dense(2)(layers.Flatten()(h)))


def top_one_experts():
    """A switch: each token goes to the likeliest expert, and is scaled by its gate."""
    x = tokens()
    h = ln(x, "ln")
    gates = ops.softmax(dense(h, 3))
    chosen = ops.one_hot(ops.argmax(gates, axis=-1), 3)
    gate = ops.sum(gates * chosen, axis=-1, keepdims=True)
    experts = ops.stack([mlp(h) for _ in range(3)], axis=2)
    y = ops.sum(experts * chosen[..., None], axis=2) * gate
    return keras.Model(x, dense(ln(x + y, "final_ln"), 3))


def transformer_in_transformer():
    """Pixels of a patch have a stream of their own, which is added to that of the patches."""
    x = keras.Input((16, 4))  # 4 patches of 4 pixels
    pixels = dense(x, 4)
    patches = dense(ln(ops.reshape(pixels, (-1, 4, 16)), "embed_ln"))
    pixels = pixels + mlp(ln(pixels, "in_ln"))
    patches = patches + dense(ln(ops.reshape(pixels, (-1, 4, 16)), "to_patches_ln"))
    patches = patches + self_attention(ln(patches, "out_ln"))
    return keras.Model(x, dense(ln(patches, "final_ln"), 3))


# --- speech and signals ------------------------------------------------------


def squeezeformer():
    """Post-norm blocks; the convolution module has a batch norm inside."""
    x = tokens()
    h = ln(x + self_attention(x), "ln1")
    y = layers.Activation("silu")(dense(h, 16))
    y = bn(layers.DepthwiseConv1D(3, padding="same")(y), "conv_bn")
    y = dense(layers.Activation("silu")(y))
    h = ln(h + y, "ln2")
    h = ln(h + 0.5 * mlp(h, "silu"), "ln3")
    return keras.Model(x, dense(h, 3))


def glu(x):
    a, b = ops.split(x, 2, axis=-1)
    return a * ops.sigmoid(b)


def separated_sources():
    """Demucs: gated convolutions, an LSTM in the middle, additive skips."""
    x = keras.Input((16, 2))

    def encode(t, width, name):
        t = layers.Conv1D(width, 4, strides=2, padding="same")(t)
        t = relu(layers.GroupNormalization(2, name=f"{name}_gn1")(t))
        return glu(layers.GroupNormalization(2, name=f"{name}_gn2")(dense(t, 2 * width)))

    e1 = encode(x, 4, "e1")
    e2 = encode(e1, 8, "e2")
    h = e2 + dense(layers.Bidirectional(layers.LSTM(4, return_sequences=True))(e2))
    h = glu(layers.GroupNormalization(2, name="d2_gn1")(dense(h, 16)))
    h = layers.Conv1DTranspose(4, 4, strides=2, padding="same")(h)
    h = relu(layers.GroupNormalization(2, name="d2_gn2")(h))
    return keras.Model(x, layers.Conv1DTranspose(2, 4, strides=2, padding="same")(e1 + h))


def convolution_bank():
    """Tacotron's: a bank of convolutions, a projection back to the input, a highway, a GRU."""
    x = tokens()
    bank = [
        bn(layers.Conv1D(4, k, padding="same", activation="relu")(x), f"bank{k}_bn") for k in (1, 2)
    ]
    h = layers.MaxPooling1D(2, 1, padding="same")(layers.Concatenate()(bank))
    h = bn(layers.Conv1D(8, 3, padding="same", activation="relu")(h), "proj1_bn")
    h = x + bn(layers.Conv1D(8, 3, padding="same")(h), "proj2_bn")
    gate = dense(h, activation="sigmoid")
    h = gate * dense(h, activation="relu") + (1.0 - gate) * h
    return keras.Model(x, dense(layers.GRU(8, return_sequences=True)(h), 3))


def statistics_pooling():
    """ECAPA: mean and deviation over time, weighed by an attention with a norm of its own."""
    x = tokens()
    h = bn(layers.Conv1D(8, 3, padding="same", activation="relu")(x), "in_bn")
    w = ops.tanh(bn(dense(h, 4), "attention_bn"))
    w = ops.softmax(dense(w), axis=1)
    mean = ops.sum(w * h, axis=1)
    variance = ops.sum(w * ops.square(h), axis=1) - ops.square(mean)
    pooled = layers.Concatenate()([mean, ops.sqrt(ops.maximum(variance, 1e-6))])
    return keras.Model(x, layers.Dense(3)(bn(pooled, "pool_bn")))


@register
class SpectralConv(layers.Layer):
    """Mixes channels at each low frequency."""

    def build(self, shape):
        size = (3, shape[-1], shape[-1])
        self.real = self.add_weight(name="real", shape=size, initializer="random_normal")
        self.imag = self.add_weight(name="imag", shape=size, initializer="random_normal")

    def call(self, x):
        real, imag = ops.rfft(ops.swapaxes(x, 1, 2))
        real, imag = (ops.transpose(t[..., :3], (0, 2, 1)) for t in (real, imag))

        def mix(t, kernel):
            return ops.einsum("bfi,fio->bfo", t, kernel)

        parts = (
            mix(real, self.real) - mix(imag, self.imag),
            mix(real, self.imag) + mix(imag, self.real),
        )
        parts = tuple(ops.pad(ops.swapaxes(p, 1, 2), [[0, 0], [0, 0], [0, 2]]) for p in parts)
        return ops.swapaxes(ops.irfft(parts), 1, 2)


def neural_operator():
    """A Fourier operator and a pointwise one, both linear, are summed."""
    x = tokens(8, 4)
    h = dense(x, 4)
    for name in ("bn1", "bn2"):
        h = layers.Activation("gelu")(bn(SpectralConv()(h) + dense(h, 4), name))
    return keras.Model(x, dense(h, 2))


# --- recurrent, iterated -----------------------------------------------------


@register
class NormedCell(layers.Layer):
    """An LSTM cell with a norm in front of its gates."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.state_size, self.output_size = units, [units, units], units
        self.kernel = layers.Dense(4 * units, use_bias=False)
        self.recurrent = layers.Dense(4 * units, use_bias=False)
        self.norm = layers.LayerNormalization(name="gates_ln")

    def build(self, shape):
        self.kernel.build(shape)
        self.recurrent.build((shape[0], self.units))
        self.norm.build((shape[0], 4 * self.units))

    def call(self, x, states):
        h, c = states
        gates = self.norm(self.kernel(x) + self.recurrent(h))
        i, f, o, g = ops.split(gates, 4, axis=-1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(c)
        return h, [h, c]


def normed_recurrence():
    x = tokens(4, 8)
    h = layers.RNN(NormedCell(8), return_sequences=True)(x)
    return keras.Model(x, dense(ln(h, "final_ln"), 3))


@register
class Field(layers.Layer):
    """The right-hand side of a differential equation."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization(name="ln")
        self.inner, self.outer = layers.Dense(8, "relu"), layers.Dense(8)

    def call(self, x):
        return self.outer(self.inner(self.norm(x)))


def runge_kutta():
    """Two steps of the midpoint rule through one field."""
    x = tokens()
    field, h = Field(name="field"), dense(x)
    for _ in range(2):
        middle = h + 0.05 * field(h)
        h = h + 0.1 * field(middle)
    return keras.Model(x, dense(h, 3))


def equilibrium():
    """The same layer again and again, with the input injected each time."""
    x = tokens()
    injected, inside = dense(x), layers.Dense(8, "relu", use_bias=False)
    norm = layers.LayerNormalization(name="ln")
    z = norm(injected)
    for _ in range(2):
        z = norm(injected + inside(z))
    return keras.Model(x, dense(z, 3))


# --- tables, graphs, probability ---------------------------------------------


def backcasts():
    """N-BEATS: each block takes off what it explains; what it forecasts is summed."""
    x = keras.Input((8,))
    h, forecasts = x, []
    for name in ("ln1", "ln2", "ln3"):
        y = relu(ln(dense(h, 12), name))
        forecasts.append(dense(y, 3))
        h = h - dense(y)
    return keras.Model(x, layers.Add()(forecasts))


def coupled_flow():
    """Affine couplings, whose scale and shift are read off one hidden layer."""
    x = keras.Input((8,))
    a, b = ops.split(x, 2, axis=-1)
    for name in ("bn1", "bn2"):
        h = relu(bn(dense(a, 12), name))
        a, b = b * ops.exp(ops.tanh(dense(h, 4))) + dense(h, 4), a
    return keras.Model(x, layers.Concatenate()([a, b]))


@register
class Sampling(layers.Layer):
    """The same noise each time, so that two runs can be compared."""

    def call(self, mean, log_variance):
        noise = keras.random.normal(ops.shape(mean), seed=1)
        return mean + ops.exp(0.5 * log_variance) * noise


def variational():
    """The mean is linear in the last hidden layer, the noise's scale is not."""
    x = keras.Input((8,))
    h = relu(bn(dense(x, 12), "encoder_bn"))
    z = Sampling()(dense(h, 4), dense(h, 4))
    return keras.Model(x, dense(relu(bn(dense(z, 12), "decoder_bn")), 8))


def initial_residual():
    """GCNII: every layer adds a part of the first one's output, and of its own input."""
    x, adjacency = tokens(), keras.Input((6, 6), name="adjacency")
    first = h = relu(bn(dense(x), "in_bn"))
    for name in ("bn1", "bn2"):
        s = 0.9 * ops.matmul(adjacency, h) + 0.1 * first
        h = relu(bn(0.5 * s + 0.5 * dense(s), name))
    return keras.Model([x, adjacency], dense(h, 3))


def hadamard_fusion():
    """Two inputs are multiplied, and normalized together."""
    x, c = keras.Input((8,)), keras.Input((4,), name="words")
    y = bn(dense(x), "x_bn") * ops.tanh(dense(ln(dense(c), "c_ln")))
    return keras.Model([x, c], dense(relu(bn(dense(y), "fused_bn")), 3))


def hyper_network():
    """A condition becomes the weights of a branch."""
    x, c = tokens(), keras.Input((4,), name="condition")
    kernel = ops.reshape(dense(ln(dense(c), "c_ln"), 64), (-1, 8, 8))
    y = x + relu(ops.matmul(ln(x, "ln"), kernel))
    return keras.Model([x, c], dense(y, 3))


@register
class AngularHead(layers.Layer):
    """Cosines between embeddings and classes, times a number."""

    def build(self, shape):
        self.kernel = self.add_weight(name="kernel", shape=(shape[-1], 3))

    def call(self, x):
        return 16.0 * ops.matmul(ops.normalize(x, axis=-1), ops.normalize(self.kernel, axis=0))


def angular_head():
    x = keras.Input((8,))
    h = relu(bn(dense(x, 12), "bn1"))
    return keras.Model(x, AngularHead()(bn(dense(h), "embedding_bn")))


CASES = [
    # The key without a norm reaches the logits, and the sum through them alone.
    Case(
        "latent_attention",
        latent_attention,
        {
            "rms1": OTHER,
            "q_rms": OTHER,
            "kv_rms": RESIDUAL_LAST,
            "rms2": RESIDUAL_LAST,
            "final_rms": TRUNK,
        },
    ),
    Case(
        "differential_attention",
        differential_attention,
        {"rms1": INTERIOR, "head_rms": RESIDUAL_LAST, "final_rms": TRUNK},
    ),
    Case("external_attention", external_attention, {"ln": OTHER, "final_ln": TRUNK}),
    Case("attention_free", attention_free, {"ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case("elu_attention", elu_attention, {"ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case("focal_modulation", focal_modulation, {"ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    # Of the last sum both operands are linear in the last branch.
    Case(
        "two_residual_streams",
        two_residual_streams,
        {"ln0": TRUNK, "ln1": OTHER, "final_ln": OTHER},
    ),
    Case("adaptive_zero", adaptive_zero, {"c_ln": TRUNK}),
    Case(
        "set_transformer",
        set_transformer,
        {
            # Its block lies in the branch of the next one: in_ln2 absorbs both operands.
            "in_ln1": INTERIOR,
            "in_ln2": RESIDUAL_LAST,
            "out_ln1": TRUNK,
            "out_ln2": INTERIOR,
            "pool_ln1": TRUNK,
            "pool_ln2": TRUNK,
        },
    ),
    Case("top_one_experts", top_one_experts, {"ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case(
        "transformer_in_transformer",
        transformer_in_transformer,
        {
            "embed_ln": SHORTCUT,
            "in_ln": RESIDUAL_LAST,
            "to_patches_ln": RESIDUAL_LAST,
            "out_ln": RESIDUAL_LAST,
            "final_ln": TRUNK,
        },
    ),
    Case(
        "squeezeformer",
        squeezeformer,
        {"ln1": TRUNK, "conv_bn": RESIDUAL_LAST, "ln2": TRUNK, "ln3": TRUNK},
    ),
    # The LSTM and its skip lie within the branch of the outer skip: e2_gn2 scales both.
    Case(
        "separated_sources",
        separated_sources,
        {
            "e1_gn1": INTERIOR,
            "e1_gn2": TRUNK,
            "e2_gn1": INTERIOR,
            "e2_gn2": INTERIOR,
            "d2_gn1": INTERIOR,
            "d2_gn2": RESIDUAL_LAST,
        },
    ),
    Case(
        "convolution_bank",
        convolution_bank,
        {
            "bank1_bn": INTERIOR,
            "bank2_bn": INTERIOR,
            "proj1_bn": INTERIOR,
            "proj2_bn": RESIDUAL_LAST,
        },
    ),
    Case(
        "statistics_pooling",
        statistics_pooling,
        {"in_bn": INTERIOR, "attention_bn": OTHER, "pool_bn": TRUNK},
    ),
    Case("neural_operator", neural_operator, {"bn1": INTERIOR, "bn2": TRUNK}),
    # A step's norm reaches one term of the next state alone, and gates the other.
    Case("normed_recurrence", normed_recurrence, {"gates_ln": OTHER, "final_ln": TRUNK}),
    Case("runge_kutta", runge_kutta, {"field/ln": RESIDUAL_LAST}),
    # The input, as it is injected, is the skip; the first and the last call stand elsewhere.
    Case(
        "equilibrium",
        equilibrium,
        {"ln": (RESIDUAL_LAST, RESIDUAL_LAST, TRUNK)},
    ),
    # The first forecast is linear in the fork of the sum, which ln1 scales.
    Case("backcasts", backcasts, {"ln1": TRUNK, "ln2": RESIDUAL_LAST, "ln3": RESIDUAL_LAST}),
    # The shift is linear in the hidden layer, and counts as a skip; the scale is a branch.
    Case("coupled_flow", coupled_flow, {"bn1": TRUNK, "bn2": TRUNK}),
    Case("variational", variational, {"encoder_bn": TRUNK, "decoder_bn": TRUNK}),
    Case(
        "initial_residual",
        initial_residual,
        {"in_bn": TRUNK, "bn1": RESIDUAL_LAST, "bn2": TRUNK},
    ),
    Case(
        "hadamard_fusion",
        hadamard_fusion,
        {"x_bn": INTERIOR, "c_ln": INTERIOR, "fused_bn": TRUNK},
    ),
    Case("hyper_network", hyper_network, {"c_ln": TRUNK, "ln": RESIDUAL_LAST}),
    Case("angular_head", angular_head, {"bn1": INTERIOR, "embedding_bn": INTERIOR}),
]
