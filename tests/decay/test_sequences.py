"""Random sequences of what users do, against a model of what must hold after each step.

What a step with gradients of zero takes off each variable is what was decided last, or a warning
said that a decision is lost (or counted twice). `KERAS_GAMMA_SEQUENCES=1000` runs a thousand.
"""

import os
import pathlib
import tempfile
import warnings

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from keras import layers

import keras_gamma
from tests.decay import storage_roads as roads

ETA, DECAY = 0.5, 0.25
NORMS = ("built_in", "rms", "third_party")
LAYERS = (*NORMS, "one_fc", "two_fc", "three_fc")
ROADS = {
    "archive": roads.keras_archive,
    "unzipped": roads.unzipped,
    "our clone": roads.by_our_clone_model,
    "Keras' archive": roads.keras_archive_by_keras,
    "Keras' clone": roads.by_clone_model,
    "deepcopy": roads.by_deepcopy,
    "deepcopy carried over": roads.by_deepcopy_carried_over,
    "pickle": roads.by_pickle,
    "h5": roads.h5,
}
KEPT = ("archive", "unzipped", "our clone", "deepcopy carried over")
COPIED = ("Keras' clone", "deepcopy", "deepcopy carried over", "our clone")


def find(model, name):
    return next(layer for layer in model._flatten_layers() if layer.name == name)


class Sequences(RuleBasedStateMachine):
    """The model of what must hold: `l2` by norm, what is spared, and what is frozen."""

    @initialize(ours=st.booleans())
    def start(self, ours):
        self.cls = keras_gamma.optimizers.SGDW if ours else keras.optimizers.SGD
        self.base = roads.base()
        self.model = roads.with_head(self.base)
        self.l2 = dict.fromkeys(NORMS, 0.0)
        self.spared: set[str] = set()
        self.frozen: set[str] = set()
        self.plan = self.decay_plan = None
        self.compiled = False
        self.decided = False  # By records on the layers.
        self.withheld: bool | None = False  # `None`: a copy that was not trained yet may know.
        self.given = False  # Whether the optimizer was made with decay=plan.
        self.untold = False  # Whether γ are counted twice, and no step has begun since.
        self.foreign = dict(self.l2)  # Penalties that came with a config: they stay.

    # Deciding -------------------------------------------------------------------------------

    @rule(l2=st.sampled_from([0.0625, 0.125]), on_base=st.booleans())
    def apply(self, l2, on_base):
        target = self.base if on_base and self.base is not None else self.model
        before = self._twice()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                self.plan = keras_gamma.apply_guidelines(target, l2=l2, overwrite=True)
        except ValueError as error:
            assert "decays them as well" in str(error)
            assert not set(NORMS) <= self.spared | self.frozen
            return
        self.l2 = dict.fromkeys(NORMS, l2)
        self.decided = True
        # The inner model does not know the optimizer of the outer one: the next step does.
        self.untold = self._twice() and not before

    @precondition(lambda self: self.plan is not None)
    @rule()
    def remove(self):
        self.plan.remove()
        self.plan, self.l2 = None, dict(self.foreign)
        self.decided = self.untold = False

    @precondition(lambda self: not self.compiled)
    @rule()
    def compile_with_exclusions(self):
        optimizer = self.cls(ETA, weight_decay=DECAY)
        self.decay_plan = keras_gamma.exclude_from_weight_decay(
            optimizer, self.model, guidelines="none"
        )
        told = self._compile(optimizer, spared=set(NORMS))
        assert not [t for t in told if "counted twice" in t or "told to spare" in t]
        self.withheld, self.given = True, False

    @precondition(lambda self: self.cls is keras_gamma.optimizers.SGDW)
    @rule()
    def compile_with_plan(self):
        plan = keras_gamma.plan_weight_decay(self.model, guidelines="none")
        told = self._compile(self.cls(ETA, weight_decay=DECAY, decay=plan), spared=set(NORMS))
        assert not [t for t in told if "counted twice" in t or "told to spare" in t]
        self.decay_plan, self.given, self.withheld = None, True, True

    @precondition(lambda self: self.given)
    @rule()
    def take_factors_back(self):
        self.model.optimizer.set_decay(None)
        self.given, self.spared, self.withheld = False, set(), False

    @rule()
    def compile_anew(self):
        """A plain optimizer: γ are counted twice, or spared no more, and somebody says so."""
        withheld = self.withheld
        told = self._compile(self.cls(ETA, weight_decay=DECAY), spared=set())
        self.decay_plan, self.given = None, False
        twice = [n for n in NORMS if self.l2[n] and n not in self.frozen]
        if self.decided:  # Not a copy by Keras alone: see the docs.
            assert bool([t for t in told if "counted twice" in t]) == bool(twice)
        lost = bool(withheld) and not set(LAYERS) <= self.frozen
        if withheld is not None:
            assert bool([t for t in told if "told to spare" in t]) == lost

    @precondition(lambda self: self.decay_plan is not None)
    @rule()
    def remove_exclusions(self):
        self.decay_plan.remove()
        self.decay_plan, self.spared, self.withheld = None, set(), False

    def _twice(self):
        """Whether the optimizer decays γ that have a penalty by decision."""
        acting = set(NORMS) - self.spared - self.frozen
        return self.compiled and self.decided and any(self.l2[name] for name in acting)

    def _compile(self, optimizer, spared):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.model.compile(optimizer, roads.loss())
            self.model.train_on_batch(np.ones((2, 4), "float32"), np.ones((2, 2), "float32"))
        self.compiled, self.spared, self.untold = True, spared, False
        return [str(w.message) for w in caught]

    # What happens to the model --------------------------------------------------------------

    @precondition(lambda self: not self.compiled)
    @rule(name=st.sampled_from(LAYERS))
    def freeze(self, name):
        find(self.model, name).trainable = False
        self.frozen.add(name)

    @precondition(lambda self: not self.compiled)
    @rule(name=st.sampled_from(LAYERS))
    def unfreeze(self, name):
        find(self.model, name).trainable = True
        self.frozen.discard(name)

    @precondition(lambda self: not self.compiled)
    @rule()
    def enable_lora(self):
        dense = find(self.model, "two_fc")
        if "two_fc" not in self.frozen and not dense.lora_enabled:
            dense.enable_lora(2)

    @rule()
    def new_head(self):
        """Transfer learning. It is compiled later; decisions on γ stay on the layers."""
        inner = self.model.layers[1]
        self.model = keras.Model(inner.input, layers.Dense(2, name="out")(inner.output))
        self.model = roads.with_head(keras.Model(inner.input, inner.output))
        self.compiled, self.decay_plan, self.spared, self.given = False, None, set(), False
        self.untold = False

    @precondition(lambda self: self.compiled)
    @rule()
    def one_step(self):
        before = {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in self.model.variables}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.model.train_on_batch(np.ones((2, 4), "float32"), np.ones((2, 2), "float32"))
        told = any("counted twice" in str(w.message) for w in caught)
        assert told or not self.untold
        assert self._twice() or not told
        self.untold = False
        for name in self.frozen:
            for variable in find(self.model, name).variables:
                now = keras.ops.convert_to_numpy(variable)
                np.testing.assert_array_equal(now, before[variable.path])
        if self.given:
            self.withheld = True

    @rule(road=st.sampled_from(sorted(ROADS)))
    def travel(self, road):
        if road.endswith("clone") and self.compiled and self.frozen:
            return  # Keras builds the clone's optimizer before it freezes the clone's layers.
        with tempfile.TemporaryDirectory() as folder:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self.model = ROADS[road](self.model, pathlib.Path(folder))
        told = any(issubclass(w.category, keras_gamma.decay.DecisionNotKept) for w in caught)
        kept = road in KEPT
        if self.cls is not keras.optimizers.SGD and self.spared and not kept:
            self.given = True  # What was put onto an optimizer of ours is in its config.
        if self.given:  # A copy may meet its model later.
            self.withheld = None if road in (*COPIED, "h5", "pickle") else True
        else:
            self.withheld = bool(self.withheld and kept and self.compiled and self.spared)
        self.given &= self.compiled
        self.untold = False
        # Plans are handles on the model before; what is in force was read off the new one.
        self.base = self.plan = self.decay_plan = None
        l2, spared = self._measured()
        if (l2, spared) != (self._wanted_l2(), self._wanted_spared()):
            assert told, f"{road}: lost in silence: {l2}, {spared}"
            self.l2 = {n: l2.get(n, 0.0) for n in NORMS}
            self.spared = set(NORMS) if spared else set()
            if self.frozen:
                self._forget_frozen()
        if not kept:
            self.foreign, self.decided = dict(self.l2), False
        elif self.decided:
            self.foreign = dict.fromkeys(NORMS, 0.0)

    def _forget_frozen(self):
        """What is lost on frozen layers shows when they are unfrozen: look now."""
        for name in self.frozen:
            find(self.model, name).trainable = True
        l2 = self._penalties()
        self.l2 = {n: l2.get(n, 0.0) for n in NORMS}
        for name in self.frozen:
            find(self.model, name).trainable = False

    # What must hold -------------------------------------------------------------------------

    def _wanted_l2(self):
        return {n: l2 for n, l2 in self.l2.items() if l2 and n not in self.frozen}

    def _wanted_spared(self):
        return self.compiled and bool(self.spared - self.frozen)

    def _penalties(self):
        """l2 of each γ by what the loss has of it."""
        l2 = {}
        for name in NORMS:
            for variable in find(self.model, name).trainable_variables:
                if variable.regularizer is not None:
                    penalty = variable.regularizer(keras.ops.ones(variable.shape))
                    l2[name] = float(keras.ops.convert_to_numpy(penalty)) / 4
        assert len(self.model.losses) == len(l2)
        return l2

    def _measured(self):
        """l2 of each γ, and whether the optimizer spares γ."""
        l2 = self._penalties()
        if not self.compiled:
            return l2, False
        decayed = {path.split("/")[0] for path in roads.decayed(self.model)}
        free = set(NORMS) - self.frozen
        return l2, bool(free) and not free & decayed

    @invariant()
    def what_shrinks_is_what_was_decided(self):
        if hasattr(self, "model"):
            assert self._measured() == (self._wanted_l2(), self._wanted_spared())


Sequences.TestCase.settings = settings(
    max_examples=int(os.environ.get("KERAS_GAMMA_SEQUENCES", "3")),
    stateful_step_count=8,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # Shrinking one failure takes longer than finding it.
    suppress_health_check=list(HealthCheck),
    derandomize="KERAS_GAMMA_SEQUENCES" not in os.environ,
)
TestSequences = pytest.mark.filterwarnings("ignore::DeprecationWarning")(Sequences.TestCase)
