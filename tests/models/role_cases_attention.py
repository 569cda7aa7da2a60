"""Transformers and their kin with hand-written roles."""

import itertools

import keras
from keras import layers, ops

from tests.models.role_parts import (
    INTERIOR,
    OTHER,
    RESIDUAL_LAST,
    TRUNK,
    Attention,
    Case,
    LayerScale,
    SharedBlock,
    Table,
    bn,
    ln,
    mlp,
    self_attention,
    tokens,
)


def encoder_block(x, name):
    x = layers.Add()([x, self_attention(ln(x, f"{name}_ln1"))])
    return layers.Add()([x, mlp(ln(x, f"{name}_ln2"), "gelu")])


def pre_norm():
    x = tokens()
    y = encoder_block(encoder_block(x, "b1"), "b2")
    return keras.Model(x, layers.Dense(3, activation="softmax")(ln(y, "final_ln")))


PRE_NORM = {
    "b1_ln1": RESIDUAL_LAST,
    "b1_ln2": RESIDUAL_LAST,
    "b2_ln1": RESIDUAL_LAST,
    "b2_ln2": RESIDUAL_LAST,
    "final_ln": TRUNK,
}


def post_norm():
    x = tokens()
    y = ln(x, "emb_ln")
    y = ln(layers.Add()([y, self_attention(y)]), "ln1")
    y = ln(layers.Add()([y, mlp(y, "gelu")]), "ln2")
    return keras.Model(x, layers.Dense(3)(y))


def sandwich_norm():
    """A norm before and one after the sub-layer (Gemma 2, Swin v2): the last one counts."""
    x = tokens()
    y = layers.Add()([x, ln(self_attention(ln(x, "ln1")), "ln1_post")])
    y = layers.Add()([y, ln(mlp(ln(y, "ln2")), "ln2_post")])
    return keras.Model(x, layers.Dense(3)(y))


def sandwich_query_key_norm():
    """Gemma 3: query and key norms inside a sandwich still set nothing but a temperature."""
    x = tokens()
    y = Attention(8, heads=2, qk_norm=True, name="attention")(ln(x, "ln"))
    return keras.Model(x, layers.Dense(3)(layers.Add()([x, ln(y, "post_ln")])))


def encoder_decoder():
    source, target = tokens(5, name="source"), tokens(6, name="target")
    memory = ln(encoder_block(source, "enc"), "enc_final")
    y = layers.Add()([target, self_attention(ln(target, "dec_self"), use_causal_mask=True)])
    y = layers.Add()([y, self_attention(ln(y, "dec_cross"), memory)])
    y = layers.Add()([y, mlp(ln(y, "dec_mlp"))])
    return keras.Model([source, target], layers.Dense(3)(ln(y, "dec_final")))


def encoder_decoder_post_norm():
    source, target = tokens(5, name="source"), tokens(6, name="target")
    memory = ln(layers.Add()([source, self_attention(source)]), "enc_ln1")
    memory = ln(layers.Add()([memory, mlp(memory)]), "enc_ln2")
    y = ln(layers.Add()([target, self_attention(target)]), "dec_ln1")
    y = ln(layers.Add()([y, self_attention(y, memory)]), "dec_ln2")
    y = ln(layers.Add()([y, mlp(y)]), "dec_ln3")
    return keras.Model([source, target], layers.Dense(3)(y))


def separate_norms():
    """One norm for the queries, one for the keys, one for the values."""
    x = tokens()
    q, k, v = (ln(x, f"{name}_ln") for name in ("query", "key", "value"))
    y = layers.Add()([x, self_attention(q, v, k)])
    return keras.Model(x, layers.Dense(3)(y))


def dot_attention_layer():
    """keras.layers.Attention takes [query, value]; the value is the key as well."""
    x = tokens()
    y = layers.Attention()([ln(x, "query_ln"), ln(x, "value_ln")])
    return keras.Model(x, layers.Dense(3)(layers.Add()([x, y])))


def grouped_query():
    x = tokens()
    h = ln(x, "ln")
    y = layers.GroupQueryAttention(head_dim=4, num_query_heads=2, num_key_value_heads=1)(h, h)
    return keras.Model(x, layers.Dense(3)(layers.Add()([x, y])))


def masked_single_head():
    """Keras applies the padding mask inside the softmax; with one head the shapes are alike."""
    x = tokens()
    mask = keras.Input((6, 6), dtype="bool", name="mask")
    y = layers.Add()([x, self_attention(ln(x, "ln"), heads=1, attention_mask=mask)])
    return keras.Model([x, mask], layers.Dense(3)(y))


def embedding_mask():
    """Keras' implicit mask, from the embedding down into the attention."""
    ids = keras.Input((6,), dtype="int32")
    x = layers.Embedding(11, 8, mask_zero=True)(ids)
    y = layers.Add()([x, self_attention(ln(x, "ln"), heads=1)])
    return keras.Model(ids, layers.Dense(3)(y))


def own_attention(**kwargs):
    """The written-out attention of role_parts as the branch of a pre-norm block."""
    x = tokens()
    y = x + Attention(8, name="attention", **kwargs)(ln(x, "ln"))
    y = y + mlp(ln(y, "mlp_ln"))
    return keras.Model(x, layers.Dense(3)(ln(y, "final_ln")))


def attention_in_the_open(mask):
    """Attention as a bare graph of operations, the mask's sum with the logits included."""
    x = tokens()
    h = ln(x, "ln")
    q, k = ln(layers.Dense(4)(h), "q_norm"), ln(layers.Dense(4)(h), "k_norm")
    logits = ops.matmul(q, ops.transpose(k, (0, 2, 1)))
    inputs = [x]
    if mask:
        inputs.append(keras.Input((6, 6), name="mask"))
        logits = layers.Add()([logits, inputs[1]])
    y = ops.matmul(layers.Softmax()(logits), layers.Dense(8)(h))
    return keras.Model(inputs, layers.Dense(3)(x + layers.Dense(8)(y)))


IN_THE_OPEN = {"ln": RESIDUAL_LAST, "q_norm": OTHER, "k_norm": OTHER}


def fourier(x):
    """The real part of the discrete Fourier transform over tokens and features: linear."""
    return ops.fft2((x, ops.zeros_like(x)))[0]


def fixed_mixing(x):
    """Any fixed linear mixing of the tokens."""
    return layers.Permute((2, 1))(layers.Dense(6, use_bias=False)(layers.Permute((2, 1))(x)))


def fnet(mix, post):
    x = tokens()
    if post:
        y = ln(x, "emb_ln")
        y = ln(layers.Add()([y, mix(y)]), "ln1")
        y = ln(layers.Add()([y, mlp(y)]), "ln2")
    else:
        y = layers.Add()([x, mix(ln(x, "ln1"))])
        y = layers.Add()([y, mlp(ln(y, "ln2"))])
    return keras.Model(x, layers.Dense(3)(y))


FNET_PRE = {"ln1": RESIDUAL_LAST, "ln2": RESIDUAL_LAST}


def parallel(join, shared):
    """GPT-J (one norm) and GPT-NeoX (two): x + attention + mlp, side by side."""
    x = tokens()
    a = ln(x, "ln1")
    b = a if shared else ln(x, "ln2")
    y = join(x, self_attention(a), mlp(b))
    return keras.Model(x, layers.Dense(3)(ln(y, "final_ln")))


# A chain of sums is one sum: association cannot change a role, for it does not change the function.
PARALLEL = {
    **{
        "add_" + "".join("xam"[i] for i in order): (
            lambda *terms, order=order: layers.Add()([terms[i] for i in order])
        )
        for order in itertools.permutations(range(3))
    },
    "x+a_then_m": lambda x, a, m: (x + a) + m,
    "x+m_then_a": lambda x, a, m: (x + m) + a,
    "m_then_x+a": lambda x, a, m: m + (x + a),
    "x_then_a+m": lambda x, a, m: x + (a + m),
    "a+m_then_x": lambda x, a, m: layers.Add()([layers.Add()([a, m]), x]),
}


def layer_scale():
    """ConvNeXt and CaiT: a variable scales the branch. It is a γ, but not a normalization's."""
    x = tokens()
    y = layers.Conv1D(8, 3, padding="same", groups=8)(x)
    y = x + LayerScale(name="scale1")(mlp(ln(y, "ln1"), "gelu"))
    y = y + LayerScale(name="scale2")(mlp(ln(y, "ln2"), "gelu"))
    return keras.Model(x, layers.Dense(3)(ln(y, "final_ln")))


def adaptive_norm():
    """AdaLN: scale and shift come from a condition and are spread over the tokens."""
    x = tokens()
    c = keras.Input((4,), name="condition")
    shift, scale, gate = (layers.Reshape((1, 8))(layers.Dense(8)(c)) for _ in range(3))
    h = ln(x, "ln") * (1.0 + scale) + shift
    y = x + gate * mlp(h)
    return keras.Model([x, c], layers.Dense(3)(ln(y, "final_ln")))


def gated_mlp():
    """SwiGLU: the branch multiplies two projections of the same norm."""
    x = tokens()
    h = layers.RMSNormalization(name="ffn_norm")(x)
    y = x + layers.Dense(8)(ops.silu(layers.Dense(12)(h)) * layers.Dense(12)(h))
    return keras.Model(x, layers.Dense(3)(layers.RMSNormalization(name="final_norm")(y)))


def embeddings():
    """Tokens and positions are added before any norm; their sum is nobody's branch."""
    ids, positions = (keras.Input((6,), dtype="int32", name=n) for n in ("ids", "positions"))
    y = layers.Add()([layers.Embedding(11, 8)(ids), layers.Embedding(6, 8)(positions)])
    y = ln(y, "emb_ln")
    y = ln(layers.Add()([y, mlp(y)]), "ln1")
    return keras.Model([ids, positions], layers.Dense(3)(y))


def normed_embeddings():
    """Two embeddings with a norm each: their sum has no fork."""
    ids, positions = (keras.Input((6,), dtype="int32", name=n) for n in ("ids", "positions"))
    a = ln(layers.Embedding(11, 8)(ids), "ids_ln")
    b = ln(layers.Embedding(6, 8)(positions), "positions_ln")
    y = layers.Add()([a, b])
    y = layers.Add()([y, mlp(ln(y, "ln1"))])
    return keras.Model([ids, positions], layers.Dense(3)(y))


def variable_sums():
    """A position table on the stream and one in the branch: sums with a variable, no joins.

    Taken for joins they would be sums without a fork, and their γ `other`.
    """
    x = tokens()
    y = Table(name="positions")(ln(x, "emb_ln"))
    y = y + mlp(Table(name="bias")(ln(y, "ln1")) + 0.5)
    return keras.Model(x, layers.Dense(3)(y))


def class_token():
    """ViT: a norm on the patches, a token concatenated in front, one row read at the end."""
    x = tokens()
    y = ln(layers.Dense(8)(x), "patch_ln")
    y = layers.Concatenate(axis=1)([y[:, :1] * 0.0, y])
    y = layers.Add()([y, self_attention(ln(y, "ln1"))])
    return keras.Model(x, layers.Dense(3)(ln(y, "final_ln")[:, 0]))


def recurrent(residual):
    """A recurrent layer normalizes nothing: what goes into it comes out of it, squashed."""
    x = tokens()
    y = layers.LSTM(8, return_sequences=residual)(ln(x, "ln"))
    return keras.Model(x, layers.Dense(3)(layers.Add()([x, y]) if residual else y))


def shared_norm():
    """One norm in front of a branch, and the same one at the end: two calls, two roles."""
    x = tokens()
    norm = layers.LayerNormalization(name="shared_ln")
    y = layers.Add()([x, mlp(norm(x))])
    return keras.Model(x, layers.Dense(3)(norm(y)))


def shared_block():
    """ALBERT: one block, called three times; its norm has the same role each time."""
    x = tokens()
    block = SharedBlock(8, name="block")
    return keras.Model(x, layers.Dense(3)(block(block(block(x)))))


def siamese():
    """One tower, called on two inputs, concatenated."""
    a, b, x = tokens(name="left"), tokens(name="right"), tokens()
    tower = keras.Model(x, bn(layers.Dense(4)(ln(layers.Dense(8)(x), "ln")), "bn"), name="tower")
    y = layers.Concatenate()([tower(a), tower(b)])
    return keras.Model([a, b], layers.Dense(3)(y))


def quantized():
    """A quantized dense layer is still a dense layer."""
    x = tokens()
    dense = layers.Dense(8, name="quantized")
    y = layers.Add()([x, dense(ln(x, "ln1"))])
    model = keras.Model(x, layers.Dense(3)(ln(y, "final_ln")))
    dense.quantize("int8")
    return model


CASES = [
    Case("pre_norm", pre_norm, PRE_NORM),
    Case("post_norm", post_norm, {"emb_ln": TRUNK, "ln1": TRUNK, "ln2": TRUNK}),
    Case(
        "sandwich_norm",
        sandwich_norm,
        # ln1_post absorbs the values of ln1, and lies behind its logits as well.
        {"ln1": INTERIOR, "ln1_post": RESIDUAL_LAST, "ln2": INTERIOR, "ln2_post": RESIDUAL_LAST},
    ),
    Case(
        "sandwich_query_key_norm",
        sandwich_query_key_norm,
        {
            "ln": INTERIOR,
            "attention/q_norm": OTHER,
            "attention/k_norm": OTHER,
            "post_ln": RESIDUAL_LAST,
        },
    ),
    Case(
        "encoder_decoder",
        encoder_decoder,
        {
            "enc_ln1": RESIDUAL_LAST,
            "enc_ln2": RESIDUAL_LAST,
            "enc_final": TRUNK,  # read by a branch, but not computed from its fork
            "dec_self": RESIDUAL_LAST,
            "dec_cross": OTHER,  # in front of the queries alone
            "dec_mlp": RESIDUAL_LAST,
            "dec_final": TRUNK,
        },
    ),
    Case(
        "encoder_decoder_post_norm",
        encoder_decoder_post_norm,
        dict.fromkeys(("enc_ln1", "enc_ln2", "dec_ln1", "dec_ln2", "dec_ln3"), TRUNK),
    ),
    Case(
        "separate_norms",
        separate_norms,
        {"query_ln": OTHER, "key_ln": OTHER, "value_ln": RESIDUAL_LAST},
    ),
    Case(
        "dot_attention_layer", dot_attention_layer, {"query_ln": OTHER, "value_ln": RESIDUAL_LAST}
    ),
    Case("grouped_query", grouped_query, {"ln": RESIDUAL_LAST}),
    Case("masked_single_head", masked_single_head, {"ln": RESIDUAL_LAST}),
    Case("embedding_mask", embedding_mask, {"ln": RESIDUAL_LAST}),
    *(
        Case(
            f"own_attention_{name}",
            lambda kwargs=kwargs: own_attention(**kwargs),
            {"ln": RESIDUAL_LAST, "mlp_ln": RESIDUAL_LAST, "final_ln": TRUNK, **more},
        )
        for name, kwargs, more in [
            ("plain", {}, {}),
            ("two_heads", {"heads": 2}, {}),
            ("masked", {"mask": True}, {}),
            ("masked_two_heads", {"mask": True, "heads": 2}, {}),
            ("rotary", {"rotary": "qk"}, {}),
            # The values are turned too: the γ's only way to the branch leads through a sum whose
            # operands are both linear in the same tensor, and γ reaches both: passed through.
            ("rotary_values", {"rotary": "qkv", "heads": 2}, {}),
            (
                "qk_norm",
                {"qk_norm": True, "heads": 2},
                {"attention/q_norm": OTHER, "attention/k_norm": OTHER},
            ),
            (
                "qk_norm_masked",
                {"qk_norm": True, "mask": True, "rotary": "qk"},
                {"attention/q_norm": OTHER, "attention/k_norm": OTHER},
            ),
            # With the values normalized the first norm acts through the logits alone.
            ("v_norm", {"v_norm": True}, {"ln": OTHER, "attention/v_norm": RESIDUAL_LAST}),
            # With all three normalized nothing of it is left.
            (
                "qkv_norm",
                {"qk_norm": True, "v_norm": True},
                {
                    "ln": INTERIOR,
                    "attention/q_norm": OTHER,
                    "attention/k_norm": OTHER,
                    "attention/v_norm": RESIDUAL_LAST,
                },
            ),
            (
                "v_norm_rotary",
                {"v_norm": True, "rotary": "v"},
                {"ln": OTHER, "attention/v_norm": RESIDUAL_LAST},
            ),
        ]
    ),
    Case("attention_in_the_open", lambda: attention_in_the_open(False), IN_THE_OPEN),
    # The mask comes from another input: its sum with the logits has no fork. No value path meets
    # it, and the query and key norms still only set the temperature.
    Case("attention_in_the_open_masked", lambda: attention_in_the_open(True), IN_THE_OPEN),
    Case(
        "fnet_post_norm",
        lambda: fnet(fourier, True),
        {"emb_ln": TRUNK, "ln1": TRUNK, "ln2": TRUNK},
    ),
    Case("fnet_pre_norm", lambda: fnet(fourier, False), FNET_PRE),
    Case(
        "mixer_post_norm",
        lambda: fnet(fixed_mixing, True),
        {"emb_ln": TRUNK, "ln1": TRUNK, "ln2": TRUNK},
    ),
    Case("mixer_pre_norm", lambda: fnet(fixed_mixing, False), FNET_PRE),
    *(
        Case(
            f"parallel_shared_{name}",
            lambda join=join: parallel(join, True),
            {"ln1": RESIDUAL_LAST, "final_ln": TRUNK},
        )
        for name, join in PARALLEL.items()
    ),
    *(
        Case(
            f"parallel_two_norms_{name}",
            lambda join=join: parallel(join, False),
            {"ln1": RESIDUAL_LAST, "ln2": RESIDUAL_LAST, "final_ln": TRUNK},
        )
        for name, join in PARALLEL.items()
    ),
    Case(
        "layer_scale",
        layer_scale,
        {"ln1": RESIDUAL_LAST, "ln2": RESIDUAL_LAST, "final_ln": TRUNK},
    ),
    # The shift comes from the condition and does not scale with γ: a sum of two streams.
    Case("adaptive_norm", adaptive_norm, {"ln": OTHER, "final_ln": TRUNK}),
    Case("gated_mlp", gated_mlp, {"ffn_norm": RESIDUAL_LAST, "final_norm": TRUNK}),
    Case("embeddings", embeddings, {"emb_ln": TRUNK, "ln1": TRUNK}),
    Case(
        "normed_embeddings",
        normed_embeddings,
        {"ids_ln": OTHER, "positions_ln": OTHER, "ln1": RESIDUAL_LAST},
    ),
    Case("variable_sums", variable_sums, {"emb_ln": TRUNK, "ln1": RESIDUAL_LAST}),
    Case(
        "class_token",
        class_token,
        {"patch_ln": TRUNK, "ln1": RESIDUAL_LAST, "final_ln": TRUNK},
    ),
    Case("recurrent_output", lambda: recurrent(False), {"ln": TRUNK}),
    Case("recurrent_branch", lambda: recurrent(True), {"ln": RESIDUAL_LAST}),
    Case("shared_norm", shared_norm, {"shared_ln": (RESIDUAL_LAST, TRUNK)}),
    Case("shared_block", shared_block, {"block/norm": TRUNK}),
    Case("siamese", siamese, {"ln": INTERIOR, "bn": TRUNK}),
    Case("quantized", quantized, {"ln1": RESIDUAL_LAST, "final_ln": TRUNK}),
]
