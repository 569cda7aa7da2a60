"""Writes texts with a trained model: keras-hub's samplers, with a cache of keys and values.

Each new token costs the work for one position. The layers are those of the trained model, but for
the attention, whose weights keras-hub's `CachedMultiHeadAttention` borrows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import keras
import keras_hub
import numpy as np
from keras import layers, ops

from examples.models.blocks import Size
from examples.models.text_codes import END, PAD, START
from examples.models.transformer import decoded, encoded, next_tokens

_JIT = False  # On TensorFlow: XLA takes longer to compile a loop than a few texts take to write.
_IN_THE_CACHE = object()  # the source of a translation, whose keys and values are kept


def continued(
    model: keras.Model,
    size: Size,
    prompt: Sequence[int],
    count: int,
    *,
    temperature: float,
    seed: int,
) -> list[int]:
    """Continues a text, token by token, each drawn from the model's distribution.

    Whenever the model's context is full, it goes on from the last half of it.

    Args:
        model: one of the language models of `transformer`.
        size: its size.
        prompt: what to continue; at least one token.
        count: how many tokens to add.
        temperature: logits are divided by it; 0 takes the likeliest token.
        seed: of the draws.
    """
    length = model.input_shape[1]
    writer = Writer(model, _HubSteps(model) if _is_hub(model) else _LanguageSteps(model, size))
    writer.compile(
        sampler=keras_hub.samplers.RandomSampler(temperature=temperature, seed=seed)
        if temperature
        else keras_hub.samplers.GreedySampler(),
        jit_compile=_JIT,
    )
    text = list(prompt)
    until = len(text) + count
    while len(text) < until:
        seen = text if len(text) < length else text[-(length // 2) :]
        tokens = np.full((1, length), PAD, np.int32)
        tokens[0, : len(seen)] = seen
        given = np.arange(length)[np.newaxis] < len(seen)
        written = writer.generate({"tokens": tokens, "given": given}, stop_token_ids=None)
        text += [int(token) for token in written[0, len(seen) :]]
    return text[:until]


def translating(
    model: keras.Model, size: Size, *, beams: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from texts to their translations, as tokens.

    It takes `(batch, source length)` and returns `(batch, target length - 1)`, with `PAD` from the
    end of each translation on.

    Args:
        model: `transformer.translator`'s.
        size: its size.
        beams: how many translations of each text to follow; 1 takes the likeliest token each time.
    """
    length = _length(model, "target")
    writer = Writer(model, _TranslationSteps(model, size))
    writer.compile(
        sampler=keras_hub.samplers.BeamSampler(num_beams=beams)
        if beams > 1
        else keras_hub.samplers.GreedySampler(),
        jit_compile=_JIT,
    )

    def translate(source: np.ndarray) -> np.ndarray:
        tokens = np.full((len(source), length), PAD, np.int32)
        tokens[:, 0] = START
        given = tokens == START
        inputs = {"source": source.astype(np.int32), "tokens": tokens, "given": given}
        written = writer.generate(inputs, stop_token_ids=(END,))
        over = np.cumsum(written == END, axis=1) > 0
        return np.where(over, PAD, written)[:, 1:]

    return translate


class Steps(Protocol):
    """What a trained model does with a few tokens at a time."""

    def begin(self, inputs: Mapping[str, Any]) -> Any:
        """Returns the cache before the first token."""

    def step(self, tokens: Any, cache: Any, at: Any) -> tuple[Any, Any]:
        """Returns the logits after each token, the first of which stands at `at`; and the cache."""


class Writer(keras_hub.models.CausalLM):  # type: ignore[misc]  # keras-hub has no types
    """What keras-hub compiles, for each backend, around the steps of a model.

    Args:
        model: the trained model.
        steps: what it does with a few tokens at a time.
    """

    def __init__(self, model: keras.Model, steps: Steps):
        super().__init__(inputs=model.inputs, outputs=model.outputs, compile=False)
        self._steps = steps

    def generate_step(self, inputs: Any, stop_token_ids: Any = None) -> Any:
        """Fills `inputs["tokens"]` up where they are not `given`."""
        tokens, given = inputs["tokens"], inputs["given"]
        # All at once; what is kept of those that are not given is written over later.
        _, cache = self._steps.step(tokens, self._steps.begin(inputs), 0)

        def following(prompt: Any, cache: Any, index: Any) -> tuple[Any, Any, Any]:
            last = ops.slice(prompt, [0, index - 1], [ops.shape(prompt)[0], 1])
            found, cache = self._steps.step(last, cache, index - 1)
            found = found[:, 0]
            if stop_token_ids is not None:  # After its end, nothing counts against a text.
                over = ops.any(ops.equal(prompt, END), axis=1, keepdims=True)
                padding = ops.equal(ops.arange(found.shape[-1]), PAD)[None]
                found = ops.where(over, ops.where(padding, 0.0, -1e9), found)
            return found, None, cache

        return self.sampler(
            next=following,
            prompt=tokens,
            cache=cache,
            index=ops.min(ops.sum(ops.cast(given, "int32"), axis=1)),
            mask=given,
            stop_token_ids=stop_token_ids,
            model=self,
        )


class _LanguageSteps:
    """Of `transformer.language_model`."""

    def __init__(self, model: keras.Model, size: Size):
        self._model, self._size = model, size
        self._length, self._vocabulary = model.input_shape[1], model.output_shape[-1]
        self._attentions = _cached_attentions(model)

    def begin(self, inputs: Mapping[str, Any]) -> Any:
        batch = ops.shape(inputs["tokens"])[0]
        return {name: _empty(self._size, batch, self._length) for name in self._attentions}

    def step(self, tokens: Any, cache: Any, at: Any) -> tuple[Any, Any]:
        parts = _TrainedParts(self._model, self._attentions, cache, at)
        found = next_tokens(
            self._size, parts, tokens, vocabulary=self._vocabulary, length=self._length, at=at
        )
        return found, parts.cache


class _TranslationSteps:
    """Of `transformer.translator`. The cache holds what the decoder may see of the source, too."""

    def __init__(self, model: keras.Model, size: Size):
        self._model, self._size = model, size
        self._length = _length(model, "target")
        self._vocabulary = model.output_shape[-1]
        self._attentions = _cached_attentions(model, "decoder")

    def begin(self, inputs: Mapping[str, Any]) -> Any:
        source = inputs["source"]
        batch = ops.shape(source)[0]
        encoder = _TrainedParts(self._model, {}, {}, 0)
        memory = encoded(self._size, encoder, source, vocabulary=self._vocabulary)
        cache = {"there": ops.cast(ops.not_equal(source, PAD), "int32")}
        for name, layer in self._attentions.items():
            length = source.shape[1] if name.endswith("_cross") else self._length
            cache[name] = _empty(self._size, batch, length)
            if name.endswith("_cross"):
                _, cache[name] = layer(
                    memory[:, :1], memory, cache=cache[name], cache_update_index=0
                )
        return cache

    def step(self, tokens: Any, cache: Any, at: Any) -> tuple[Any, Any]:
        parts = _TrainedParts(self._model, self._attentions, cache, at)
        there = ops.expand_dims(ops.cast(cache["there"], "bool"), 1)
        found = decoded(
            self._size,
            parts,
            tokens,
            (_IN_THE_CACHE, there),
            vocabulary=self._vocabulary,
            length=self._length,
            at=at,
        )
        return found, parts.cache


class _HubSteps:
    """Of `transformer.keras_hub_language_model`: keras-hub's own, with our logits."""

    def __init__(self, model: keras.Model):
        backbone = model.get_layer("backbone")
        models = keras_hub.models
        kind = models.GPT2CausalLM if "gpt2" in model.name else models.LlamaCausalLM
        self._lm = kind(backbone=backbone, preprocessor=None)
        self._model, self._length = model, model.input_shape[1]

    def begin(self, inputs: Mapping[str, Any]) -> Any:
        tokens = ops.zeros_like(inputs["tokens"])
        return ops.zeros_like(self._lm._build_cache(tokens)[1])

    def step(self, tokens: Any, cache: Any, at: Any) -> tuple[Any, Any]:
        _, hidden, cache = self._lm.call_with_cache(tokens, cache, at)
        return self._model.get_layer("logits")(hidden), cache


class _TrainedParts:
    """The layers of a trained model, for a few positions at a time.

    Args:
        model: the trained model.
        attentions: those that have a cache, by name.
        cache: their keys and values, of the places before.
        at: place of the first position.
    """

    def __init__(
        self,
        model: keras.Model,
        attentions: Mapping[str, keras.Layer],
        cache: Mapping[str, Any],
        at: Any,
    ):
        self._model = model
        self._attentions = attentions
        self.cache = dict(cache)
        self._at = at

    def layer(self, kind: type[keras.Layer], *args: Any, name: str, **kwargs: Any) -> Any:
        del kind, args, kwargs
        return self._model.get_layer(name)

    def attend(self, size: Size, x: Any, context: Any, *, name: str, **masks: Any) -> Any:
        del size
        if name not in self._attentions:  # an encoder's, of the whole text
            return self._model.get_layer(name)(x, x if context is None else context, **masks)
        layer, cache = self._attentions[name], self.cache[name]
        if context is _IN_THE_CACHE:
            found, _ = layer(x, x, cache=cache, attention_mask=masks["attention_mask"])
            return found
        own = self._at + ops.arange(x.shape[1])
        seen = ops.arange(cache.shape[2])[None, None] <= own[None, :, None]
        found, self.cache[name] = layer(
            x, x, cache=cache, cache_update_index=self._at, attention_mask=seen
        )
        return found


def _empty(size: Size, batch: Any, length: int) -> Any:
    return ops.zeros((batch, 2, length, size.heads, size.width // size.heads))


def _cached_attentions(model: keras.Model, prefix: str = "") -> dict[str, keras.Layer]:
    """Returns keras-hub's attentions with the weights of the model's, by name."""
    found = {}
    for layer in model.layers:
        if isinstance(layer, layers.MultiHeadAttention) and layer.name.startswith(prefix):
            twin = keras_hub.layers.CachedMultiHeadAttention.from_config(layer.get_config())
            twin.build(**layer.get_build_config()["shapes_dict"])
            twin.set_weights(layer.get_weights())
            found[layer.name] = twin
    return found


def _length(model: keras.Model, name: str) -> int:
    """Returns how long an input is."""
    return next(int(tensor.shape[1]) for tensor in model.inputs if tensor.name == name)


def _is_hub(model: keras.Model) -> bool:
    return str(model.name).startswith("keras_hub_")
