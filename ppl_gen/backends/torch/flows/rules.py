"""What each aten operation does to marks: which elements of its results may depend on which elements of its operands.

A rule may let through too much (which costs variance), never too little. What has no rule mixes everything.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ppl_gen.backends.torch.flows.call import Call, Words, mixed
from ppl_gen.backends.torch.flows.elementwise import (
    along,
    last,
    moved,
    nothing,
    overwritten,
    padded,
    pointwise,
    reduction,
)
from ppl_gen.backends.torch.flows.indexing import (
    embedding,
    gather,
    index_add,
    index_put,
    index_rule,
    index_select,
    scatter,
)
from ppl_gen.backends.torch.flows.layers import (
    attention,
    batch_norm,
    bucketed,
    layer_norm,
    leading,
    likelihood,
    loss,
    recurrent,
    searched,
)
from ppl_gen.backends.torch.flows.products import added_product, distances, matrices, outer, product


def flow(call: Call) -> list[Words]:
    """Words of `call.outs`."""
    rule = RULES.get(call.name)
    if rule is None and (torch.Tag.pointwise in call.func.tags if hasattr(call.func, "tags") else False):
        rule = pointwise
    if rule is not None:
        try:
            found = rule(call)
            return [_fits(words, out, call) for words, out in zip(found, call.outs, strict=True)]
        except (RuntimeError, IndexError, TypeError, ValueError, AttributeError, KeyError):
            pass  # called in a way that the rule does not know
    return mixed(call)


def _fits(words: Words, out: Tensor, call: Call) -> Words:
    return None if words is None else words.to(out.device).expand(out.shape)


RULES: dict[str, Callable[[Call], list[Words]]] = {}


def _rule(rule: Callable[[Call], list[Words]], names: str) -> None:
    RULES.update(dict.fromkeys(names.split(), rule))


_rule(
    pointwise,
    """where lerp bernoulli normal poisson binomial _standard_gamma _standard_gamma_grad _dirichlet_grad native_dropout
    rrelu_with_noise rrelu_with_noise_functional masked_fill clamp polygamma nan_to_num heaviside copysign gcd lcm
    softplus softplus_backward softshrink hardshrink gelu gelu_backward silu_backward mish_backward sigmoid_backward
    tanh_backward threshold threshold_backward leaky_relu leaky_relu_backward elu elu_backward hardtanh
    hardtanh_backward hardswish hardswish_backward hardsigmoid hardsigmoid_backward log_sigmoid_forward
    log_sigmoid_backward logit logit_backward softshrink_backward hardshrink_backward _prelu_kernel prelu isin
    _conj _neg_view isnan isinf isfinite special_erfcx special_zeta lift_fresh_copy _fused_dropout mvlgamma
    complex polar view_as_complex_copy view_as_real_copy clone _to_copy lift_fresh lift contiguous _resize_output alias_copy""",
)
_rule(overwritten, "copy fill")
_rule(
    nothing,
    """empty_like zeros_like ones_like full_like rand_like randn_like randint_like new_empty new_zeros new_ones new_full
    new_empty_strided zero uniform exponential geometric cauchy log_normal random""",
)
_rule(
    moved,
    """cat stack repeat flip roll rot90 permute_copy expand_copy view_copy slice_copy select_copy squeeze_copy
    unsqueeze_copy transpose_copy t_copy tril triu diag_embed diagonal_copy diagonal_scatter select_scatter slice_scatter
    as_strided_copy as_strided_scatter unfold_copy split_copy split_with_sizes_copy unbind_copy pixel_shuffle
    pixel_unshuffle channel_shuffle block_diag narrow_copy _reshape_copy diag hstack vstack unsafe_split
    unsafe_split_with_sizes unsafe_chunk _reshape_alias_copy""",
)
_rule(padded, "constant_pad_nd")
_rule(
    reduction,
    """sum nansum mean nanmean prod amax amin aminmax max min any all argmax argmin logsumexp norm linalg_vector_norm var std
    var_mean std_mean median nanmedian mode kthvalue count_nonzero trace""",
)
_rule(
    along,
    """_softmax _log_softmax _safe_softmax softmax log_softmax cumsum cumprod logcumsumexp cummax cummin _cummax_helper
    _cummin_helper sort topk argsort glu linalg_cross cross _softmax_backward_data _log_softmax_backward_data
    _logcumsumexp""",
)
_rule(last, "multinomial _sample_dirichlet")
_rule(product, "mm bmm mv dot vdot matmul")
_rule(added_product, "addmm baddbmm addmv _addmm_activation")
_rule(outer, "addr")
_rule(distances, "_cdist_forward _euclidean_dist")
_rule(
    matrices,
    """cholesky linalg_cholesky_ex cholesky_inverse cholesky_solve linalg_solve_triangular triangular_solve linalg_inv_ex
    inverse _linalg_solve_ex linalg_lu_factor_ex linalg_lu_factor linalg_lu lu_unpack linalg_lu_solve _linalg_det
    _linalg_slogdet linalg_qr geqrf linalg_householder_product ormqr _linalg_eigh linalg_eig _linalg_eigvals
    linalg_eigvals _linalg_svd linalg_lstsq linalg_matrix_exp matrix_exp linalg_pinv linalg_ldl_factor_ex
    linalg_ldl_solve""",
)
_rule(index_rule, "index _unsafe_index")
_rule(gather, "gather")
_rule(index_select, "index_select")
_rule(embedding, "embedding")
_rule(scatter, "scatter scatter_add scatter_reduce")
_rule(index_add, "index_add index_copy index_reduce index_fill")
_rule(index_put, "index_put _unsafe_index_put _index_put_impl")
_rule(leading(lambda t: 1), "convolution mkldnn_convolution native_group_norm im2col col2im")
_rule(leading(lambda t: 1, 3), "_thnn_fused_lstm_cell _thnn_fused_gru_cell _native_multi_head_attention")
_rule(leading(lambda t: 1, 2), "grid_sampler_2d grid_sampler_3d _grid_sampler_2d_cpu_fallback")
_rule(leading(lambda t: 1), "_transformer_encoder_layer_fwd")
_rule(leading(lambda t: t.dim() - 1), "avg_pool1d max_pool1d reflection_pad1d replication_pad1d")
_rule(
    leading(lambda t: t.dim() - 2),
    "avg_pool2d max_pool2d max_pool2d_with_indices adaptive_max_pool2d _adaptive_avg_pool2d mkldnn_max_pool2d "
    "reflection_pad2d replication_pad2d fractional_max_pool2d max_unpool2d",
)
_rule(
    leading(lambda t: t.dim() - 3),
    "avg_pool3d max_pool3d_with_indices adaptive_max_pool3d _adaptive_avg_pool3d reflection_pad3d replication_pad3d",
)
_rule(
    leading(lambda t: 2),
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d "
    "upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_bilinear2d_aa",
)
_rule(along, "_fft_r2c _fft_c2c _fft_c2r")
_rule(layer_norm, "native_layer_norm _fused_rms_norm")
_rule(
    batch_norm,
    """native_batch_norm _native_batch_norm_legit cudnn_batch_norm _batch_norm_with_update
    _native_batch_norm_legit_no_training""",
)
_rule(recurrent, "mkldnn_rnn_layer")
_rule(likelihood, "nll_loss_forward nll_loss2d_forward")
_rule(
    loss,
    "binary_cross_entropy binary_cross_entropy_with_logits mse_loss smooth_l1_loss huber_loss soft_margin_loss kl_div",
)
_rule(
    attention,
    """_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
    _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention""",
)
_rule(searched, "searchsorted")
_rule(bucketed, "bucketize")
