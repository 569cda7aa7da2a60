"""How to build a model of every family: small, with weights at random, without a download.

Most of keras-hub's text models take arguments of the same names; what they need of `SMALL` is
looked up in their signatures. The others have a recipe here. A family that has neither is an error.
"""

import inspect
from collections.abc import Callable, Iterator

import keras

SIDE = 64  # of images
SMALL = {
    "vocabulary_size": 64,
    "vocab_size": 64,
    "num_layers": 2,
    "num_layers_enc": 2,
    "num_layers_dec": 2,
    "num_heads": 2,
    "num_attention_heads": 2,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 16,
    "hidden_size": 16,
    "head_dim": 8,
    "head_size": 8,
    "embedding_dim": 8,
    "intermediate_dim": 32,
    "moe_intermediate_dim": 32,
    "shared_expert_intermediate_dim": 32,
    "shared_expert_intermediate_size": 32,
    "mlp_dim": 32,
    "max_sequence_length": 32,
    "max_encoder_sequence_length": 64,
    "max_decoder_sequence_length": 32,
    "bucket_size": 8,
    "num_experts": 2,
    "top_k": 1,
    "dropout": 0.1,
    "image_shape": (SIDE, SIDE, 3),
    "image_size": SIDE,
    "patch_size": 16,
    # keras-hub's SmolLM3
    "attention_bias": False,
    "attention_dropout": 0.0,
    "rope_layer_enabled_list": [True, False],
    "layer_types": ["full_attention", "full_attention"],
    "mlp_bias": False,
    "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 32,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
}
GEMMA = {"use_post_ffw_norm": True, "use_post_attention_norm": True, "use_query_key_norm": True}

Builder = Callable[[], keras.Model]


def applications() -> Iterator[tuple[str, Builder]]:
    """Every model of keras.applications, on images of 128 pixels: roles do not depend on them."""
    for name, build in sorted(vars(keras.applications).items()):
        if name[0].isupper() and callable(build):
            yield name, lambda build=build: build(weights=None, input_shape=(128, 128, 3))


def hub() -> Iterator[tuple[str, Builder | None]]:
    """Every family of backbones in keras-hub; `None` where there is no recipe."""
    import keras_hub

    abstract = {"Backbone", "FeaturePyramidBackbone"}
    for name in sorted(dir(keras_hub.models)):
        if name.endswith("Backbone") and name not in abstract:
            yield name, _HUB.get(name) or _by_signature(getattr(keras_hub.models, name))
    yield "GemmaBackbone (Gemma 2)", lambda: _small("GemmaBackbone", **{
        k: v for k, v in GEMMA.items() if k != "use_query_key_norm"
    })  # fmt: skip
    yield "VAEBackbone", vae


def cv() -> Iterator[tuple[str, Builder | None]]:
    """Every family of backbones in keras-cv (named sizes of one family count as it)."""
    import keras_cv

    for name in sorted(dir(keras_cv.models)):
        cls = getattr(keras_cv.models, name)
        if not name.endswith("Backbone") or name == "Backbone":
            continue
        if any(b.__name__.endswith("Backbone") and b.__name__ != "Backbone"
               for b in cls.__mro__[1:]):  # fmt: skip
            continue  # ResNet18Backbone and its like: presets of a family
        yield name, _CV.get(name)
    yield "DiffusionModel (U-Net)", diffusion


def _by_signature(cls) -> Builder | None:
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if any(p.default is p.empty and p.name not in SMALL for p in named):
        return None
    return lambda: cls(**{p.name: SMALL[p.name] for p in named if p.name in SMALL})


def _small(name, **more):
    import keras_hub

    cls = getattr(keras_hub.models, name)
    known = inspect.signature(cls.__init__).parameters
    return cls(**{**{k: v for k, v in SMALL.items() if k in known}, **more})


def _resnet(**more):
    arguments = {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 64, 64],
        "stackwise_num_blocks": [1, 1, 1],
        "stackwise_num_strides": [1, 2, 2],
        "block_type": "basic_block",
        "image_shape": (SIDE, SIDE, 3),
    }
    return _small("ResNetBackbone", **{**arguments, **more})


def _mit():
    return _small(
        "MiTBackbone",
        num_layers=4,
        hidden_dims=[8, 16, 40, 64],
        layerwise_depths=[1, 1, 1, 1],
        layerwise_num_heads=[1, 2, 5, 8],
        layerwise_sr_ratios=[8, 4, 2, 1],
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        max_drop_path_rate=0.1,
    )


def _hgnet(**more):
    arguments = {
        "depths": [1, 1, 2, 1],
        "embedding_size": 16,
        "hidden_sizes": [64, 256, 512, 1024],
        "stem_channels": [3, 16, 16],
        "hidden_act": "relu",
        "use_learnable_affine_block": True,
        "stackwise_stage_filters": [
            [16, 16, 64, 1, 3, 3],
            [64, 32, 256, 1, 3, 3],
            [256, 64, 512, 2, 3, 5],
            [512, 128, 1024, 1, 3, 5],
        ],
        "apply_downsample": [False, True, True, True],
        "use_lightweight_conv_block": [False, False, True, True],
        "image_shape": (SIDE, SIDE, 3),
    }
    return _small("HGNetV2Backbone", **{**arguments, **more})


def _d_fine():
    return _small(
        "DFineBackbone",
        backbone=_hgnet(out_features=["stage3", "stage4"], image_shape=(256, 256, 3)),
        decoder_in_channels=[16, 16],
        encoder_hidden_dim=16,
        num_denoising=0,
        num_labels=8,
        hidden_dim=16,
        learn_initial_query=False,
        num_queries=30,
        anchor_image_size=(256, 256),
        feat_strides=[16, 32],
        num_feature_levels=2,
        encoder_in_channels=[512, 1024],
        encode_proj_layers=[1],
        num_attention_heads=2,
        encoder_ffn_dim=32,
        num_encoder_layers=1,
        hidden_expansion=0.34,
        depth_multiplier=0.5,
        eval_idx=-1,
        num_decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        decoder_n_points=[6, 6],
        lqe_hidden_dim=16,
        num_lqe_layers=2,
        out_features=["stage3", "stage4"],
        image_shape=(256, 256, 3),
        seed=0,
    )


def _two_towers(name, **more):
    import keras_hub

    models = keras_hub.models
    prefix = name.removesuffix("Backbone")
    vision = getattr(models, f"{prefix}VisionEncoder")
    text = getattr(models, f"{prefix}TextEncoder")
    sizes = {"hidden_dim": 16, "num_layers": 2, "num_heads": 2, "intermediate_dim": 32}
    return getattr(models, name)(
        vision_encoder=vision(patch_size=16, image_shape=(SIDE, SIDE, 3), **sizes),
        text_encoder=text(vocabulary_size=64, embedding_dim=16, **sizes),
        **more,
    )


def _depth_anything():
    encoder = _small(
        "DINOV2Backbone",
        patch_size=14,
        num_layers=4,
        hidden_dim=16,
        image_shape=(140, 140, 3),
        position_embedding_shape=(140, 140),
    )
    return _small(
        "DepthAnythingBackbone",
        image_encoder=encoder,
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_dims=[8, 8, 16, 16],
        fusion_hidden_dim=16,
        head_hidden_dim=8,
        head_in_index=-1,
        feature_keys=["stage1", "stage2", "stage3", "stage4"],
    )


def _gemma3n():
    return _small(
        "Gemma3nBackbone",
        text_vocab_size=64,
        text_hidden_size=16,
        num_hidden_layers=2,
        pad_token_id=0,
        intermediate_size=[32, 32],
        hidden_activation="gelu_approximate",
        layer_types=["full_attention", "full_attention"],
        sliding_window=4,
        max_position_embeddings=32,
        vocab_size_per_layer_input=64,
        hidden_size_per_layer_input=2,
        altup_num_inputs=2,
        laurel_rank=1,
    )


def _sam():
    import keras_hub

    image = 128
    return keras_hub.models.SAMBackbone(
        image_encoder=_small(
            "ViTDetBackbone",
            num_layers=2,
            global_attention_layer_indices=[1],
            num_output_channels=16,
            window_size=2,
            image_shape=(image, image, 3),
        ),
        prompt_encoder=keras_hub.layers.SAMPromptEncoder(
            hidden_size=16,
            image_embedding_size=(8, 8),
            input_image_size=(image, image),
            mask_in_channels=16,
        ),
        mask_decoder=keras_hub.layers.SAMMaskDecoder(
            num_layers=2,
            hidden_size=16,
            intermediate_dim=32,
            num_heads=2,
            embedding_dim=16,
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=8,
        ),
    )


def _sam3():
    import keras_hub

    layers = keras_hub.layers
    image = {"image_shape": (56, 56, 3), "patch_size": 14}
    sizes = {"num_layers": 2, "hidden_dim": 16, "intermediate_dim": 32, "num_heads": 2}
    return keras_hub.models.SAM3PromptableConceptBackbone(
        vision_encoder=layers.SAM3VisionEncoder(
            fpn_hidden_dim=16,
            fpn_scale_factors=[4.0, 2.0, 1.0, 0.5],
            pretrain_image_shape=(56, 56, 3),
            window_size=2,
            global_attn_indexes=[1],
            **image,
            **sizes,
        ),
        text_encoder=layers.SAM3TextEncoder(vocabulary_size=64, embedding_dim=16, **sizes),
        geometry_encoder=layers.SAM3GeometryEncoder(roi_size=7, **sizes),
        detr_encoder=layers.SAM3DetrEncoder(**sizes),
        detr_decoder=layers.SAM3DetrDecoder(num_queries=10, **image, **sizes),
        mask_decoder=layers.SAM3MaskDecoder(num_upsampling_stages=3, hidden_dim=16, num_heads=2),
        dtype="float32",
    )


def vae():
    from keras_hub.src.models.vae.vae_backbone import VAEBackbone  # not exported

    return VAEBackbone(
        encoder_num_filters=[32, 32, 32, 32],
        encoder_num_blocks=[1, 1, 1, 1],
        decoder_num_filters=[32, 32, 32, 32],
        decoder_num_blocks=[1, 1, 1, 1],
        image_shape=(SIDE, SIDE, 3),
    )


def _stable_diffusion_3():
    import keras_hub

    text = keras_hub.models.CLIPTextEncoder
    sizes = {"vocabulary_size": 64, "num_layers": 2, "num_heads": 2, "intermediate_dim": 32}
    return _small(
        "StableDiffusion3Backbone",
        mmdit_patch_size=2,
        mmdit_hidden_dim=16 * 2,
        mmdit_num_layers=2,
        mmdit_num_heads=2,
        mmdit_position_size=192,
        mmdit_qk_norm="rms_norm",
        mmdit_dual_attention_indices=None,
        vae=vae(),
        clip_l=text(
            embedding_dim=16, hidden_dim=16, intermediate_output_index=0, name="clip_l", **sizes
        ),
        clip_g=text(
            embedding_dim=16, hidden_dim=16, intermediate_output_index=0, name="clip_g", **sizes
        ),
        image_shape=(SIDE, SIDE, 3),
    )


def _t5gemma(name):
    part = {
        "hidden_dim": 16,
        "intermediate_dim": 32,
        "num_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "layer_types": ["full_attention", "full_attention"],
    }
    both = {f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in part.items()}
    return _small(name, **both)


def _blip2():
    import keras_hub

    models = keras_hub.models
    language = _small("OPTBackbone")
    return models.BLIP2Backbone(vision_encoder=None, qformer=None, language_model=language)


_HUB: dict[str, Builder] = {
    "BASNetBackbone": lambda: _small(
        "BASNetBackbone",
        image_encoder=_resnet(
            input_conv_kernel_sizes=[3],
            stackwise_num_filters=[64, 128, 256, 512],
            stackwise_num_blocks=[2, 2, 2, 2],
            stackwise_num_strides=[1, 2, 2, 2],
            image_shape=(None, None, 3),
        ),
        num_classes=1,
    ),
    "BLIP2Backbone": _blip2,
    "CLIPBackbone": lambda: _two_towers("CLIPBackbone", projection_dim=8),
    "MetaCLIP2Backbone": lambda: _two_towers("MetaCLIP2Backbone", projection_dim=8),
    "SigLIPBackbone": lambda: _two_towers("SigLIPBackbone"),
    "CSPNetBackbone": lambda: _small(
        "CSPNetBackbone",
        stem_filters=32,
        stem_kernel_size=3,
        stem_strides=1,
        stackwise_depth=[1, 2],
        stackwise_strides=[1, 2],
        stackwise_num_filters=[32, 64],
        stage_type="dark",
        block_type="dark_block",
    ),
    "DFineBackbone": _d_fine,
    "DeepLabV3Backbone": lambda: _small(
        "DeepLabV3Backbone",
        image_encoder=_resnet(),
        projection_filters=8,
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P4",
        upsampling_size=4,
        dilation_rates=[2, 3, 4],
    ),
    "DenseNetBackbone": lambda: _small("DenseNetBackbone", stackwise_num_repeats=[2, 2]),
    "DepthAnythingBackbone": _depth_anything,
    "EfficientNetBackbone": lambda: _small(
        "EfficientNetBackbone",
        stackwise_kernel_sizes=[3, 3],
        stackwise_num_repeats=[2, 2],
        stackwise_input_filters=[24, 24],
        stackwise_output_filters=[24, 48],
        stackwise_expansion_ratios=[1, 4],
        stackwise_squeeze_and_excite_ratios=[0.25, 0.25],
        stackwise_strides=[1, 2],
        stackwise_block_types=["v1", "v1"],
        width_coefficient=1.0,
        depth_coefficient=1.0,
    ),
    "FluxBackbone": lambda: _small(
        "FluxBackbone",
        input_channels=16,
        hidden_size=24,
        mlp_ratio=2.0,
        num_heads=2,
        depth=2,
        depth_single_blocks=2,
        axes_dim=[4, 4, 4],
        theta=10_000,
        use_bias=True,
        image_shape=(8, 16),
        text_shape=(8, 16),
        image_ids_shape=(8, 3),
        text_ids_shape=(8, 3),
        y_shape=(16,),
    ),
    "Gemma3Backbone": lambda: _small("Gemma3Backbone", **GEMMA),
    "Gemma4Backbone": lambda: _small("Gemma4Backbone", **GEMMA),
    "Gemma3nBackbone": _gemma3n,
    "HGNetV2Backbone": _hgnet,
    "MiTBackbone": _mit,
    "MobileNetBackbone": lambda: _small(
        "MobileNetBackbone",
        stackwise_expansion=[[40, 56], [64, 144]],
        stackwise_num_blocks=[2, 2],
        stackwise_num_filters=[[16, 16], [24, 24]],
        stackwise_kernel_size=[[3, 3], [5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1, 1], [2, 2]],
        output_num_filters=48,
        input_activation="hard_swish",
        output_activation="hard_swish",
        input_num_filters=16,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        squeeze_and_excite=0.5,
        last_layer_filter=48,
    ),
    "MobileNetV5Backbone": lambda: _small(
        "MobileNetV5Backbone",
        stackwise_block_types=[["er"], ["uir", "uir"]],
        stackwise_num_blocks=[1, 2],
        stackwise_num_filters=[[24], [48, 48]],
        stackwise_strides=[[2], [2, 1]],
        stackwise_act_layers=[["relu"], ["relu", "relu"]],
        stackwise_exp_ratios=[[4.0], [6.0, 6.0]],
        stackwise_se_ratios=[[0.0], [0.0, 0.0]],
        stackwise_dw_kernel_sizes=[[0], [5, 5]],
        stackwise_dw_start_kernel_sizes=[[0], [0, 0]],
        stackwise_dw_end_kernel_sizes=[[0], [0, 0]],
        stackwise_exp_kernel_sizes=[[3], [0, 0]],
        stackwise_pw_kernel_sizes=[[1], [0, 0]],
        stackwise_num_heads=[[0], [0, 0]],
        stackwise_key_dims=[[0], [0, 0]],
        stackwise_value_dims=[[0], [0, 0]],
        stackwise_kv_strides=[[0], [0, 0]],
        stackwise_use_cpe=[[False], [False, False]],
        use_msfa=False,
    ),
    "MoonshineBackbone": lambda: _small(
        "MoonshineBackbone",
        filter_dim=16,
        encoder_num_layers=2,
        decoder_num_layers=2,
        encoder_num_heads=2,
        decoder_num_heads=2,
    ),
    "PARSeqBackbone": lambda: _small(
        "PARSeqBackbone",
        image_encoder=_small("ViTBackbone"),
        max_label_length=8,
        decoder_hidden_dim=16,
        num_decoder_layers=1,
        num_decoder_heads=2,
        decoder_mlp_dim=32,
    ),
    "PaliGemmaBackbone": lambda: _small(
        "PaliGemmaBackbone",
        vit_patch_size=16,
        vit_num_heads=2,
        vit_hidden_dim=16,
        vit_intermediate_dim=32,
        vit_num_layers=2,
    ),
    "ResNetBackbone": _resnet,
    "RetinaNetBackbone": lambda: _small(
        "RetinaNetBackbone",
        image_encoder=_resnet(
            stackwise_num_filters=[64, 64, 64, 64],
            stackwise_num_blocks=[1, 1, 1, 1],
            stackwise_num_strides=[1, 2, 2, 2],
            image_shape=(256, 256, 3),
        ),
        min_level=3,
        max_level=6,
        use_p5=False,
        use_fpn_batch_norm=True,
        image_shape=(256, 256, 3),
    ),
    "SAMBackbone": _sam,
    "SAM3PromptableConceptBackbone": _sam3,
    "SegFormerBackbone": lambda: _small(
        "SegFormerBackbone", image_encoder=_mit(), projection_filters=16
    ),
    "StableDiffusion3Backbone": _stable_diffusion_3,
    "SwinTransformerBackbone": lambda: _small(
        "SwinTransformerBackbone",
        embed_dim=8,
        depths=(2, 2),
        num_heads=(1, 2),
        window_size=4,
        patch_size=4,
    ),
    "T5GemmaBackbone": lambda: _t5gemma("T5GemmaBackbone"),
    "T5Gemma2Backbone": lambda: _t5gemma("T5Gemma2Backbone"),
    "VGGBackbone": lambda: _small(
        "VGGBackbone", stackwise_num_repeats=[1, 1], stackwise_num_filters=[8, 8]
    ),
    "ViTDetBackbone": lambda: _small(
        "ViTDetBackbone", global_attention_layer_indices=[1], num_output_channels=8, window_size=2
    ),
    "VideoPrismBackbone": lambda: _small(
        "VideoPrismBackbone",
        num_frames=2,
        num_spatial_layers=2,
        num_temporal_layers=2,
        num_auxiliary_layers=1,
    ),
    "XceptionBackbone": lambda: _small(
        "XceptionBackbone",
        stackwise_conv_filters=[[16, 32], [32, 48], [48, 48]],
        stackwise_pooling=[True, True, False],
    ),
}

_SHAPE = {"include_rescaling": False, "input_shape": (SIDE, SIDE, 3)}
_MOBILE = {
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "stackwise_kernel_sizes": [3, 3],
    "stackwise_num_repeats": [1, 2],
    "stackwise_input_filters": [32, 16],
    "stackwise_output_filters": [16, 24],
    "stackwise_expansion_ratios": [1, 6],
    "stackwise_strides": [1, 2],
}


def _from_cv(name, **arguments):
    import keras_cv

    return getattr(keras_cv.models, name)(**{**_SHAPE, **arguments})


def diffusion():
    from keras_cv.src.models.stable_diffusion.diffusion_model import DiffusionModel

    return DiffusionModel(64, 64, 16, download_weights=False)


_CV: dict[str, Builder] = {
    "CSPDarkNetBackbone": lambda: _from_cv(
        "CSPDarkNetBackbone", stackwise_channels=[16, 32], stackwise_depth=[1, 1]
    ),
    "CenterPillarBackbone": lambda: __import__("keras_cv").models.CenterPillarBackbone(
        stackwise_down_blocks=[2, 2],
        stackwise_down_filters=[16, 32],
        stackwise_up_filters=[16, 16],
        input_shape=(64, 64, 16),
    ),
    "DenseNetBackbone": lambda: _from_cv("DenseNetBackbone", stackwise_num_repeats=[2, 2]),
    "EfficientNetLiteBackbone": lambda: _from_cv("EfficientNetLiteBackbone", **_MOBILE),
    "EfficientNetV1Backbone": lambda: _from_cv(
        "EfficientNetV1Backbone", **_MOBILE, stackwise_squeeze_and_excite_ratios=[0.25, 0.25]
    ),
    "EfficientNetV2Backbone": lambda: _from_cv(
        "EfficientNetV2Backbone",
        **_MOBILE,
        stackwise_squeeze_and_excite_ratios=[0.0, 0.25],
        stackwise_conv_types=["fused", "unfused"],
    ),
    "MiTBackbone": lambda: _from_cv(
        "MiTBackbone", depths=[1, 1, 1, 1], embedding_dims=[8, 16, 40, 64]
    ),
    "MobileNetV3Backbone": lambda: _from_cv(
        "MobileNetV3Backbone",
        stackwise_expansion=[1, 72.0 / 16],
        stackwise_filters=[16, 24],
        stackwise_kernel_size=[3, 3],
        stackwise_stride=[2, 1],
        stackwise_se_ratio=[0.25, None],
        stackwise_activation=["relu", "relu"],
    ),
    "ResNetBackbone": lambda: _from_cv(
        "ResNetBackbone",
        stackwise_filters=[64, 128],
        stackwise_blocks=[2, 2],
        stackwise_strides=[1, 2],
        block_type="basic_block",
    ),
    "ResNetV2Backbone": lambda: _from_cv(
        "ResNetV2Backbone",
        stackwise_filters=[64, 128],
        stackwise_blocks=[2, 2],
        stackwise_strides=[1, 2],
    ),
    "VGG16Backbone": lambda: _from_cv("VGG16Backbone", include_top=False),
    "ViTDetBackbone": lambda: _from_cv(
        "ViTDetBackbone",
        embed_dim=16,
        depth=2,
        mlp_dim=32,
        num_heads=2,
        out_chans=8,
        window_size=2,
        global_attention_indices=[1],
    ),
    "VideoSwinBackbone": lambda: _from_cv(
        "VideoSwinBackbone",
        input_shape=(8, SIDE, SIDE, 3),
        embed_dim=8,
        window_size=[2, 4, 4],
        depths=[2, 2],
        num_heads=[1, 2],
    ),
    "YOLOV8Backbone": lambda: _from_cv(
        "YOLOV8Backbone", stackwise_channels=[16, 32, 32, 64], stackwise_depth=[1, 1, 1, 1]
    ),
}
