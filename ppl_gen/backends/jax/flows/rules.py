"""Primitive -> what it does to words of marks."""

from __future__ import annotations

from ppl_gen.backends.jax.flows.contractions import (
    convolution,
    cumulative,
    dot,
    fft,
    matrices,
    reduction,
    sort,
    top,
    window,
)
from ppl_gen.backends.jax.flows.indexing import dynamic_slice, dynamic_update_slice, gather, scatter
from ppl_gen.backends.jax.flows.moves import (
    broadcast,
    concatenate,
    elementwise,
    key_bits,
    pad,
    reshape,
    rev,
    split,
    squeeze,
    stack,
    static_slice,
    tile,
    transpose,
    unstack,
)
from ppl_gen.backends.jax.flows.words import (
    Rule,
)

ELEMENTWISE = frozenset(
    "add sub mul div neg exp exp2 log log1p expm1 tanh logistic sin cos tan sinh cosh asin acos atan asinh acosh atanh atan2 "
    "sqrt rsqrt cbrt pow integer_pow square abs sign floor ceil round max min and or xor not eq ne lt le gt ge eq_to le_to lt_to "
    "is_finite erf erfc erf_inv lgamma digamma polygamma zeta igamma igammac igamma_grad_a random_gamma_grad "
    "regularized_incomplete_beta bessel_i0e bessel_i1e select_n convert_element_type clamp rem nextafter stop_gradient copy copy_p "
    "real imag conj complex population_count clz shift_left shift_right_logical shift_right_arithmetic reduce_precision add_any "
    "mulhi device_put optimization_barrier sharding_constraint threefry2x32 random_gamma name pvary tie".split()
)


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(
        "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin reduce".split(), reduction
    ),
    **dict.fromkeys("cumsum cumprod cummax cummin cumlogsumexp".split(), cumulative),
    **dict.fromkeys("reduce_window reduce_window_sum reduce_window_max reduce_window_min".split(), window),
    **dict.fromkeys(
        "cholesky cholesky_update eig eigh svd lu qr geqrf geqp3 householder_product schur hessenberg tridiagonal "
        "triangular_solve symmetric_product".split(),
        matrices(2),
    ),
    **dict.fromkeys("tridiagonal_solve lu_pivots_to_permutation".split(), matrices(1)),
    **dict.fromkeys("scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max".split(), scatter),
    "gather": gather,
    **dict.fromkeys("random_bits random_unwrap".split(), key_bits),
    "broadcast_in_dim": broadcast,
    "reshape": reshape,
    "transpose": transpose,
    "squeeze": squeeze,
    "rev": rev,
    "slice": static_slice,
    "pad": pad,
    "concatenate": concatenate,
    "split": split,
    "tile": tile,
    "stack": stack,
    "unstack": unstack,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "dot_general": dot,
    "conv_general_dilated": convolution,
    "sort": sort,
    "top_k": top,
    "fft": fft,
}  # fmt: skip
"""Primitive -> what it does to words; one that is not here does `everything`."""
