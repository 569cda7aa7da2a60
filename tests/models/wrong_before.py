"""What the analysis answered before inner joins, logits, conditioning, factors and gates were told.

A list of known mistakes: for whoever checks the analysis without its help. A referee that deserves
the name refutes these. The models are in `role_cases_inner` and `role_cases_designs`; what is not
listed was right.
"""

from tests.models import role_cases_designs, role_cases_inner

CASES = {case.name: case for case in [*role_cases_inner.CASES, *role_cases_designs.CASES]}

# Case -> γ's key -> (the role before, the right role).
WRONG_BEFORE = {
    "mlp_depthwise": {"ln": ("trunk", "residual_last")},
    "pool_mixer_difference": {"gn1": ("trunk", "residual_last")},
    "pool_mixer_scaled": {"gn1": ("trunk", "residual_last")},
    "pool_mixer_learned": {"gn1": ("trunk", "residual_last")},
    "pool_mixer_subtract_layer": {"gn1": ("trunk", "residual_last")},
    "convnext_v2": {"ln": ("trunk", "residual_last")},
    "recurrence_activated": {"ln": ("trunk", "residual_last")},
    "residual_group": {"in_bn": ("trunk", "residual_last")},
    "post_norm_in_a_branch": {"in_bn": ("trunk", "interior")},
    "relative_positions_one": {"ln1": ("trunk", "residual_last")},
    "relative_positions_one_qk_norm": {
        "attention/q_norm": ("trunk", "other"),
        "attention/k_norm": ("trunk", "other"),
    },
    "bottleneck_attention_one": {"bn1": ("trunk", "interior")},
    "residual_logits": {"ln1": ("trunk", "residual_last")},
    "attention_and_convolution_separate": {
        "ln": ("trunk", "other"),
        "dw_bn": ("shortcut", "other"),
    },
    "attention_and_convolution_fused": {"ln": ("trunk", "other"), "dw_bn": ("shortcut", "other")},
    "attention_and_plain_convolution_separate": {"ln": ("trunk", "residual_last")},
    "attention_and_plain_convolution_fused": {"ln": ("trunk", "residual_last")},
    "diffusion_activated_once": {"b1_gn1": ("interior", "other"), "b2_gn1": ("interior", "other")},
    "diffusion_activated_each": {"b1_gn1": ("interior", "other"), "b2_gn1": ("interior", "other")},
    "class_conditional": {"b1_gn1": ("interior", "other")},
    "conditional_scale_and_shift": {"ln": ("residual_last", "other")},
    "context_on_the_stream_norm": {
        "stem_bn": ("interior", "trunk"),
        "context_ln": ("interior", "residual_last"),
    },
    "global_context_block": {"bn2": ("residual_last", "trunk")},
    "factor_both": {"stem_bn": ("other", "trunk"), "branch_bn": ("other", "residual_last")},
    "factor_both_swapped": {"stem_bn": ("other", "trunk"), "branch_bn": ("other", "residual_last")},
    "factor_skip": {"stem_bn": ("other", "trunk"), "branch_bn": ("other", "residual_last")},
    "factor_divided": {"stem_bn": ("other", "trunk"), "branch_bn": ("other", "residual_last")},
    "factor_negative": {"stem_bn": ("other", "trunk"), "branch_bn": ("other", "residual_last")},
    "factor_rescaling": {"stem_bn": ("other", "trunk"), "branch_bn": ("other", "residual_last")},
    "factor_ops": {"branch_bn": ("shortcut", "residual_last")},
    "deep_norm": {"emb_ln": ("other", "trunk"), "ln1": ("interior", "trunk")},
    "excite_with_norm_sigmoid": {"gate_bn": ("residual_last", "other")},
    "excite_with_norm_sigmoid_projected": {"gate_bn": ("interior", "other")},
    "excite_with_norm_hard_sigmoid": {"gate_bn": ("residual_last", "other")},
    "excite_with_norm_hard_sigmoid_projected": {"gate_bn": ("interior", "other")},
    "self_calibrated": {"bn_in": ("trunk", "interior"), "gate_bn": ("residual_last", "other")},
    "gate_on_a_skip": {"gate_bn": ("residual_last", "other")},
    "receptance": {"r_ln": ("residual_last", "other")},
    "pool_mixer_gated": {"bn_in": ("trunk", "residual_last")},
    "projection_between_streams": {
        "skip_bn": ("other", "shortcut"),
        "bn2": ("other", "residual_last"),
    },
}
