"""Which operations of torch have no steps: those listed here, on the values that they can meet; no others.

An operation that is listed is smooth, or has kinks (relu, abs, max) that a gradient does not mind. A partial one is listed with
the operand that must keep away from its pole, which `ppl_gen.program.bounds` must prove. A wrong suspicion costs variance, never bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ppl_gen.backends.torch.operators import Operation
from ppl_gen.backends.torch.ranges import Ranges
from ppl_gen.program.bounds import ANY, TINY, may_step, power_may_step

# Element by element.
_ELEMENTS = """add sub rsub mul neg positive abs square exp exp2 expm1 sigmoid tanh sin cos sinh cosh atan arctan asinh erf erfc
    softplus gelu silu mish elu celu selu relu relu6 leaky_relu _prelu_kernel prelu hardtanh hardsigmoid hardswish softshrink
    rrelu_with_noise rrelu_with_noise_functional log_sigmoid_forward clamp clamp_min clamp_max clip maximum minimum fmax fmin
    lerp addcmul logaddexp logaddexp2 hypot sinc i0 special_i0e special_i1 special_i1e special_erfcx special_log_ndtr
    special_ndtr deg2rad rad2deg nan_to_num where masked_fill native_dropout _fused_dropout complex polar _conj
    _conj_physical conj_physical real imag view_as_real view_as_complex _neg_view sigmoid_backward tanh_backward
    softplus_backward silu_backward mish_backward gelu_backward log_sigmoid_backward"""
# What only moves, copies or makes elements.
_MOVES = """clone copy _to_copy alias detach lift lift_fresh lift_fresh_copy view _unsafe_view _reshape_alias reshape as_strided
    expand permute transpose t squeeze unsqueeze select slice narrow split split_with_sizes unbind unfold diagonal
    movedim unsafe_split unsafe_split_with_sizes unsafe_chunk cat stack hstack vstack repeat flip roll rot90 tril triu diag_embed diag
    block_diag constant_pad_nd index _unsafe_index index_select gather take embedding masked_select masked_scatter
    index_put _unsafe_index_put _index_put_impl index_add index_copy index_fill scatter scatter_add scatter_reduce
    slice_scatter select_scatter diagonal_scatter as_strided_scatter slice_backward select_backward
    expand_copy view_copy permute_copy slice_copy select_copy squeeze_copy unsqueeze_copy transpose_copy t_copy diagonal_copy
    unfold_copy split_copy split_with_sizes_copy unbind_copy as_strided_copy detach_copy _reshape_copy contiguous
    zeros zeros_like ones ones_like full full_like empty empty_like new_empty new_zeros new_ones new_full fill zero
    new_empty_strided empty_strided rand_like randn_like randint_like eye arange scalar_tensor set resize pixel_shuffle
    pixel_unshuffle channel_shuffle col2im im2col reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d _pin_memory requires_grad set_data _make_dual _fw_primal trace_copy expand_as
    uniform exponential randn rand _lazy_clone _resize_output values_copy cudnn_affine_grid_generator affine_grid_generator"""
# Sums, products, and what is continuous of an order: kinks at most.
_REDUCTIONS = """sum nansum mean nanmean prod amax amin aminmax max min cumsum cumprod cummax cummin _cummax_helper
    _cummin_helper logsumexp logcumsumexp _logcumsumexp linalg_vector_norm norm var std var_mean std_mean _softmax
    _log_softmax _safe_softmax _masked_softmax softmax log_softmax sort topk kthvalue median nanmedian dist _cdist_forward
    _euclidean_dist _pdist_forward trace renorm _softmax_backward_data _log_softmax_backward_data
    mse_loss smooth_l1_loss huber_loss soft_margin_loss binary_cross_entropy_with_logits nll_loss_forward nll_loss2d_forward
    multi_margin_loss glu"""
_PRODUCTS = """mm bmm mv dot vdot addmm addmv baddbmm addbmm addr _addmm_activation matmul linear mkldnn_linear _trilinear cross
    linalg_cross kron convolution mkldnn_convolution cudnn_convolution convolution_overrideable avg_pool2d avg_pool3d
    _adaptive_avg_pool2d _adaptive_avg_pool3d mkldnn_adaptive_avg_pool2d max_pool2d_with_indices max_pool3d_with_indices
    mkldnn_max_pool2d mkldnn_max_pool3d adaptive_max_pool2d adaptive_max_pool3d max_unpool2d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler_2d grid_sampler_3d _grid_sampler_2d_cpu_fallback
    _fft_r2c _fft_c2r _fft_c2c _embedding_bag embedding_bag
    _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
    _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention
    _native_multi_head_attention _transformer_encoder_layer_fwd _transform_bias_rescale_qkv mkldnn_rnn_layer _cudnn_rnn
    _thnn_fused_lstm_cell _thnn_fused_gru_cell"""
# Of matrices: a Cholesky factor fails, loudly, where its matrix has none; eigenvalues and singular values have kinks.
_MATRICES = """cholesky linalg_cholesky_ex linalg_matrix_exp matrix_exp _linalg_det _linalg_eigh _linalg_svd
    linalg_householder_product"""
# Samplers, the derivative of whose draws torch knows.
_DRAWS = "_standard_gamma _sample_dirichlet _standard_gamma_grad _dirichlet_grad"
SMOOTH = frozenset(" ".join((_ELEMENTS, _MOVES, _REDUCTIONS, _PRODUCTS, _MATRICES, _DRAWS)).split())

_ALIASES = {"true_divide": "div", "special_zeta": "zeta", "special_ndtri": "ndtri", "special_entr": "entr"}
_ALIASES |= {"special_xlog1py": "xlog1py"}
# Partial functions that are looked up in `ppl_gen.program.bounds`, and which operand must keep from the pole.
_PARTIAL = {"div": 1, "reciprocal": 0, "polygamma": 1, "zeta": 1, "xlogy": 1, "xlog1py": 1} | dict.fromkeys(
    """log log2 log10 log1p sqrt rsqrt tan lgamma digamma erfinv asin acos acosh atanh logit ndtri entr""".split(), 0
)
# Normalizations: what is added to the variance, by place.
_NORMALIZED = {"native_layer_norm": 4, "native_group_norm": 7, "native_batch_norm": 7, "_native_batch_norm_legit": -1}
_NORMALIZED |= {"_native_batch_norm_legit_no_training": -1, "_batch_norm_with_update": -1, "cudnn_batch_norm": 7}
_NORMALIZED |= {"_fused_rms_norm": 3}
# What solves with a triangular factor, and where it stands.
_FACTORED = {"linalg_solve_triangular": 0, "triangular_solve": 1, "cholesky_solve": 1, "cholesky_inverse": 0}


def steps(operation: Operation, ranges: Ranges) -> list[Tensor] | None:
    """The operands at which an operation may step; none of a smooth one.

    Returns:
        None where the operation is not known: it may step at each of them.
    """
    args, name = operation.args, _ALIASES.get(operation.name, operation.name)
    if name in ("linalg_vector_norm", "norm", "_cdist_forward", "dist", "_pdist_forward"):
        return None if _is_odd_norm(name, args) else []
    if name in SMOOTH or name.removeprefix("_foreach_") in SMOOTH or (name == "threshold" and args[1] == args[2]):
        return []
    if name in _NORMALIZED:
        eps = args[_NORMALIZED[name]]
        return [] if eps is None or eps >= 1e-7 else None  # under a root; less is a step to every draw
    return _partial_steps(name, operation, ranges)


def _partial_steps(name: str, operation: Operation, ranges: Ranges) -> list[Tensor] | None:
    """Likewise, of an operation that has a pole or an edge; None where it is none of these."""
    args = operation.args
    if name == "pow":
        return _power_steps(args, ranges)
    if name == "addcdiv":
        return _where(may_step("div", [ANY, ranges.of(args[2]).bounds]), args[2])
    if name in ("logit", "binary_cross_entropy"):
        return _near_the_ends(name, operation, ranges)
    if name in _FACTORED:
        factor = args[_FACTORED[name]]
        return _where(not ranges.of(factor).factor, factor)
    if name in _PARTIAL and operation.kwargs.get("rounding_mode") is None:
        operands = [ranges.of(value).bounds for value in args]
        return _where(may_step(name, operands), args[_PARTIAL[name]])
    return None


def _where(steps: bool, operand: object) -> list[Tensor]:
    return [operand] if steps and isinstance(operand, Tensor) else []


def _power_steps(args: Sequence[Any], ranges: Ranges) -> list[Tensor]:
    base, exponent = args[0], args[1]
    constant = float(exponent) if isinstance(exponent, int | float) else None
    if power_may_step(ranges.of(base).bounds, constant):
        return [value for value in (base, exponent) if isinstance(value, Tensor)]
    return []


def _near_the_ends(name: str, operation: Operation, ranges: Ranges) -> list[Tensor]:
    """A logit that is kept from 0 and 1 by its own argument has kinks only; torch bounds its cross entropy."""
    args = operation.args
    eps = args[1] if len(args) > 1 else operation.kwargs.get("eps")
    if name == "binary_cross_entropy" or (eps is not None and eps > TINY):
        return []
    return _where(may_step("logit", [ranges.of(args[0]).bounds]), args[0])


def _is_odd_norm(name: str, args: Sequence[Any]) -> bool:
    """Of an order below one: that of 0 counts."""
    place = {"linalg_vector_norm": 1, "norm": 1, "_cdist_forward": 2, "dist": 2, "_pdist_forward": 1}[name]
    order = args[place] if len(args) > place else 2
    return isinstance(order, int | float) and order < 1


__all__ = ["SMOOTH", "steps"]
