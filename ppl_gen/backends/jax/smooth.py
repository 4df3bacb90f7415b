"""What JAX's primitives and functions are known to be: smooth or kinked, partial, or a step.

A primitive that stands on no list is taken to be a step. A partial one is smooth where the bounds of what comes into it keep it
from its pole (see `ppl_gen.program.bounds`).
"""

from __future__ import annotations

KINKED = frozenset(
    # elementwise
    "add sub mul neg add_any max min abs clamp square exp exp2 expm1 tanh logistic sin cos sinh cosh asinh atan cbrt "
    "erf erfc bessel_i0e bessel_i1e igamma igammac igamma_grad_a random_gamma random_gamma_grad regularized_incomplete_beta "
    "select_n convert_element_type copy real imag conj complex device_put name optimization_barrier sharding_constraint tie "
    # moves
    "broadcast_in_dim reshape transpose squeeze expand_dims rev slice pad concatenate split tile stack unstack gather "
    "dynamic_slice dynamic_update_slice scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max "
    # over many elements
    "reduce_sum reduce_max reduce_min reduce_prod cumsum cumprod cummax cummin cumlogsumexp reduce_window_sum "
    "reduce_window_max reduce_window_min select_and_scatter_add select_and_gather_add dot_general conv_general_dilated "
    "top_k approx_top_k fft cholesky eigh svd random_bits random_wrap random_unwrap random_fold_in random_split random_seed".split()
)
"""Primitives whose float outputs are continuous in their float operands, whatever these are."""

PARTIAL = {"div": "div", "log": "log", "log1p": "log1p", "sqrt": "sqrt", "rsqrt": "rsqrt", "tan": "tan", "lgamma": "lgamma",
           "digamma": "digamma", "polygamma": "polygamma", "zeta": "zeta", "erf_inv": "erfinv", "asin": "asin",
           "acos": "acos", "acosh": "acosh", "atanh": "atanh", "pow": "pow", "integer_pow": "pow", "atan2": "atan2",
           "triangular_solve": "triangular_solve"}  # fmt: skip
"""Primitives with a pole or an edge, and what `ppl_gen.program.bounds` calls them."""

DETACHED = {"regularized_incomplete_beta": (0, 1), "polygamma": (0,), "select_and_scatter_add": (1,),
            "select_and_gather_add": (1,)}  # fmt: skip
"""Operands, by position, that JAX gives no derivative or that only choose places."""

CUTS = frozenset("log sqrt rsqrt cbrt pow log1p asin acos atan asinh acosh atanh".split())
"""Primitives that leap across a branch cut where their values are complex."""

AMBIGUOUS = {"eigh": (0,), "svd": (1, 2)}
"""Outputs, by position, known only up to a sign: eigenvectors and singular vectors."""

NAN = frozenset("cholesky igamma igammac regularized_incomplete_beta".split())
"""Primitives that are no number outside of their domain, which a latent may leave: no step, unless NaN is written over."""

ENTIRE = frozenset(
    # jax.nn, jax.numpy and jax.numpy.linalg
    "relu relu6 leaky_relu elu selu celu gelu silu swish sigmoid softplus log_sigmoid soft_sign hard_tanh "
    "hard_sigmoid hard_silu hard_swish squareplus sparse_plus sparse_sigmoid mish glu softmax log_softmax logsumexp "
    "logmeanexp logaddexp logaddexp2 clip fmax fmin nan_to_num sinc hypot median det expm "
    # jax.scipy.special
    "expit erf erfc erfcx ndtr log_ndtr dawsn i0 i0e i1 i1e fresnel owens_t wofz "
    # jax.random: its gamma draws have a derivative, and only the softmax of them looks like a step
    "_dirichlet".split()
)
"""Functions of JAX itself that are continuous in their float arguments, whatever they compare and divide inside."""

PIECEWISE = frozenset(
    "log1mexp xlogy xlog1py logit entr rel_entr kl_div gamma gammaln loggamma beta betaln multigammaln poch digamma erfinv "
    "ndtri boxcox boxcox1p zeta gammainc gammaincc _xlogx".split()
)
"""Functions of JAX itself that compare only to be right everywhere; their poles are those of the primitives inside."""

QUOTIENTS = frozenset(("ndtri", "poch"))
"""Of these, those that divide by polynomials without a zero where they use them."""

CONTINUOUS = ENTIRE | PIECEWISE

WRITES_OVER_NAN = frozenset(("nan_to_num", "fmax", "fmin"))
"""Functions of JAX that put a number where there was none: a step, if an edge of a domain is there."""

SOLVERS = ("experimental/ode.py",)
"""Files of JAX whose functions choose their steps by comparing, and declare the derivative of what they compute."""
