"""What each aten operation does to marks: which elements of its results may depend on which elements of its operands.

A rule may let through too much (which costs variance), never too little. What has no rule mixes everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

Words = Tensor | None


@dataclass(frozen=True)
class Call:
    """One operation, as its rule sees it.

    Attributes:
        func: the operator.
        name: its name, `add` for `aten.add_.Tensor`.
        args: its positional arguments.
        kwargs: its keyword arguments.
        inputs: the tensors that it reads.
        outs: the tensors that need words.
        written: those of its operands that it writes.
        read: a tensor's words.
        constant: whether a tensor is made inside the run from numbers alone, so that it is the same in every run.
    """

    func: Any
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: Sequence[Tensor]
    outs: Sequence[Tensor]
    written: Sequence[Tensor]
    read: Callable[[Tensor], Words]
    constant: Callable[[Tensor], bool]

    def given(self, name: str, default: Any = None) -> Any:
        """An argument by the name that the operator's schema has for it."""
        for place, argument in enumerate(self.func._schema.arguments):
            if argument.name == name:
                if argument.has_default_value() and default is None:
                    default = argument.default_value
                return self.args[place] if place < len(self.args) else self.kwargs.get(name, default)
        return default

    def words(self, value: Any) -> Words:
        """Words of an argument; None where it is no tensor, or carries nothing."""
        return self.read(value) if isinstance(value, Tensor) else None

    def whole(self, values: Iterable[Any]) -> Words:
        """All marks of these arguments as one word, without dimensions."""
        return either(*(None if words is None else everything(words) for words in map(self.words, values)))

    def present(self, tensor: Tensor) -> Tensor:
        """Words of a tensor, zeros where it carries nothing."""
        words = self.read(tensor)
        return torch.zeros((), dtype=torch.int64, device=tensor.device).expand(tensor.shape) if words is None else words


def reduced(words: Tensor, dims: Iterable[int]) -> Tensor:
    """Or over dimensions, kept with size 1."""
    for dim in dims:
        while (size := words.shape[dim]) > 1:
            if not words.stride(dim):  # one word for all
                words = words.narrow(dim, 0, 1)
                break
            half = (size + 1) // 2
            words = words.narrow(dim, 0, half) | words.narrow(dim, size - half, half)
        if not words.shape[dim]:
            shape = list(words.shape)
            shape[dim] = 1
            words = words.new_zeros(shape)
    return words


def everything(words: Tensor) -> Tensor:
    """Or over all dimensions, without dimensions."""
    return reduced(words, range(words.dim())).reshape(())


def either(*words: Words) -> Words:
    """Or, broadcast."""
    present = [one for one in words if one is not None]
    return reduce(torch.bitwise_or, present) if present else None


def flow(call: Call) -> list[Words]:
    """Words of `call.outs`."""
    rule = RULES.get(call.name)
    if rule is None and (torch.Tag.pointwise in call.func.tags if hasattr(call.func, "tags") else False):
        rule = _pointwise
    if rule is not None:
        try:
            found = rule(call)
            return [_fits(words, out, call) for words, out in zip(found, call.outs, strict=True)]
        except (RuntimeError, IndexError, TypeError, ValueError, AttributeError, KeyError):
            pass  # called in a way that the rule does not know
    return _mixed(call)


def _fits(words: Words, out: Tensor, call: Call) -> Words:
    return None if words is None else words.to(out.device).expand(out.shape)


def _mixed(call: Call) -> list[Words]:
    """Everything reaches everything."""
    total = call.whole([*call.inputs, *call.written])
    return [None if total is None else total.to(out.device).expand(out.shape) for out in call.outs]


def _all(call: Call, words: Words) -> list[Words]:
    return [words] * len(call.outs)


# -- element by element ------------------------------------------------------------------------------------------


def _pointwise(call: Call) -> list[Words]:
    return _all(call, either(*(_near(call.read(tensor), call) for tensor in call.inputs)))


def _near(words: Words, call: Call) -> Words:
    return None if words is None else words.to(call.outs[0].device)


def _overwritten(call: Call) -> list[Words]:
    """What is written in place of the first operand, whose own words are lost."""
    rest = [t for t in call.inputs if t is not call.args[0]]
    return _all(call, either(*(_near(call.read(tensor), call) for tensor in rest)))


def _nothing(call: Call) -> list[Words]:
    return _all(call, None)


# -- the operation itself, on words ------------------------------------------------------------------------------


def _moved(call: Call) -> list[Words]:
    def swap(value: Any) -> Any:
        if isinstance(value, Tensor):
            return call.present(value)
        return list(map(swap, value)) if isinstance(value, list | tuple) and any(map(_is_tensor, value)) else value

    args = [swap(value) for value in call.args]
    kwargs = {name: swap(value) for name, value in call.kwargs.items() if name not in ("dtype", "out")}
    out = call.func(*args, **kwargs)
    return list(out) if isinstance(out, list | tuple) else [out]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _padded(call: Call) -> list[Words]:
    return [torch.constant_pad_nd(call.present(call.args[0]), call.args[1], 0)]


def _like(call: Call) -> list[Words]:
    return _all(call, call.read(call.args[0]))


# -- reductions --------------------------------------------------------------------------------------------------


def _dims(value: Any, width: int) -> list[int]:
    if value is None or (isinstance(value, list | tuple) and not value):
        return list(range(width))
    return [dim % max(width, 1) for dim in (value if isinstance(value, list | tuple) else (value,))]


def _reduction(call: Call) -> list[Words]:
    tensor = call.inputs[0]
    words = call.whole(call.inputs[1:])
    own = call.read(tensor)
    if own is not None and tensor.dim():
        dims = _dims(call.given("dim"), tensor.dim())
        own = reduced(own, dims)
        if not call.given("keepdim", False):
            own = own.reshape([size for dim, size in enumerate(own.shape) if dim not in dims])
    return _all(call, either(own, words))


def _along(call: Call, place: str = "dim") -> list[Words]:
    """All along a dimension, which the results have too."""
    words = either(*(call.read(tensor) for tensor in call.inputs))
    if words is None or not words.dim():
        return _all(call, words)
    return _all(call, reduced(words, _dims(call.given(place, -1), words.dim())))


def _last(call: Call) -> list[Words]:
    words = either(*(call.read(tensor) for tensor in call.inputs))
    return _all(call, words if words is None or not words.dim() else reduced(words, [-1]))


# -- products ----------------------------------------------------------------------------------------------------


def _product(call: Call, first: int = 0) -> list[Words]:
    """Matrix products, batched ones too, and of a matrix with a vector; then what is added to them."""
    a, b = call.args[first], call.args[first + 1]
    left, right = call.read(a), call.read(b)
    if left is not None:
        left = reduced(left, [-1])
        left = left if b.dim() > 1 else left.squeeze(-1)
    if right is not None:
        right = reduced(right, [-2] if b.dim() > 1 else [-1])
    added = call.read(call.args[0]) if first else None
    return _all(call, either(added, left, right))


def _added_product(call: Call) -> list[Words]:
    return _product(call, 1)


def _outer(call: Call) -> list[Words]:
    added, a, b = map(call.words, call.args[:3])
    return _all(call, either(added, None if a is None else a.unsqueeze(-1), b))


def _distances(call: Call) -> list[Words]:
    a, b = map(call.words, call.args[:2])
    rows = None if a is None else reduced(a, [-1])
    columns = None if b is None else reduced(b, [-1]).transpose(-1, -2)
    return _all(call, either(rows, columns))


_ONE_DIMENSION = frozenset("lu_unpack linalg_lu_solve linalg_householder_product ormqr linalg_ldl_solve".split())


def _matrices(call: Call) -> list[Words]:
    """Of the last two dimensions, matrix by matrix; the second operand may hold one vector for each."""
    first = call.inputs[0]
    own: Words = None
    shapes = []
    for place, tensor in enumerate(call.inputs):
        vector = call.name == "_linalg_solve_ex" and tensor.shape == first.shape[:-1]
        width = tensor.dim() - (1 if place == 1 and (vector or call.name in _ONE_DIMENSION) else 2)
        shapes.append(tensor.shape[:width])
        words = call.read(tensor)
        if words is not None:
            own = either(own, reduced(words, range(width, words.dim())).reshape(words.shape[:width]))
    if own is None:
        return _all(call, None)
    own = own.expand(torch.broadcast_shapes(*shapes))
    return [_front(own, out, own.dim(), call) for out in call.outs]


# -- indices -----------------------------------------------------------------------------------------------------


def _index(call: Call) -> list[Words]:
    tensor, indices = call.args[0], list(call.args[1])
    places, wide = _places(tensor, indices)
    chosen = call.present(tensor)
    loose = [place for place, index in places if not call.constant(index)]
    loose_dims = [dim for place in loose for dim in wide[place]]
    if loose_dims:
        chosen = reduced(chosen, loose_dims).expand(tensor.shape)
    words = call.func(chosen, indices)
    return [either(words, _index_words(call, [index for _, index in places], indices, tensor))]


def _places(tensor: Tensor, indices: list[Any]) -> tuple[list[tuple[int, Tensor]], dict[int, list[int]]]:
    """(the indices that are tensors, by place; which dimensions of the source each stands for)."""
    dims, wide, places = 0, {}, []
    for place, index in enumerate(indices):
        width = index.dim() if index is not None and index.dtype in (torch.bool, torch.uint8) else 1
        wide[place] = list(range(dims, dims + width))
        dims += width
        if index is not None:
            places.append((place, index))
    return places, wide


def _index_words(call: Call, given: list[Tensor], indices: list[Any], tensor: Tensor) -> Words:
    """The indices' own words, where the elements that they choose come to lie."""
    words = either(*map(call.read, given))
    if words is None:
        return None
    if any(index.dtype in (torch.bool, torch.uint8) for index in given):
        return everything(words)
    words = words.expand(torch.broadcast_shapes(*(index.shape for index in given)))
    first = next(place for place, index in enumerate(indices) if index is not None)
    together = all(index is not None for index in indices[first : first + len(given)])
    after = tensor.dim() - len(given) - (first if together else 0)
    return words.reshape([*words.shape, *[1] * after])


def _gather(call: Call) -> list[Words]:
    tensor, dim, index = call.args[:3]
    marks = call.read(index)
    chosen = call.present(tensor)
    if not call.constant(index) and tensor.dim():
        chosen = reduced(chosen, [dim]).expand(tensor.shape)
    return [either(torch.gather(chosen, dim, index), marks)]


def _index_select(call: Call) -> list[Words]:
    tensor, dim, index = call.args[:3]
    marks = call.read(index)
    chosen = call.present(tensor)
    if not call.constant(index):
        chosen = reduced(chosen, [dim]).expand(tensor.shape)
    if marks is not None:
        marks = marks.reshape([-1] + [1] * (tensor.dim() - dim % tensor.dim() - 1))
    return [either(torch.index_select(chosen, dim, index), marks)]


def _embedding(call: Call) -> list[Words]:
    table, index = call.args[:2]
    marks, chosen = call.read(index), call.read(table)
    if chosen is not None:
        chosen = (chosen if call.constant(index) else reduced(chosen, [0]).expand(table.shape))[index]
    return [either(None if marks is None else marks.unsqueeze(-1), chosen)]


def _scatter(call: Call) -> list[Words]:
    """What is scattered may go anywhere along the dimension."""
    tensor, dim, index = call.args[:3]
    source = call.args[3] if len(call.args) > 3 else call.kwargs.get("src")
    own = call.present(tensor)
    marks = call.read(index)
    if isinstance(source, Tensor) and (words := call.read(source)) is not None:
        words = words[tuple(slice(size) for size in index.shape)] if source.dim() else words
        marks = either(marks, words)
    if marks is None:
        return _all(call, own if call.constant(index) or not tensor.dim() else own | reduced(own, [dim]))
    spread = own.new_zeros([1 if d == dim % max(tensor.dim(), 1) else size for d, size in enumerate(tensor.shape)])
    if not tensor.dim():
        return _all(call, own | everything(marks))
    marks = reduced(marks.expand(index.shape), [dim])
    spread[tuple(slice(size) for size in marks.shape)] = marks
    return _all(call, own | spread)


def _index_add(call: Call) -> list[Words]:
    tensor, dim, index, source = call.args[:4]
    own, marks = call.present(tensor), call.words(source)
    marks = marks if marks is None or marks.dim() else marks.expand(tensor.shape)
    marks = None if marks is None else reduced(marks, [dim])
    return _all(call, either(own, marks, call.whole([index])))


def _index_put(call: Call) -> list[Words]:
    """Exact where the places are constant and differ; else everything that is written may be anywhere."""
    tensor, indices, values = call.args[:3]
    own, marks = call.present(tensor), call.words(values)
    given = [index for index in indices if index is not None]
    if len(given) == 1 and given[0].dtype == torch.bool and given[0].shape == tensor.shape and values.numel() == 1:
        return _all(call, either(own, call.read(given[0]), call.whole([values])))  # as masked_fill
    own_words = call.whole(given)
    if all(map(call.constant, given)) and marks is not None and not call.given("accumulate", False):
        numbered = torch.arange(tensor.numel(), device=tensor.device).reshape(tensor.shape)
        places = numbered[tuple(slice(None) if index is None else index for index in indices)]
        if places.unique().numel() == places.numel():
            return _all(call, torch.ops.aten.index_put(own.contiguous(), indices, marks))
    total = either(own_words, call.whole([values]))
    return _all(call, either(own, total))


# -- layers ------------------------------------------------------------------------------------------------------


def _leading(kept: Callable[[Tensor], int], data: int = 1) -> Callable[[Call], list[Words]]:
    """The first `kept` dimensions of the first `data` operands are kept apart, all else is mixed."""

    def rule(call: Call) -> list[Words]:
        width = kept(call.args[0])
        own: Words = None
        for value in call.args[:data]:
            words = call.words(value)
            if words is not None:
                own = either(own, reduced(words, range(width, words.dim())).reshape(words.shape[:width]))
        rest = [t for t in call.inputs if not any(t is value for value in call.args[:data])]
        words = either(own, None if (extra := call.whole(rest)) is None else extra.expand(call.args[0].shape[:width]))
        return [_front(words, out, width, call) for out in call.outs]

    return rule


def _front(words: Words, out: Tensor, width: int, call: Call) -> Words:
    """Words of leading dimensions for a result; one that does not have them carries everything."""
    if words is None:
        return None
    if out.dim() >= width and all(size in (1, own) for size, own in zip(out.shape, words.shape, strict=False)):
        kept = [size == own for size, own in zip(out.shape, words.shape, strict=False)]
        words = reduced(words, [dim for dim, same in enumerate(kept) if not same])
        return words.reshape([*words.shape, *[1] * (out.dim() - width)])
    return everything(words)


def _layer_norm(call: Call) -> list[Words]:
    width = call.args[0].dim() - len(call.args[1])
    return _leading(lambda _: width)(call)


def _batch_norm(call: Call) -> list[Words]:
    """In training it mixes all but the channels, in evaluation nothing."""
    tensor = call.args[0]
    training = any(value is True for value in call.args[3:6]) or call.name == "_batch_norm_with_update"
    words = call.read(tensor)
    channels: Words = None
    for value in call.args[1 : 3 if training else 5]:
        channels = either(channels, call.words(value))
    if training and words is not None:
        words = reduced(words, [dim for dim in range(tensor.dim()) if dim != 1])
    if channels is not None:
        words = either(words, channels.reshape([-1] + [1] * (tensor.dim() - 2)))
    total = None if words is None else everything(words)
    return [words if out.shape == tensor.shape else total for out in call.outs]


def _recurrent(call: Call) -> list[Words]:
    """One layer over (time, batch, features): batch elements are kept apart."""
    batch = call.args[0].shape[-2]
    own: Words = None
    rest = []
    for tensor in call.inputs:
        words = call.read(tensor)
        if words is None:
            continue
        if tensor.dim() > 1 and tensor.shape[-2] == batch and any(tensor is call.args[i] for i in (0, 5, 6)):
            own = either(own, reduced(words, [d for d in range(words.dim()) if d != words.dim() - 2]).reshape(batch, 1))
        else:
            rest.append(tensor)
    words = either(own, call.whole(rest))
    if words is None:
        return _all(call, None)
    return [words if out.dim() > 1 and out.shape[-2] == batch else everything(words) for out in call.outs]


def _likelihood(call: Call) -> list[Words]:
    """nll_loss: of (rows, classes) and (rows,)."""
    tensor, target = call.args[:2]
    if call.given("reduction") or tensor.dim() < 2:
        return _mixed(call)
    words = call.read(tensor)
    words = None if words is None else reduced(words, [1]).squeeze(1)
    words = either(words, call.read(target), call.whole([call.args[2]]))
    return [words if out.shape == target.shape else None if words is None else everything(words) for out in call.outs]


def _loss(call: Call) -> list[Words]:
    return _mixed(call) if call.given("reduction") else _pointwise(call)


def _attention(call: Call) -> list[Words]:
    """Over all of a sequence; batch and heads apart."""
    own: Words = None
    for value in call.args[:3]:
        words = call.words(value)
        own = either(own, None if words is None else reduced(words, [-2, -1]))
    rest = call.whole([t for t in call.inputs if not any(t is value for value in call.args[:3])])
    words = either(own, rest)
    if words is None:
        return _all(call, None)
    lead = words.shape[:-2]
    return [
        words.reshape([*lead, *[1] * (out.dim() - len(lead))]) if out.shape[: len(lead)] == lead else everything(words)
        for out in call.outs
    ]


def _searched(call: Call) -> list[Words]:
    """searchsorted: each value in the last dimension of the boundaries."""
    bounds, values = call.args[:2]
    own = call.words(bounds)
    own = None if own is None else reduced(own, [-1]) if bounds.dim() > 1 else everything(own)
    return _all(call, either(own, call.words(values)))


def _bucketed(call: Call) -> list[Words]:
    return _all(call, either(call.words(call.args[0]), call.whole([call.args[1]])))


RULES: dict[str, Callable[[Call], list[Words]]] = {}


def _rule(rule: Callable[[Call], list[Words]], names: str) -> None:
    RULES.update(dict.fromkeys(names.split(), rule))


_rule(
    _pointwise,
    """where lerp bernoulli normal poisson binomial _standard_gamma _standard_gamma_grad _dirichlet_grad native_dropout
    rrelu_with_noise rrelu_with_noise_functional masked_fill clamp polygamma nan_to_num heaviside copysign gcd lcm
    softplus softplus_backward softshrink hardshrink gelu gelu_backward silu_backward mish_backward sigmoid_backward
    tanh_backward threshold threshold_backward leaky_relu leaky_relu_backward elu elu_backward hardtanh
    hardtanh_backward hardswish hardswish_backward hardsigmoid hardsigmoid_backward log_sigmoid_forward
    log_sigmoid_backward logit logit_backward softshrink_backward hardshrink_backward _prelu_kernel prelu isin
    _conj _neg_view isnan isinf isfinite special_erfcx special_zeta lift_fresh_copy _fused_dropout mvlgamma
    complex polar view_as_complex_copy view_as_real_copy clone _to_copy lift_fresh lift contiguous _resize_output alias_copy""",
)
_rule(_overwritten, "copy fill")
_rule(
    _nothing,
    """empty_like zeros_like ones_like full_like rand_like randn_like randint_like new_empty new_zeros new_ones new_full
    new_empty_strided zero uniform exponential geometric cauchy log_normal random""",
)
_rule(
    _moved,
    """cat stack repeat flip roll rot90 permute_copy expand_copy view_copy slice_copy select_copy squeeze_copy
    unsqueeze_copy transpose_copy t_copy tril triu diag_embed diagonal_copy diagonal_scatter select_scatter slice_scatter
    as_strided_copy as_strided_scatter unfold_copy split_copy split_with_sizes_copy unbind_copy pixel_shuffle
    pixel_unshuffle channel_shuffle block_diag narrow_copy _reshape_copy diag hstack vstack unsafe_split
    unsafe_split_with_sizes unsafe_chunk _reshape_alias_copy""",
)
_rule(_padded, "constant_pad_nd")
_rule(
    _reduction,
    """sum nansum mean nanmean prod amax amin aminmax max min any all argmax argmin logsumexp norm linalg_vector_norm var std
    var_mean std_mean median nanmedian mode kthvalue count_nonzero trace""",
)
_rule(
    _along,
    """_softmax _log_softmax _safe_softmax softmax log_softmax cumsum cumprod logcumsumexp cummax cummin _cummax_helper
    _cummin_helper sort topk argsort glu linalg_cross cross _softmax_backward_data _log_softmax_backward_data
    _logcumsumexp""",
)
_rule(_last, "multinomial _sample_dirichlet")
_rule(_product, "mm bmm mv dot vdot matmul")
_rule(_added_product, "addmm baddbmm addmv _addmm_activation")
_rule(_outer, "addr")
_rule(_distances, "_cdist_forward _euclidean_dist")
_rule(
    _matrices,
    """cholesky linalg_cholesky_ex cholesky_inverse cholesky_solve linalg_solve_triangular triangular_solve linalg_inv_ex
    inverse _linalg_solve_ex linalg_lu_factor_ex linalg_lu_factor linalg_lu lu_unpack linalg_lu_solve _linalg_det
    _linalg_slogdet linalg_qr geqrf linalg_householder_product ormqr _linalg_eigh linalg_eig _linalg_eigvals
    linalg_eigvals _linalg_svd linalg_lstsq linalg_matrix_exp matrix_exp linalg_pinv linalg_ldl_factor_ex
    linalg_ldl_solve""",
)
_rule(_index, "index _unsafe_index")
_rule(_gather, "gather")
_rule(_index_select, "index_select")
_rule(_embedding, "embedding")
_rule(_scatter, "scatter scatter_add scatter_reduce")
_rule(_index_add, "index_add index_copy index_reduce index_fill")
_rule(_index_put, "index_put _unsafe_index_put _index_put_impl")
_rule(_leading(lambda t: 1), "convolution mkldnn_convolution native_group_norm im2col col2im")
_rule(_leading(lambda t: 1, 3), "_thnn_fused_lstm_cell _thnn_fused_gru_cell _native_multi_head_attention")
_rule(_leading(lambda t: 1, 2), "grid_sampler_2d grid_sampler_3d _grid_sampler_2d_cpu_fallback")
_rule(_leading(lambda t: 1), "_transformer_encoder_layer_fwd")
_rule(_leading(lambda t: t.dim() - 1), "avg_pool1d max_pool1d reflection_pad1d replication_pad1d")
_rule(
    _leading(lambda t: t.dim() - 2),
    "avg_pool2d max_pool2d max_pool2d_with_indices adaptive_max_pool2d _adaptive_avg_pool2d mkldnn_max_pool2d "
    "reflection_pad2d replication_pad2d fractional_max_pool2d max_unpool2d",
)
_rule(
    _leading(lambda t: t.dim() - 3),
    "avg_pool3d max_pool3d_with_indices adaptive_max_pool3d _adaptive_avg_pool3d reflection_pad3d replication_pad3d",
)
_rule(
    _leading(lambda t: 2),
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d "
    "upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_bilinear2d_aa",
)
_rule(_along, "_fft_r2c _fft_c2c _fft_c2r")
_rule(_layer_norm, "native_layer_norm _fused_rms_norm")
_rule(
    _batch_norm,
    """native_batch_norm _native_batch_norm_legit cudnn_batch_norm _batch_norm_with_update
    _native_batch_norm_legit_no_training""",
)
_rule(_recurrent, "mkldnn_rnn_layer")
_rule(_likelihood, "nll_loss_forward nll_loss2d_forward")
_rule(
    _loss,
    "binary_cross_entropy binary_cross_entropy_with_logits mse_loss smooth_l1_loss huber_loss soft_margin_loss kl_div",
)
_rule(
    _attention,
    """_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
    _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention""",
)
_rule(_searched, "searchsorted")
_rule(_bucketed, "bucketize")
