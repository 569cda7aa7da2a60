"""The table of small models with hand-written roles: every trap of the definition, by name."""

from tests.models import (
    role_cases_attention,
    role_cases_classes,
    role_cases_conv,
    role_cases_custom,
    role_cases_designs,
    role_cases_families,
    role_cases_inner,
    role_cases_sequences,
    role_cases_small,
    role_cases_statistics,
    role_cases_vision,
    role_cases_written_out,
)

CASES = [
    *role_cases_conv.CASES,
    *role_cases_attention.CASES,
    *role_cases_custom.CASES,
    *role_cases_written_out.CASES,
    *role_cases_inner.CASES,
    *role_cases_designs.CASES,
    *role_cases_families.CASES,
    *role_cases_vision.CASES,
    *role_cases_sequences.CASES,
    *role_cases_classes.CASES,
    *role_cases_small.CASES,
    *role_cases_statistics.CASES,
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
    "raw_blocks",
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
# Of the sums inside branches and the designs of blocks, those that it can.
FLAT_TOO = {
    "class_conditional",
    "conditional_scale_and_shift",
    "context_on_the_stream",
    "context_on_the_stream_norm",
    "cross_stage_partial",
    "deep_norm",
    "diffusion_activated_each",
    "diffusion_activated_once",
    "dual_path",
    "excite_with_norm_hard_sigmoid",
    "excite_with_norm_hard_sigmoid_projected",
    "excite_with_norm_sigmoid",
    "excite_with_norm_sigmoid_projected",
    "factor_both",
    "factor_both_swapped",
    "factor_divided",
    "factor_negative",
    "factor_ops",
    "factor_rescaling",
    "factor_skip",
    "feature_pyramid_norms",
    "high_resolution",
    "highway",
    "inner_join_across_the_fork",
    "linknet",
    "mobile_one",
    "norm_former",
    "pool_mixer_gated",
    "post_norm_in_a_branch",
    "projection_between_streams",
    "rep_mixer",
    "residual_group",
    "residual_group_of_norms",
    "scaled_inception_resnet",
    "selective_state",
    "sigmoid_network",
    "sigmoid_output",
    "super_resolution",
    "swin_v2",
    "two_streams",
}
NOT_FLAT |= {case.name for case in role_cases_inner.CASES} - FLAT_TOO
NOT_FLAT |= {case.name for case in role_cases_designs.CASES} - FLAT_TOO
NOT_FLAT |= {case.name for case in role_cases_families.CASES}
NOT_FLAT |= {case.name for case in role_cases_statistics.CASES}
for more in (role_cases_vision, role_cases_sequences, role_cases_classes, role_cases_small):
    NOT_FLAT |= {case.name for case in more.CASES}
assert BY_NAME.keys() >= NOT_FLAT
FLAT = [case for case in CASES if case.name not in NOT_FLAT]
