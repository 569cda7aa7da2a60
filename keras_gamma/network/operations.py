"""What each Keras operation and built-in layer does to the scale of its input.

Two tables, from names to `Kind`: one for the operations behind `keras.ops`, which turn up when a
layer is opened, and one for built-in layers that need not be opened, because their documentation
says all there is to know. What is in neither table is opened; what cannot be opened is opaque.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_gamma._keras import layers as _keras
from keras_gamma.network.backend_operations import KERAS_NAMES
from keras_gamma.network.graph import Kind


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Elementwise sums. (A difference is a sum with a sign: it moves variance in the same way.)
_SUMS = _names("Add Subtract")
# The value is the input's, moved or relabelled.
_IDENTITIES = _names(
    "Cast SaturateCast ConvertToTensor Copy Array StopGradient Reshape Ravel Squeeze ExpandDims "
    "Transpose Swapaxes Moveaxis Rearrange NanToNum View Real"
)
# Linear in one data operand; pooling counts as linear (`../docs/roles.md`).
_LINEAR = _names(
    "Sum Mean Average Cumsum Nansum Nanmean Nancumsum Negative Conj Conjugate Imag BroadcastTo "
    "Tile Repeat Roll Flip Fliplr Flipud Rot90 Pad Diag Diagflat Diagonal Trace Tril Triu Diff "
    "Trapezoid Take TakeAlongAxis GetItem Slice SliceUpdate Scatter ScatterUpdate Split ArraySplit "
    "Hsplit Vsplit Dsplit Unstack Concatenate Append Stack Hstack Vstack Dstack Where Select FFT "
    "FFT2 IFFT2 RFFT IRFFT STFT ISTFT ExtractSequences ViewAsComplex ViewAsReal SegmentSum "
    "SegmentReduction Conv ConvTranspose DepthwiseConv SeparableConv AveragePool MaxPool "
    "AdaptiveAveragePool AdaptiveMaxPool DepthToSpace SpaceToDepth Fold Unfold Resize "
    "AffineTransform CropImages ExtractPatches ExtractPatches3D GaussianBlur PadImages "
    "PerspectiveTransform RGBToGrayscale MapCoordinates ElasticTransform ScaleAndTranslate "
    "SobelEdges Meshgrid Deg2rad Rad2deg ColumnStack ReconstructPatches"
)
# Linear where one operand is data, a product where two are.
_PRODUCTS = _names(
    "Multiply Matmul Einsum Dot Tensordot Inner Outer Vdot Kron Cross Correlate Divide "
    "TrueDivide DivideNoNan"
)
_SOFTMAXES = _names("Softmax LogSoftmax Sparsemax")
_NORMS = _names("BatchNorm LayerNorm RMSNorm Normalize")
# Nonlinear, but scaling the input scales the output by the same factor.
_HOMOGENEOUS = _names(
    "Relu ReLU LeakyRelu Abs Absolute Fabs Max Amax Min Amin Nanmax Nanmin Maximum Minimum Fmax "
    "Fmin Median Nanmedian Quantile Percentile Nanquantile Nanpercentile Std Nanstd Sort Norm "
    "Ptp TopK SegmentMax SegmentMin Hypot"
)
_NONLINEAR = _names(
    "Angle Arccos Arccosh Arcsin Arcsinh Arctan Arctan2 Arctanh Cbrt Celu Clip Corrcoef Cos Cosh "
    "Cumprod Det Elu Erf Erfc Erfinv Exp Exp2 Expm1 Fmod Gelu Glu HSVToRGB HardShrink "
    "HardSigmoid HardSilu HardTanh I0 Ldexp Log Log10 Log1p Log2 LogSigmoid Logaddexp Logaddexp2 "
    "Logdet Logsumexp Mish Mod Moments Nanprod Nanvar Nancumprod Nextafter Polar Power "
    "Prod RGBToHSV Reciprocal Relu6 Rsqrt SegmentProd Selu Sigmoid Silu Sin Sinc Sinh Slogdet "
    "SoftShrink Softplus Softsign SparsePlus SparseSigmoid Sqrt Square Squareplus Tan TanhShrink "
    "Tanh Threshold Vander Var Floor Ceil Round Trunc CDist Cholesky CholeskyInverse Eig "
    "Eigh Inv Lstsq LuFactor Pinv Qr SVD Solve SolveTriangular FakeQuantWithMinMaxVars SSIM PSNR "
    "BinaryCrossentropy CategoricalCrossentropy SparseCategoricalCrossentropy CTCLoss Copysign Cov "
    "FloatPower Gammainc Lgamma MatrixPower"
)
# Their values do not follow the scale of what they are computed from.
_SCALELESS = _names(
    "Nanargmax Nanargmin Bartlett Blackman Hamming Hanning Kaiser All AllClose Any Arange Argmax "
    "Argmin Argpartition Argsort Bincount BitwiseAnd BitwiseInvert BitwiseLeftShift BitwiseNot "
    "BitwiseOr BitwiseRightShift BitwiseXor CountNonzero Digitize Empty EmptyLike Equal Eye "
    "FloorDivide Full FullLike Gcd Geomspace Greater GreaterEqual Heaviside Histogram Identity "
    "InTopK IsIn Isclose Isfinite Isinf Isnan Isneginf Isposinf Isreal Lcm LeftShift Less "
    "LessEqual Linspace LogicalAnd LogicalNot LogicalOr LogicalXor Logspace MatrixRank MultiHot "
    "Ndim Nonzero NotEqual OneHot Ones OnesLike RightShift SearchSorted Sign Signbit Size Tri "
    "Unique UnravelIndex Zeros ZerosLike CTCDecode"
)
# Operations that run a function of the user's: what happens inside is not seen.
_UNSEEN = _names("AssociativeScan Cond ForiLoop JVP Map Scan Switch VectorizedMap WhileLoop")
# Of a new Keras, and nobody knows yet what they do to the scale: opaque, as what is in no table.
_UNKNOWN = _names("")

KINDS = {
    **dict.fromkeys(_SUMS, Kind.SUM),
    **dict.fromkeys(_IDENTITIES, Kind.IDENTITY),
    **dict.fromkeys(_LINEAR, Kind.LINEAR),
    **dict.fromkeys(_PRODUCTS, Kind.PRODUCT),
    **dict.fromkeys(_SOFTMAXES, Kind.SOFTMAX),
    **dict.fromkeys(_NORMS, Kind.NORM),
    **dict.fromkeys(_HOMOGENEOUS | _NONLINEAR, Kind.NONLINEAR),
    **dict.fromkeys(_UNSEEN | _UNKNOWN, Kind.OPAQUE),
    "DotProductAttention": Kind.ATTENTION,
}


def name_of(operation: Any) -> str | None:
    """Keras' name for an operation of its own, or of a backend's graph; `None` for any other."""
    backend_type = getattr(operation, "type", None)
    if isinstance(backend_type, str):
        return KERAS_NAMES.get(backend_type, backend_type)
    if _keras.is_operation_class_of_keras(operation):
        return type(operation).__name__
    return None


def kind_of_operation(operation: Any) -> Kind | None:
    """`Kind` of an operation; `None` if it yields no scale; opaque if it is not known."""
    name = name_of(operation)
    if name is None:
        return Kind.OPAQUE
    if name in _SCALELESS:
        return None
    return KINDS.get(name, Kind.OPAQUE)


def is_unseen(operation: Any) -> bool:
    """Whether `operation` runs a function of the user's, once or in a loop."""
    return name_of(operation) in _UNSEEN


def is_homogeneous(operation: Any) -> bool:
    """Whether a nonlinear operation passes a positive factor through."""
    if isinstance(operation, keras.layers.ReLU):
        return operation.max_value is None and not operation.threshold
    if isinstance(operation, _HOMOGENEOUS_LAYERS):
        return True
    if isinstance(operation, keras.Layer):
        return _activation(operation) in _HOMOGENEOUS_ACTIVATIONS
    return name_of(operation) in _HOMOGENEOUS


def _layers(text: str) -> tuple[type, ...]:
    # A class that an older or newer Keras lacks is left out: its instances are then opened.
    return tuple(
        getattr(keras.layers, name) for name in text.split() if hasattr(keras.layers, name)
    )


def _activations(text: str) -> tuple[Any, ...]:
    return tuple(
        getattr(keras.activations, name)
        for name in text.split()
        if hasattr(keras.activations, name)
    )


_HOMOGENEOUS_LAYERS = _layers(
    "LeakyReLU PReLU GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D"
)
_HOMOGENEOUS_ACTIVATIONS = (keras.activations.relu, keras.activations.leaky_relu)

_LAYER_KINDS = {
    **dict.fromkeys(
        _layers(
            "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D AlphaDropout "
            "GaussianDropout GaussianNoise ActivityRegularization Identity Flatten Reshape "
            "Permute Masking "
            # These change images in training only.
            "RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast "
            "RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale "
            "RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation "
            "RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom"
        ),
        Kind.IDENTITY,
    ),
    **dict.fromkeys(
        _layers(
            "AveragePooling1D AveragePooling2D AveragePooling3D GlobalAveragePooling1D "
            "GlobalAveragePooling2D GlobalAveragePooling3D MaxPooling1D MaxPooling2D "
            "MaxPooling3D UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D "
            "ZeroPadding3D Cropping1D Cropping2D Cropping3D Resizing Rescaling Normalization "
            "RepeatVector Concatenate CenterCrop GlobalMaxPooling1D GlobalMaxPooling2D "
            "GlobalMaxPooling3D Embedding RandomCrop"
        ),
        Kind.LINEAR,
    ),
    **dict.fromkeys(_layers("ReLU LeakyReLU PReLU ELU"), Kind.NONLINEAR),
    **dict.fromkeys(_layers("LSTM GRU SimpleRNN ConvLSTM1D ConvLSTM2D ConvLSTM3D"), Kind.NONLINEAR),
    **dict.fromkeys(_layers("Softmax"), Kind.SOFTMAX),
    **dict.fromkeys(_layers("AdditiveAttention"), Kind.ATTENTION),
}
_ACTIVATED = _layers(
    "Dense Conv1D Conv2D Conv3D DepthwiseConv1D DepthwiseConv2D SeparableConv1D SeparableConv2D "
    "Conv1DTranspose Conv2DTranspose Conv3DTranspose Activation"
)
# Opened where that works, since opening infers their shapes better than they do themselves; if not
# (quantized, say), what they do is known all the same.
_OPENED_FIRST = _layers("EinsumDense")
_NONLINEAR_ACTIVATIONS = _activations(
    "relu relu6 leaky_relu elu selu celu gelu silu mish sigmoid hard_sigmoid hard_silu tanh "
    "hard_tanh softplus softsign exponential squareplus log_sigmoid sparse_plus tanh_shrink "
    "soft_shrink hard_shrink threshold sparse_sigmoid"
)
_SOFTMAX_ACTIVATIONS = _activations("softmax log_softmax sparsemax")


def _activation(layer: keras.Layer) -> Any:
    return getattr(layer, "activation", None)


def kind_of_layer(layer: keras.Layer, closed: bool = False) -> Kind | None:
    """`Kind` of a built-in layer that need not be opened, else `None`.

    A subclass counts as its built-in parent only if it runs the parent's own `call`.

    Args:
        layer: a `keras.Layer`.
        closed: bool. Whether opening was tried and failed.
    """
    if isinstance(layer, keras.Model):
        return None
    definer = _definer(type(layer))
    if definer in _LAYER_KINDS:
        return _LAYER_KINDS[definer]
    if definer not in _ACTIVATED and not (closed and definer in _OPENED_FIRST):
        return None
    activation = _activation(layer)
    if activation is None or activation is keras.activations.linear:
        return Kind.LINEAR
    if activation in _SOFTMAX_ACTIVATIONS:
        return Kind.SOFTMAX
    if activation in _NONLINEAR_ACTIVATIONS:
        return Kind.NONLINEAR
    return None


def _definer(cls: type) -> type | None:
    """The nearest class in the tables whose `call` is the one that `cls` runs."""
    for parent in cls.__mro__:
        if parent in _LAYER_KINDS or parent in _ACTIVATED or parent in _OPENED_FIRST:
            return parent if parent.call is cls.call else None  # type: ignore[attr-defined]
    return None


# How the result scales if the data scales by c: by c to this power.
_POWERS = {
    "Square": 2.0,
    "Sqrt": 0.5,
    "Rsqrt": -0.5,
    "Reciprocal": -1.0,
    "Var": 2.0,
    "Nanvar": 2.0,
}
# Up to where it cuts off: `maximum(norm, ε)`.
_CUT = _names("Clip Maximum Minimum")
_EPSILON = 0.1  # the largest number that is taken for an ε
_QUOTIENTS = _names("Divide TrueDivide DivideNoNan")


def inverts(operation: Any, args: Sequence[Any], data: Sequence[Any]) -> bool:
    """Whether it divides a constant by the one tensor in `data`."""
    return divides(operation) and len(data) == 1 and len(args) == 2 and args[1] is data[0]


def divides(operation: Any) -> bool:
    """Whether a product is a quotient, of its first operand by its second."""
    return name_of(operation) in _QUOTIENTS


def _number(value: Any) -> float | None:
    """The one number that a constant operand is, of Python, NumPy or a backend; else `None`."""
    if hasattr(value, "number"):  # of a backend's graph
        value = value.number() if value.shape in ((), (1,)) else None
    if value is None or isinstance(value, (keras.KerasTensor, keras.Variable)):
        return None
    if not isinstance(value, (int, float)):
        is_array = isinstance(value, (np.ndarray, np.generic)) or keras.ops.is_tensor(value)
        if not is_array or math.prod(value.shape) != 1:
            return None
        value = keras.ops.convert_to_numpy(value).item()
    return float(value) if isinstance(value, (int, float)) else None


def _is_large(value: Any) -> bool:
    """Whether it is one number, and too large for an ε."""
    return abs(_number(value) or 0.0) > _EPSILON


def power_of(operation: Any, args: Sequence[Any]) -> float | str | None:
    """How an operation's result depends on the scale of its data.

    Returns:
        A float, the power of c by which the result scales if all data scale by c (constants that
        are added, such as ε, are taken for small); `"product"` or `"quotient"` of two operands; or
        `None` if it does not scale by any power.
    """
    if isinstance(operation, keras.layers.Add):
        return 1.0
    if isinstance(operation, keras.Layer):
        kind = kind_of_layer(operation)
        scales = kind is Kind.NONLINEAR and is_homogeneous(operation)
        return 1.0 if scales or kind in (Kind.LINEAR, Kind.IDENTITY) else None
    name = name_of(operation)
    data = [i for i, arg in enumerate(args) if isinstance(arg, keras.KerasTensor)]
    if name in _PRODUCTS:
        if len(data) > 1:
            return "quotient" if divides(operation) else "product"
        return -1.0 if divides(operation) and data == [1] else 1.0
    if name in ("Power", "FloatPower"):
        return _number(args[1]) if len(args) > 1 and data == [0] else None
    if name in _POWERS:
        return _POWERS[name]
    if name in _SUMS and any(_is_large(arg) for arg in args):
        return None  # `x / (1 + |x|)` is no normalization.
    if name in _CUT or name in _HOMOGENEOUS or name in _LINEAR | _IDENTITIES | _SUMS:
        return 1.0
    return None
