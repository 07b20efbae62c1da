"""The functions that an exported program may call: those that compute a result from their arguments alone.

A list of what is allowed, since torch's other operators do more: ``aten.from_file`` maps any file for
writing, ``aten.rand`` draws random numbers, ``aten.set_`` and ``aten.resize_`` show memory that nothing has
written. The list has what the classification networks of torchvision and timm use, and what is like it.
"""

from typing import Any

import torch

_LAYERS = """
    _adaptive_avg_pool2d _log_softmax _native_batch_norm_legit_no_training _softmax _upsample_bicubic2d_aa
    _upsample_bilinear2d_aa adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d addmm alpha_dropout
    avg_pool1d avg_pool2d baddbmm batch_norm bmm channel_shuffle col2im constant_pad_nd conv1d conv2d
    conv_transpose2d convolution dropout einsum embedding feature_dropout grid_sampler group_norm gru im2col
    instance_norm layer_norm linear log_softmax lstm matmul max_pool1d max_pool2d max_pool2d_with_indices mm
    native_batch_norm native_dropout native_group_norm native_layer_norm pad pixel_shuffle pixel_unshuffle
    reflection_pad2d replication_pad2d rms_norm scaled_dot_product_attention softmax upsample_bicubic2d
    upsample_bilinear2d upsample_nearest1d upsample_nearest2d
"""
_ELEMENTWISE = """
    abs add addcdiv addcmul atan bitwise_and bitwise_not bitwise_or bitwise_xor ceil celu clamp clamp_max
    clamp_min cos cosh div divide elu eq erf exp expm1 floor floor_divide fmod ge gelu gt hardsigmoid
    hardswish hardtanh isinf isnan le leaky_relu lerp log log10 log1p log2 log_sigmoid logical_and
    logical_not logical_or logical_xor lt masked_fill maximum minimum mish mul multiply nan_to_num ne neg
    pow prelu reciprocal relu relu6 remainder round rsqrt rsub selu sigmoid sign silu sin sinh softplus sqrt
    square sub subtract tan tanh threshold true_divide trunc where
"""
_REDUCTIONS = """
    all amax amin any argmax argmin cumsum linalg_vector_norm logsumexp max mean min norm prod sort std sum
    topk var var_mean
"""
_SHAPES = """
    _to_copy _unsafe_view alias as_strided cat chunk clone concat contiguous detach diagonal expand
    expand_as flatten flip gather index index_select lift_fresh_copy meshgrid moveaxis movedim narrow
    numpy_T one_hot permute repeat repeat_interleave reshape reshape_as roll scatter select slice split
    split_with_sizes squeeze stack swapaxes swapdims t tile to transpose tril triu type_as unbind unflatten
    unfold unsqueeze view view_as
"""
_CONSTANTS = """
    arange eye full full_like linspace new_full new_ones new_zeros ones ones_like scalar_tensor zeros
    zeros_like
"""
_IN_PLACE = """
    add_ alpha_dropout_ celu_ clamp_ clamp_max_ clamp_min_ copy_ div_ dropout_ elu_ exp_ feature_dropout_
    fill_ gelu_ hardsigmoid_ hardswish_ hardtanh_ leaky_relu_ masked_fill_ mish_ mul_ neg_ pow_ relu6_ relu_
    rsqrt_ selu_ sigmoid_ silu_ sqrt_ square_ sub_ tanh_ threshold_ zero_
"""
_SIZES = "sym_numel sym_size sym_storage_offset sym_stride"
_CHECKS = (
    "_assert_async _assert_scalar _assert_tensor_metadata sym_constrain_range sym_constrain_range_for_size"
)

PURE = frozenset(f"{_LAYERS} {_ELEMENTWISE} {_REDUCTIONS} {_SHAPES} {_CONSTANTS}".split())
IN_PLACE = frozenset(_IN_PLACE.split())
WITHOUT_TENSORS = frozenset(f"{_SIZES} {_CHECKS}".split())
# Arithmetic of sizes. No powers or factorials, whose results can be of any length.
_OPERATOR = "add and_ eq floordiv ge getitem gt le lt mod mul ne neg or_ sub truediv"
ARITHMETIC = frozenset(
    [f"_operator.{name}" for name in _OPERATOR.split()]
    + [f"math.{name}" for name in ("ceil", "floor", "trunc")]
    + [f"torch.sym_{name}" for name in ("float", "int", "ite", "max", "min", "not")]
)
_CHOICES = frozenset(
    ("approximate", "mode", "equation", "reduce", "rounding_mode", "indexing", "padding", "assert_msg")
)
"""Arguments that are texts: names of a way to compute, and a message."""

_ATEN = "torch.ops.aten."


def is_pure(target: str) -> bool:
    """Return whether ``target``, such as ``torch.ops.aten.relu.default``, may be called.

    An operator must return tensors and write to none, as its schema says; those in place write to their first
    argument, and takes no text but ``_CHOICES``. So overloads with an argument ``out``, for names of
    dimensions, or for strings and lists of TorchScript, are none.
    """
    if not target.startswith(_ATEN):
        return target in ARITHMETIC
    name, _, overload = target.removeprefix(_ATEN).partition(".")
    if name in WITHOUT_TENSORS:
        return True
    if name not in PURE | IN_PLACE:
        return False
    schema = _schema(name, overload or "default")
    if schema is None or schema.is_mutable != (name in IN_PLACE):
        return False
    if any("str" in str(value.type) and value.name not in _CHOICES for value in schema.arguments):
        return False
    returned = [str(value.type) for value in schema.returns]
    return bool(returned) and all(kind in ("Tensor", "List[Tensor]") for kind in returned)


def _schema(name: str, overload: str) -> Any:
    packet = getattr(torch.ops.aten, name)
    return getattr(packet, overload)._schema if overload in packet.overloads() else None
