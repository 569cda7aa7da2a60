"""The table of small models with hand-written roles: every trap of the definition, by name."""

from tests.models import (
    role_cases_attention,
    role_cases_conv,
    role_cases_custom,
    role_cases_designs,
    role_cases_inner,
    role_cases_written_out,
)

CASES = [
    *role_cases_conv.CASES,
    *role_cases_attention.CASES,
    *role_cases_custom.CASES,
    *role_cases_written_out.CASES,
    *role_cases_inner.CASES,
    *role_cases_designs.CASES,
]
BY_NAME = {case.name: case for case in CASES}
assert len(BY_NAME) == len(CASES), "the names of the cases must differ"

# Models that are more than a flat graph of Keras layers, each called once: nested, written as a
# class, with attention written out or with layers of our own. `numeric_roles` cannot open these.
NOT_FLAT = {
    "attention_in_the_open",
    "attention_in_the_open_masked",
    "composite_in_composite",
    "dot_attention_layer",
    "keras_example_transformer",
    "mixed_precision",
    "nested_functional",
    "nested_in_nested",
    "nested_sequential",
    "one_plus_scale_norm",
    "opaque_composite",
    "opaque_in_branch",
    "opaque_numpy",
    "opaque_backend",
    "own_attention_masked",
    "own_attention_masked_two_heads",
    "own_attention_plain",
    "own_attention_qk_norm",
    "own_attention_qk_norm_masked",
    "own_attention_qkv_norm",
    "own_attention_rotary",
    "own_attention_rotary_values",
    "own_attention_two_heads",
    "own_attention_v_norm",
    "own_attention_v_norm_rotary",
    "plain_sequential",
    "registered_norm",
    "registered_parent",
    "sandwich_query_key_norm",
    "sequential_of_composites",
    "sequential_of_models",
    "shared_block",
    "shared_norm",
    "siamese",
    "subclassed",
    "subclassed_in_functional",
}
NOT_FLAT |= {case.name for case in role_cases_written_out.CASES}
NOT_FLAT |= {case.name for case in role_cases_inner.CASES}
NOT_FLAT |= {case.name for case in role_cases_designs.CASES}
assert BY_NAME.keys() >= NOT_FLAT
FLAT = [case for case in CASES if case.name not in NOT_FLAT]
