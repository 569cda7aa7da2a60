"""Models as people write them: classes, lists of blocks, dicts, wrappers; roles by hand."""

import keras
from keras import layers, ops

from tests.models.role_parts import (
    INTERIOR,
    OTHER,
    RESIDUAL_LAST,
    TRUNK,
    Case,
    bn,
    ln,
    mlp,
    register,
    relu,
    self_attention,
    tokens,
)


@register
class PreNorm(layers.Layer):
    """A function of what a norm makes of its input; whoever calls it adds."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.norm, self.function = layers.LayerNormalization(name="ln"), function

    def call(self, x, **kwargs):
        return self.function(self.norm(x), **kwargs)


@register
class SelfAttention(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 4)

    def call(self, x, context=None):
        return self.attention(x, x if context is None else context)


@register
class Listed(keras.Model):
    """Blocks are kept as a list of lists, and looped over; the last one is called twice more."""

    def __init__(self, depth=2, **kwargs):
        super().__init__(**kwargs)
        self.embed = layers.Dense(8)
        self.blocks = [
            [
                PreNorm(SelfAttention(), name=f"attention{i}"),
                PreNorm(keras.Sequential([layers.Dense(12, "gelu"), layers.Dense(8)]),
                        name=f"mlp{i}"),
            ]
            for i in range(depth)
        ]  # fmt: skip
        self.norm, self.head = layers.LayerNormalization(name="final_ln"), layers.Dense(3)

    def call(self, x):
        x = self.embed(x)
        for attention, mlp_ in [*self.blocks, *self.blocks[-1:] * 2]:
            x = attention(x) + x
            x = mlp_(x) + x
        return self.head(self.norm(x))


@register
class Captioner(keras.Model):
    """Inputs and outputs are dicts; words look at pixels through a gate that starts at zero."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = layers.Conv2D(8, 4, strides=4)
        self.stem_bn = layers.BatchNormalization(name="stem_bn")
        self.pixel_ln = layers.LayerNormalization(name="pixel_ln")
        self.words = layers.Embedding(20, 8)
        self.cross = PreNorm(SelfAttention(), name="cross")
        self.feed = PreNorm(layers.Dense(8, "relu"), name="feed")
        self.norm, self.head = layers.LayerNormalization(name="final_ln"), layers.Dense(20)

    def build(self, shapes):
        self.gate = self.add_weight(name="gate", shape=(), initializer="zeros")

    def call(self, inputs, training=False):
        pixels = ops.relu(self.stem_bn(self.stem(inputs["image"]), training=training))
        pixels = self.pixel_ln(ops.reshape(pixels, (-1, 4, 8)))
        x = self.words(inputs["words"])
        x = x + ops.tanh(self.gate) * self.cross(x, context=pixels)
        x = x + self.feed(x)
        return {"logits": self.head(self.norm(x)), "summary": ops.mean(pixels, axis=1)}


def captioner_inputs():
    return {
        "image": keras.KerasTensor((None, 8, 8, 3)),
        "words": keras.KerasTensor((None, 5), dtype="int32"),
    }


@register
class GraphNet(keras.Model):
    """Messages along edges, found by index, are summed for each node."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embed = layers.Dense(8)
        self.norms = [layers.LayerNormalization(name=f"ln{i}") for i in range(2)]
        self.messages = [layers.Dense(8, "relu") for _ in range(2)]
        self.updates = [layers.Dense(8) for _ in range(2)]
        self.norm, self.head = layers.LayerNormalization(name="final_ln"), layers.Dense(3)

    def call(self, inputs):
        nodes, edges = inputs
        senders, receivers = edges[:, 0], edges[:, 1]
        h = self.embed(nodes)
        for norm, message, update in zip(self.norms, self.messages, self.updates, strict=True):
            n = norm(h)
            sent = message(ops.take(n, senders, axis=0))
            received = ops.segment_sum(sent, receivers, num_segments=6)
            h = h + update(ops.concatenate([n, received], axis=-1))
        return self.head(self.norm(h))


def graph_inputs():
    return [keras.KerasTensor((6, 4)), keras.KerasTensor((10, 2), dtype="int32")]


@register
class Encoder(layers.Layer):
    """Returns the map, and what it was before, as a dict."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(filters, 3, padding="same")
        self.norm = layers.BatchNormalization(name="bn")
        self.pool = layers.MaxPooling2D(2)

    def call(self, x, training=None):
        x = ops.relu(self.norm(self.conv(x), training=training))
        return {"skip": x, "next": self.pool(x)}


@register
class DictNet(keras.Model):
    """An encoder and decoder with additive skips, in a loop over dicts."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encoders = {str(i): Encoder(4, name=f"e{i}") for i in range(2)}
        self.middle = layers.Conv2D(4, 3, padding="same")
        self.ups = [layers.Conv2DTranspose(4, 2, strides=2) for _ in range(2)]
        self.norms = [layers.BatchNormalization(name=f"up{i}_bn") for i in range(2)]
        self.head = layers.Conv2D(2, 1)

    def call(self, x, training=None):
        skips = []
        for encoder in self.encoders.values():
            found = encoder(x, training=training)
            skips.append(found["skip"])
            x = found["next"]
        x = ops.relu(self.middle(x))
        for up, norm, skip in zip(self.ups, self.norms, reversed(skips), strict=True):
            x = ops.relu(norm(up(x), training=training)) + skip
        return self.head(x)


@register
class Residual(layers.Wrapper):
    """Adds its input to what a layer makes of it."""

    def call(self, x):
        return x + self.layer(x)


def wrapped():
    x = tokens()
    h = x
    for name in ("a", "b"):
        branch = keras.Sequential(
            [
                layers.LayerNormalization(name=f"{name}_ln"),
                layers.Dense(12, "relu"),
                layers.Dense(8),
            ],
            name=name,
        )
        h = Residual(branch)(h)
    return keras.Model(x, layers.Dense(3)(ln(h, "final_ln")))


def time_distributed():
    """A norm, and a small model with one, for each time step."""
    x = tokens()
    step = keras.Sequential(
        [layers.Dense(12), layers.BatchNormalization(name="step_bn"), layers.ReLU(),
         layers.Dense(8)], name="step",
    )  # fmt: skip
    y = layers.TimeDistributed(layers.LayerNormalization(name="ln"))(x)
    h = x + layers.TimeDistributed(step)(y)
    return keras.Model(x, layers.Dense(3)(layers.Bidirectional(layers.GRU(4))(ln(h, "last_ln"))))


@register
class GatedRMS(layers.Layer):
    """A norm of two tensors: of one that is gated by the other before, or after."""

    def __init__(self, norm_first, **kwargs):
        super().__init__(**kwargs)
        self.norm_first, self.epsilon = norm_first, 1e-6

    def build(self, shape, *shapes):
        self.scale = self.add_weight(name="scale", shape=(shape[-1],), initializer="ones")

    def call(self, x, gate):
        if not self.norm_first:
            x = x * ops.silu(gate)
        x = x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + self.epsilon)
        return x * self.scale * (ops.silu(gate) if self.norm_first else 1.0)


def gated_norm(norm_first):
    x = tokens()
    h = ln(x, "ln")
    y = layers.Conv1D(8, 3, padding="causal", activation="silu")(h)
    y = GatedRMS(norm_first, name="gated")(y, layers.Dense(8)(h))
    return keras.Model(x, layers.Dense(3)(ln(x + layers.Dense(8)(y), "final_ln")))


@register
class ScaleNorm(layers.Layer):
    """One number for all channels."""

    def build(self, shape):
        self.g = self.add_weight(name="g", shape=(), initializer="ones")

    def call(self, x):
        return self.g * x / ops.maximum(ops.norm(x, axis=-1, keepdims=True), 1e-6)


def one_scale():
    x = tokens()
    h = x + self_attention(ScaleNorm(name="norm1")(x))
    h = h + mlp(ScaleNorm(name="norm2")(h))
    return keras.Model(x, layers.Dense(3)(ScaleNorm(name="final")(h)))


@register
class Standardize(layers.Layer):
    """Keras' own function for the norm, with weights of its own."""

    def build(self, shape):
        self.g = self.add_weight(name="g", shape=(shape[-1],), initializer="ones")
        self.b = self.add_weight(name="b", shape=(shape[-1],), initializer="zeros")

    def call(self, x):
        return ops.layer_normalization(x, self.g, self.b, axis=-1, epsilon=1e-6)


def by_function():
    x = tokens()
    h = x + mlp(Standardize(name="norm1")(x))
    return keras.Model(x, layers.Dense(3)(Standardize(name="final")(h)))


@ops.custom_gradient
def reverse_gradient(x):
    def grad(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream
        return -upstream

    return x * 1.0, grad


@register
class Reversal(layers.Layer):
    def call(self, x):
        return reverse_gradient(x)


@register
class Adversarial(keras.Model):
    """Labels are read off the features, and domains through a reversed gradient."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = keras.Sequential(
            [layers.Dense(12), layers.BatchNormalization(name="in_bn"), layers.ReLU(),
             layers.Dense(8), layers.BatchNormalization(name="feature_bn")]
        )  # fmt: skip
        self.labels, self.reversal = layers.Dense(3), Reversal()
        self.domains = keras.Sequential(
            [layers.Dense(8), layers.BatchNormalization(name="domain_bn"), layers.ReLU(),
             layers.Dense(2)]
        )  # fmt: skip

    def call(self, x, training=None):
        features = self.body(x, training=training)
        return self.labels(features), self.domains(self.reversal(features), training=training)


def adversarial_inputs():
    return keras.KerasTensor((None, 8))


@register
class Contrastive(keras.Model):
    """Two views through one encoder and projector; a predictor on one side; cosines."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        x = keras.Input((8,))
        h = relu(bn(layers.Dense(12)(x), "encoder_bn"))
        self.encoder = keras.Model(x, bn(layers.Dense(8)(h), "projector_bn"))
        self.predictor = keras.Sequential(
            [layers.Dense(4), layers.BatchNormalization(name="predictor_bn"), layers.ReLU(),
             layers.Dense(8)]
        )  # fmt: skip

    def call(self, views):
        first, second = (self.encoder(view) for view in views)
        first, second = (
            ops.normalize(t, axis=-1) for t in (self.predictor(first), ops.stop_gradient(second))
        )
        return ops.sum(first * second, axis=-1)


def views():
    return [keras.KerasTensor((None, 8)), keras.KerasTensor((None, 8))]


@register
class Recomputed(layers.Layer):
    """Its branch is computed again for the gradient."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization(name="ln")
        with keras.RematScope(mode="full"):
            self.hidden = layers.Dense(12, activation="relu")
            self.last = layers.Dense(8)

    def call(self, x):
        return x + self.last(self.hidden(self.norm(x)))


def recomputed():
    x = tokens()
    return keras.Model(x, layers.Dense(3)(ln(Recomputed(name="a")(x), "final_ln")))


@register
class PerSample(keras.Model):
    """Keys of a table, found for each sample, are compared with what is read off it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.users, self.items = layers.Embedding(10, 8), layers.Embedding(20, 8)
        self.user_bn = layers.BatchNormalization(name="user_bn")
        self.item_bn = layers.BatchNormalization(name="item_bn")
        self.dense = layers.Dense(8, "relu")

    def call(self, inputs):
        user = self.user_bn(self.users(inputs["user"]))
        item = self.item_bn(self.dense(self.items(inputs["item"])))
        return ops.sigmoid(ops.sum(user * item, axis=-1, keepdims=True))


def ratings():
    return {name: keras.KerasTensor((None,), dtype="int32") for name in ("user", "item")}


CASES = [
    Case(
        "listed",
        Listed,
        {
            **{f"{n}{i}/ln": RESIDUAL_LAST for n in ("attention", "mlp") for i in range(2)},
            "final_ln": TRUNK,
        },
        lambda: keras.KerasTensor((None, 6, 4)),
    ),
    # The words' norm stands in front of the queries alone; the pixels' is an output besides.
    Case(
        "captioner",
        Captioner,
        {
            "stem_bn": INTERIOR,
            "pixel_ln": TRUNK,
            "cross/ln": OTHER,
            "feed/ln": RESIDUAL_LAST,
            "final_ln": TRUNK,
        },
        captioner_inputs,
    ),
    Case(
        "graph_net",
        GraphNet,
        {"ln0": RESIDUAL_LAST, "ln1": RESIDUAL_LAST, "final_ln": TRUNK},
        graph_inputs,
    ),
    # The upper skip is the fork of the upper sum; the lower one of the lower.
    Case(
        "dict_net",
        DictNet,
        {
            "e0/bn": TRUNK,
            "e1/bn": TRUNK,
            "up0_bn": RESIDUAL_LAST,
            "up1_bn": RESIDUAL_LAST,
        },
        lambda: keras.KerasTensor((None, 8, 8, 3)),
    ),
    Case("wrapped", wrapped, {"a_ln": RESIDUAL_LAST, "b_ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case(
        "time_distributed",
        time_distributed,
        {"ln": INTERIOR, "step_bn": RESIDUAL_LAST, "last_ln": TRUNK},
    ),
    Case(
        "gated_norm_after",
        lambda: gated_norm(False),
        {"ln": INTERIOR, "gated": RESIDUAL_LAST, "final_ln": TRUNK},
    ),
    # The gate carries the scale past the norm.
    Case(
        "gated_norm_before",
        lambda: gated_norm(True),
        {"ln": RESIDUAL_LAST, "gated": RESIDUAL_LAST, "final_ln": TRUNK},
    ),
    Case("one_scale", one_scale, {"norm1": RESIDUAL_LAST, "norm2": RESIDUAL_LAST, "final": TRUNK}),
    Case("by_function", by_function, {"norm1": RESIDUAL_LAST, "final": TRUNK}),
    Case(
        "adversarial",
        Adversarial,
        {"in_bn": INTERIOR, "feature_bn": TRUNK, "domain_bn": TRUNK},
        adversarial_inputs,
    ),
    Case(
        "contrastive",
        Contrastive,
        dict.fromkeys(("encoder_bn", "projector_bn", "predictor_bn"), INTERIOR),
        views,
    ),
    Case("recomputed", recomputed, {"a/ln": RESIDUAL_LAST, "final_ln": TRUNK}),
    Case("per_sample", PerSample, {"user_bn": TRUNK, "item_bn": TRUNK}, ratings),
]
