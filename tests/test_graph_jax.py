"""Claims about the walker that reads a JAX program: what reaches what, and where a way stops being smooth.

Each row of a table is one claim: inputs are named a, b, c in order; the expected answer says for each output
which of them reach it, and None for a way that is differentiable or the primitive where it jumps.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
equinox = pytest.importorskip("equinox")
nnx = pytest.importorskip("flax.nnx")
pytest.importorskip("numpyro")

import jax.numpy as jnp  # noqa: E402
import jax.scipy.special as special  # noqa: E402
from jax import lax  # noqa: E402
from jax.experimental.ode import odeint  # noqa: E402
from numpyro.distributions import biject_to, constraints  # noqa: E402

from ppl_gen.backends.jax.graph import reach  # noqa: E402
from ppl_gen.backends.jax.smooth import CONTINUOUS  # noqa: E402
from ppl_gen.program import Path  # noqa: E402
from ppl_gen.program.bounds import ANY, UNIT, Bounds  # noqa: E402

V = jnp.array([0.3, 0.6, 0.45])
M = jnp.eye(3) * 2 + 0.1
KEY = jax.random.key(0)


def paths(function: Callable[..., Any], *args: Any, limits: Bounds = ANY) -> list[dict[str, Path]]:
    """What reaches each output of ``function`` when every argument is a source within `limits`, named a, b, c."""
    program = jax.make_jaxpr(lambda *inputs: function(*inputs))(*args)
    number = len(program.jaxpr.invars)
    return reach(program, [{"abcdef"[i]: Path()} for i in range(number)], [limits] * number)


def jumps(function: Callable[..., Any], *args: Any) -> list[dict[str, str | None]]:
    """The same, as ``source -> primitive of the jump``, without the lines."""
    outs = paths(function, *args)
    return [{source: path.jump and path.jump.split(": ")[-1] for source, path in out.items()} for out in outs]


def leaps(function: Callable[..., Any], *args: Any, limits: Bounds = ANY) -> bool:
    """Whether anything reaches the output through a jump; that something reaches it is asserted."""
    outs = paths(function, *args, limits=limits)
    assert all(outs), "an output that nothing reaches proves nothing"
    return any(path.jump for out in outs for path in out.values())


def row(name: str, function: Callable[..., Any], args: tuple[Any, ...], *expected: dict[str, str | None]) -> Any:
    """One claim of a table."""
    return pytest.param(function, args, list(expected), id=name)


def elu(x: Any) -> Any:
    """A user's own function with a trusted name, and a step in it."""
    return jnp.where(x > 0, x, -1.0)


@jax.custom_jvp
def user_square(x: Any) -> Any:
    """A user's own derivative of a smooth function."""
    return x * x


user_square.defjvp(lambda primals, tangents: (primals[0] ** 2, 2 * primals[0] * tangents[0]))


@jax.custom_vjp
def straight_through(x: Any) -> Any:
    """A step that pretends to be the identity."""
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, cotangent: (cotangent,))


def through_host(x: Any) -> Any:
    """A round trip through NumPy."""
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def through_reference(x: Any, y: Any) -> Any:
    """A value written into mutable memory, then read."""
    cell = jax.new_ref(x)
    cell[...] = y
    return cell[...]


FLOWS = [
    row("constants are reached by nothing", lambda a: jnp.ones(2), (1.0,), {}),
    row("an input given back is itself", lambda a, b: (b, a), (1.0, 2.0), {"b": None}, {"a": None}),
    row("arithmetic", lambda a, b, c: a * b, (1.0, 2.0, 3.0), {"a": None, "b": None}),
    row(
        "outputs are kept apart",
        lambda a, b: (jnp.exp(a), jnp.floor(b)),
        (1.0, 2.0),
        {"a": None},
        {"b": "floor"},
    ),
    row("a jump once made stays", lambda a: a + jnp.sin(jnp.floor(a)), (1.0,), {"a": "floor"}),
    row("random numbers are no source", lambda a: a * jax.random.normal(KEY), (1.0,), {"a": None}),
    row("gamma draws are reparametrized", lambda a: jax.random.gamma(KEY, a), (1.5,), {"a": None}),
    row("bernoulli draws jump", lambda a: jax.random.bernoulli(KEY, a) * 1.0, (0.3,), {"a": "lt"}),
]

KINKS = [
    row("max", lambda a, b: jnp.maximum(a, b), (1.0, 2.0), {"a": None, "b": None}),
    row("abs", jnp.abs, (1.0,), {"a": None}),
    row("clamp", lambda a: lax.clamp(0.0, a, 1.0), (0.5,), {"a": None}),
    row("reduce_max", jnp.max, (V,), {"a": None}),
    row("cummax", lax.cummax, (V,), {"a": None}),
    row("sort", jnp.sort, (V,), {"a": None}),
    row("median", jnp.median, (V,), {"a": None}),
    row("top_k", lambda a: lax.top_k(a, 2), (V,), {"a": None}, {"a": "top_k"}),
    row("max pooling", lambda a: nnx.max_pool(a[None, :, None], (2,)), (V,), {"a": None}),
    row("norm", jnp.linalg.norm, (V,), {"a": None}),
]

STEPS = [
    row("floor", jnp.floor, (1.0,), {"a": "floor"}),
    row("ceil", jnp.ceil, (1.0,), {"a": "ceil"}),
    row("round", jnp.round, (1.0,), {"a": "round"}),
    row("sign", jnp.sign, (1.0,), {"a": "sign"}),
    row("rem", lambda a: lax.rem(a, 2.0), (1.0,), {"a": "rem"}),
    row("mod", lambda a: a % 2.0, (1.0,), {"a": "rem"}),
    row("nextafter", lambda a: jnp.nextafter(a, 2.0), (1.0,), {"a": "nextafter"}),
    row("stop_gradient", lax.stop_gradient, (1.0,), {"a": "stop_gradient"}),
    row("comparison", lambda a, b: a > b, (1.0, 2.0), {"a": "gt", "b": "gt"}),
    row("comparison as float", lambda a: (a > 0).astype(float), (1.0,), {"a": "gt"}),
    row("integer cast and back", lambda a: a.astype(int) * 1.0, (V,), {"a": "convert_element_type"}),
    row("an integer source", lambda a: a * 1.0, (3,), {"a": "convert_element_type"}),
    row("argmax", jnp.argmax, (V,), {"a": "argmax"}),
    row("one_hot", lambda a: jax.nn.one_hot(jnp.argmax(a), 3), (V,), {"a": "argmax"}),
    row("argsort", jnp.argsort, (V,), {"a": "sort"}),
    row("zero norm", lambda a: jnp.linalg.norm(a, ord=0), (V,), {"a": "ne"}),
    row("atan2", jnp.arctan2, (1.0, 2.0), {"a": "atan2", "b": "atan2"}),
    row("bits", lambda a: lax.bitcast_convert_type(a, int), (V,), {"a": "bitcast_convert_type"}),
    row("straight-through by hand", lambda a: a + lax.stop_gradient(jnp.round(a) - a), (0.3,), {"a": "round"}),
    row("gammasgn", special.gammasgn, (-0.3,), {"a": "lt"}),
    row("interpolation between given ends", lambda a: jnp.interp(a, V, V, left=-1.0), (0.3,), {"a": "gt"}),
    row(
        "the sign of a logsumexp",
        lambda a: special.logsumexp(a, return_sign=True),
        (V,),
        {"a": None},
        {"a": "sign"},
    ),
    row("complex floor", lambda a: jnp.floor((a * 1j).imag), (1.0,), {"a": "floor"}),
]

PLACES = [
    row("where on a source", lambda a, b: jnp.where(a > 0, b, 1.0), (1.0, 2.0), {"a": "gt", "b": None}),
    row("where on a constant", lambda a: jnp.where(jnp.arange(3) > 1, a, 0.0), (V,), {"a": None}),
    row(
        "select_n",
        lambda a, b, c: lax.select_n(a, b, c),
        (True, 1.0, 2.0),
        {"a": "select_n", "b": None, "c": None},
    ),
    row("gather", lambda a, b: a[b], (V, 1), {"a": None, "b": "lt"}),
    row("gather at constants", lambda a: a[jnp.array([2, 0])], (V,), {"a": None}),
    row("gather at its own argmax", lambda a: a[jnp.argmax(a)], (V,), {"a": None}),
    row("gather at the argmax of its square", lambda a: a[jnp.argmax(a**2)], (V,), {"a": "argmax"}),
    row("dynamic_slice", lambda a, b: lax.dynamic_slice(a, (b,), (2,)), (V, 1), {"a": None, "b": "lt"}),
    row("scatter", lambda a, b, c: a.at[b].set(c), (V, 1, 2.0), {"a": None, "b": "lt", "c": None}),
    row("scatter add", lambda a, c: a.at[jnp.array([0, 0])].add(c), (V, 2.0), {"a": None, "b": None}),
    row(
        "sorting along",
        lambda a, b: lax.sort((a, b), num_keys=1),
        (V, V),
        {"a": None},
        {"a": "sort", "b": None},
    ),
]

CONTROL = [
    row(
        "scan carries a source round",
        lambda a, b: lax.scan(lambda c, x: ((c[1], c[2], x), c[0]), (0.0, 0.0, a), b),
        (1.0, V),
        {"b": None, "a": None},
        {"b": None, "a": None},
        {"b": None, "a": None},
        {"b": None, "a": None},
    ),
    row(
        "scan keeps carries apart",
        lambda a, b: lax.scan(lambda c, x: ((c[0] * 2, c[1] + x), x), (a, 0.0), b)[0],
        (1.0, V),
        {"a": None},
        {"b": None},
    ),
    row(
        "a jump goes round in scan",
        lambda a: lax.scan(lambda c, _: ((c[1], jnp.floor(c[0])), None), (a, a), length=4)[0],
        (1.0,),
        {"a": "floor"},
        {"a": "floor"},
    ),
    row(
        "scan of no steps",
        lambda a: lax.scan(lambda c, _: (c * 0, None), a, length=0)[0],
        (1.0,),
        {"a": None},
    ),
    row("fori of known length", lambda a: lax.fori_loop(0, 3, lambda i, c: c * a, 1.0), (1.0,), {"a": None}),
    row(
        "while on a source",
        lambda a, b: lax.while_loop(lambda c: c[0] < 9, lambda c: (c[0] + 1, c[1] * 2), (a, b)),
        (1.0, 2.0),
        {"a": "lt"},
        {"a": "lt", "b": "while"},
    ),
    row(
        "fori of unknown length",
        lambda a, b: lax.fori_loop(0, b, lambda i, c: c * a, 1.0),
        (1.0, 3),
        {"a": "while", "b": "lt"},
    ),
    row(
        "while passes nothing on",
        lambda a, b: lax.while_loop(lambda c: c[1] < 3, lambda c: (c[0] * 2, c[1] + 1), (a, 0))[1],
        (1.0, 2.0),
        {},
    ),
    row(
        "cond on a source",
        lambda a, b: lax.cond(a > 0, jnp.sin, jnp.cos, b),
        (1.0, 2.0),
        {"a": "gt", "b": None},
    ),
    row(
        "cond joins its branches",
        lambda a, b, c: lax.cond(c, lambda: jnp.floor(a), lambda: b),
        (1.0, 2.0, True),
        {"c": "convert_element_type", "a": "floor", "b": None},
    ),
    row(
        "switch",
        lambda a, b: lax.switch(a, [jnp.sin, jnp.cos, jnp.exp], b),
        (1, 2.0),
        {"a": "convert_element_type", "b": None},
    ),
    row(
        "cond in while in scan",
        lambda a, b: lax.scan(
            lambda c, x: (
                lax.fori_loop(0, 2, lambda i, d: lax.cond(x > 0, lambda e: e * a, jnp.floor, d), c),
                None,
            ),
            1.0,
            b,
        )[0],
        (1.0, V),
        {"a": "floor", "b": "gt"},
    ),
    row("map", lambda a: lax.map(jnp.sin, a), (V,), {"a": None}),
    row("associative scan", lambda a: lax.associative_scan(operator.mul, a), (V,), {"a": None}),
    row(
        "checkpoint",
        jax.checkpoint(lambda a, b: (a * b, jnp.floor(a))),
        (1.0, 2.0),
        {"a": None, "b": None},
        {"a": "floor"},
    ),
    row("jit", jax.jit(lambda a, b: (a * b, jnp.floor(b))), (1.0, 2.0), {"a": None, "b": None}, {"b": "floor"}),
    row("vmap", lambda a, b: jax.vmap(lambda x: x * b)(a), (V, 1.0), {"a": None, "b": None}),
    row(
        "vmap of a jump",
        lambda a: jax.vmap(lambda x: lax.cond(x > 0, jnp.sin, jnp.cos, x))(a),
        (V,),
        {"a": "gt"},
    ),
    row("a custom derivative, whatever it stands for", user_square, (1.0,), {"a": "custom_jvp_call"}),
    row("a custom derivative of a step", straight_through, (1.0,), {"a": "round"}),
]

UNKNOWN = [
    row("pure_callback", through_host, (V,), {"a": "pure_callback"}),
    row("io_callback", lambda a: jax.experimental.io_callback(np.sin, V, a), (V,), {"a": "io_callback"}),
    row(
        "ffi_call",
        lambda a: jax.ffi.ffi_call("nowhere", jax.ShapeDtypeStruct((3,), V.dtype))(a),
        (V,),
        {"a": "ffi_call"},
    ),
    row("printing", lambda a: (jax.debug.print("{}", a), a * 2)[1], (V,), {"a": None}),
    row("a reference", through_reference, (V, V), {"a": "new_ref", "b": "swap"}),
    row(
        "a general reduction",
        lambda a: lax.reduce(a, 0.0, lambda x, y: x + jnp.floor(y), (0,)),
        (V,),
        {"a": "reduce"},
    ),
]

ALGEBRA = [
    row("einsum", lambda a, b: jnp.einsum("ij,j->i", a, b), (M, V), {"a": None, "b": None}),
    row("cholesky", jnp.linalg.cholesky, (M,), {"a": None}),
    row("solve", jnp.linalg.solve, (M, V), {"a": "custom_linear_solve", "b": None}),
    row("inv", jnp.linalg.inv, (M,), {"a": "custom_linear_solve"}),
    row("det", jnp.linalg.det, (jnp.eye(4),), {"a": None}),
    row(
        "triangular solve",
        lambda a, b: jax.scipy.linalg.solve_triangular(a, b, lower=True),
        (M, V),
        {"a": "triangular_solve", "b": None},
    ),
    row(
        "a jump inside a solved system",
        lambda a, b: lax.custom_linear_solve(lambda x: jnp.floor(a) @ x, b, lambda _, y: y, symmetric=True),
        (M, V),
        {"a": "floor", "b": None},
    ),
    row("fft", lambda a: jnp.abs(jnp.fft.fft(a)), (V,), {"a": None}),
    row("convolution", lambda a, b: jnp.convolve(a, b), (V, V), {"a": None, "b": None}),
    row("eigenvalues and eigenvectors", lambda a: jnp.linalg.eigh(a), (M,), {"a": None}, {"a": "eigh"}),
    row("pivoted factors", lambda a: jax.scipy.linalg.lu(a)[2], (M,), {"a": "lu"}),
    row("orthogonal factors", lambda a: jnp.linalg.qr(a)[0], (M,), {"a": "qr"}),
    row(
        "incomplete beta in its parameters",
        special.betainc,
        (1.0, 2.0, 0.5),
        {"a": "regularized_incomplete_beta", "b": "regularized_incomplete_beta", "c": None},
    ),
]


@pytest.mark.parametrize(
    ("function", "args", "expected"),
    [*FLOWS, *KINKS, *STEPS, *PLACES, *CONTROL, *UNKNOWN, *ALGEBRA],
)
def test_reach(function: Callable[..., Any], args: tuple[Any, ...], expected: list[dict[str, str | None]]) -> None:
    assert jumps(function, *args) == expected


ACTIVATIONS = (
    "relu relu6 leaky_relu elu selu celu gelu silu swish softplus log_sigmoid sigmoid hard_tanh hard_sigmoid "
    "hard_silu hard_swish squareplus sparse_plus sparse_sigmoid soft_sign mish tanh"
).split()
NORMALIZERS = "softmax log_softmax logsumexp logmeanexp glu standardize".split()
SPECIAL = "expit erf erfc erfcx ndtr log_ndtr dawsn i0 i0e i1 i1e logsumexp softmax log_softmax".split()
PAIRS = [jnp.logaddexp, jnp.logaddexp2, jnp.hypot, jnp.fmax, special.gammainc, lambda a, b: jnp.clip(a, b, 2.0)]
POLES = "logit entr gamma gammaln loggamma digamma erfinv ndtri".split()
POLES_OF_TWO = [special.xlogy, special.xlog1py, special.rel_entr, special.kl_div, special.beta, special.betaln,
                special.boxcox, special.zeta, special.poch, jnp.divide, jnp.power]  # fmt: skip
SINGLES = [(name, getattr(jax.nn, name)) for name in (*ACTIVATIONS, *NORMALIZERS)]
SINGLES += [(name, getattr(special, name)) for name in SPECIAL]
SINGLES += [
    ("sinc", jnp.sinc),
    ("nan_to_num", jnp.nan_to_num),
    ("interp", lambda a: jnp.interp(a, np.arange(4.0), np.array([1.0, 0.0, 2.0, 1.0]))),
    ("median", jnp.median),
    ("quantile", lambda a: jnp.quantile(a, 0.3)),
]


@pytest.mark.parametrize("function", [f for _, f in SINGLES], ids=[name for name, _ in SINGLES])
@pytest.mark.parametrize(
    "wrap", [lambda f: f, jax.jit, jax.vmap, jax.checkpoint], ids=["plain", "jit", "vmap", "remat"]
)
def test_functions_of_jax_are_trusted(function: Any, wrap: Any) -> None:
    value = jnp.array([[0.3, 0.6], [0.1, 0.4]])
    assert not leaps(wrap(function), value)


@pytest.mark.parametrize("knots", [[-2.0, 0.0, 0.0, 2.0], [2.0, 1.0, 0.0, -1.0]], ids=["repeated", "falling"])
def test_interpolation_between_knots_that_do_not_rise_may_jump(knots: list[float]) -> None:
    assert leaps(lambda a: jnp.interp(a, np.array(knots), np.array([-1.0, -1.0, 1.0, 1.0])), jnp.array([0.3, 0.6]))


@pytest.mark.parametrize("function", PAIRS)
def test_functions_of_two_arguments_are_trusted(function: Any) -> None:
    assert paths(function, V, V) == [{"a": Path(), "b": Path()}]


@pytest.mark.parametrize("name", POLES)
@pytest.mark.parametrize(
    "wrap",
    [lambda f: f, jax.jit, jax.vmap, lambda f: lambda x: jnp.nan_to_num(f(x))],
    ids=["plain", "jit", "vmap", "nan_to_num"],
)
def test_functions_with_poles_are_smooth_away_from_them_only(name: str, wrap: Any) -> None:
    function = wrap(getattr(special, name))
    assert not leaps(function, V, limits=UNIT)
    assert leaps(function, V)


@pytest.mark.parametrize("function", POLES_OF_TWO)
def test_functions_of_two_arguments_are_smooth_away_from_poles_only(function: Any) -> None:
    assert paths(function, V, V, limits=UNIT) == [{"a": Path(), "b": Path()}]
    assert leaps(function, V, V)


LIMITED = {
    "soft sign": lambda z: z / (1 + jnp.abs(z)),
    "quotient by a softplus": lambda z: 1 / jax.nn.softplus(z),
    "quotient by a norm and a little": lambda z: z / jnp.sqrt(jnp.sum(z * z) + 1e-6),
    "normalized layer": lambda z: (z - z.mean()) / jnp.sqrt(z.var() + 1e-5),
    "logarithm of a softmax": lambda z: jnp.log(jax.nn.softmax(z)),
    "logarithm of a square and a little": lambda z: jnp.log(0.1 + z**2),
    "power of two": lambda z: 2.0**z,
    "root of a softplus": lambda z: jnp.sqrt(jax.nn.softplus(z)),
    "a comparison that is decided": lambda z: jnp.where(jnp.exp(z) > 0, z, jnp.floor(z)),
    "Cholesky, and a triangular system": lambda z: special_solve(jnp.exp(z[0]) * jnp.eye(3), V),
    "a positive definite system": lambda z: jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(jnp.exp(z) * M), V),
}
UNLIMITED = {
    "over its size": lambda z: z / jnp.abs(z),
    "over its size, kept from zero by next to nothing": lambda z: z / jnp.maximum(jnp.abs(z), 1e-6),
    "over the norm of all": lambda z: z / jnp.sqrt(jnp.sum(z * z)),
    "logarithm of its size": lambda z: jnp.log(jnp.abs(z)),
    "inverse": lambda z: jnp.tanh(jnp.linalg.inv(jnp.eye(3) * z)),
    "pseudo-inverse": lambda z: jnp.tanh(jnp.linalg.pinv(jnp.eye(3) * z)),
    "logarithm of a determinant": lambda z: jnp.linalg.slogdet(jnp.eye(3) * z)[1],
    "tangent": jnp.tan,
    "polygamma": lambda z: special.polygamma(1, z),
    "root beyond its edge": lambda z: jnp.nan_to_num(jnp.sqrt(z)),
    "Cholesky beyond its edge": lambda z: jnp.nan_to_num(jnp.linalg.cholesky(jnp.eye(3) * z)),
    "reduced precision": lambda z: lax.reduce_precision(z, 5, 2),
    "eight bits": lambda z: z.astype(jnp.float8_e4m3fn).astype(jnp.float32),
    "negative power": lambda z: z**-1,
    "broken power": lambda z: jnp.nan_to_num(z**1.5),
    "a triangular system": lambda z: jax.scipy.linalg.solve_triangular(jnp.eye(3) * z, V),
}


GUARDED = {
    "isnan": lambda z, f: jnp.where(jnp.isnan(f(z)), 0.0, 1.0) * z,
    "unequal to itself": lambda z, f: (lambda y: jnp.where(y != y, 0.0, z))(f(z)),
    "isfinite": lambda z, f: jnp.where(jnp.isfinite(f(z)), z, 0.0),
    "isinf": lambda z, f: jnp.where(jnp.isinf(f(z)), 0.0, z),
}


@pytest.mark.parametrize("name", GUARDED)
def test_asking_whether_a_value_is_a_number_is_no_step_where_it_is_one(name: str) -> None:
    assert paths(lambda z: GUARDED[name](z, jnp.sin), V) == [{"a": Path()}]
    for beyond in (jnp.log, jnp.sqrt, lambda z: 1 / z, lambda z: jnp.linalg.cholesky(jnp.eye(3) * z)[0]):
        assert leaps(lambda z, f=beyond: GUARDED[name](z, f), V)
    assert leaps(lambda z: jnp.where(z != z[::-1], 0.0, z), V)


def special_solve(matrix: Any, right: Any) -> Any:
    """A system whose triangular matrix has a positive diagonal."""
    return jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(matrix), right, lower=True)


@pytest.mark.parametrize("name", LIMITED)
def test_partial_operations_kept_from_their_poles_are_smooth(name: str) -> None:
    assert not leaps(LIMITED[name], V)


@pytest.mark.parametrize("name", UNLIMITED)
def test_partial_operations_that_meet_their_poles_jump(name: str) -> None:
    assert leaps(UNLIMITED[name], V)


MEETING = {
    "a leaky ReLU by hand": lambda z: jnp.where(z > 0, z, 0.1 * z),
    "nothing below zero": lambda z: jnp.where(z > 0, z, 0 * z),
    "times an indicator": lambda z: z * (z > 0),
    "Huber": lambda z: jnp.where(jnp.abs(z) < 1, 0.5 * z * z, jnp.abs(z) - 0.5),
    "a bump": lambda z: jnp.where((z > 0) & (z < 1), z * (1 - z), 0.0),
    "a clip": lambda z: jnp.where(z < -1, -1.0, jnp.where(z > 1, 1.0, z)),
    "sorted by an argsort": lambda z: z[jnp.argsort(z)],
}
PARTED = {
    "a step on a slope": lambda z: jnp.where(z > 0, z, 1 + 0.1 * z),
    "an indicator": lambda z: (z > 0) * 1.0,
    "times another's indicator": lambda z: z * (z[::-1] > 0),
    "a wide bump": lambda z: jnp.where((z > 0) & (z < 2), z * (1 - z), 0.0),
    "another's argsort": lambda z: z[jnp.argsort(z * z)],
}


@pytest.mark.parametrize("name", MEETING)
def test_pieces_that_meet_make_no_jump(name: str) -> None:
    assert not leaps(MEETING[name], V)


@pytest.mark.parametrize("name", PARTED)
def test_pieces_that_do_not_meet_jump(name: str) -> None:
    assert leaps(PARTED[name], V)


def test_the_derivative_of_a_solver_is_trusted_and_what_it_solves_is_not() -> None:
    times = jnp.array([0.0, 1.0])
    assert not leaps(lambda z: odeint(lambda y, t: -z * y, jnp.array(1.0), times), 0.3)
    assert not leaps(lambda z: odeint(jax.jit(lambda y, t: -z * y), jnp.array(1.0), times), 0.3)
    assert leaps(lambda z: odeint(lambda y, t: -jnp.floor(z) * y, jnp.array(1.0), times), 0.3)
    assert leaps(lambda z: odeint(jax.jit(lambda y, t: -jnp.floor(z) * y), jnp.array(1.0), times), 0.3)


def test_a_parameter_beside_a_latent_at_a_pole_keeps_its_derivative_and_is_told_of() -> None:
    program = jax.make_jaxpr(lambda z, w: 1 / (z + w))(1.0, 2.0)
    (out,) = reach(program, [{"z": Path()}, {"param:w": Path()}])
    assert not out["z"].passes
    assert out["param:w"].passes
    assert out["param:w"].beside
    (out,) = reach(program, [{}, {"param:w": Path()}])
    assert out == {"param:w": Path()}  # whose own pole no average passes


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_trusted_activations_have_no_step(name: str) -> None:
    """A step of 0.02 would be seen; over 1/1000 the steepest of them climbs 0.002."""
    grid = jnp.arange(-4000, 4000) / 1000
    rises = jnp.abs(jnp.diff(getattr(jax.nn, name)(grid)))
    assert float(rises.max()) < 0.02
    assert float(jnp.abs(jnp.diff(0.02 * jnp.floor(grid))).max()) > 0.019


@pytest.mark.parametrize("name", ["floor", "round", "sign", "where", "gammasgn", "factorial", "bernoulli", "one_hot"])
def test_steps_are_not_in_the_table(name: str) -> None:
    assert name not in CONTINUOUS


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "sigmoid", "tanh"])
def test_flax_networks_are_smooth(name: str) -> None:
    rngs = nnx.Rngs(0)
    first, norm, last = nnx.Linear(3, 4, rngs=rngs), nnx.LayerNorm(4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)
    assert paths(lambda x: last(norm(getattr(nnx, name)(first(x)))), V) == [{"a": Path()}]


@pytest.mark.parametrize(
    "activation", [jax.nn.relu, jax.nn.leaky_relu, jax.nn.elu, jax.nn.gelu, jax.nn.softplus, jnp.tanh]
)
@pytest.mark.parametrize("wrap", [lambda f: f, equinox.filter_jit, jax.vmap], ids=["plain", "filter_jit", "vmap"])
def test_equinox_networks_are_smooth(activation: Any, wrap: Any) -> None:
    network = equinox.nn.MLP(3, 2, 4, 2, activation, key=KEY)
    value = jnp.stack([V, V]) if wrap is jax.vmap else V
    assert paths(wrap(lambda x: network(x)), value) == [{"a": Path()}]


@pytest.mark.parametrize("weights", [True, False], ids=["in the weights", "in the input"])
def test_attention_and_recurrence_are_smooth(weights: bool) -> None:
    cell = equinox.nn.GRUCell(3, 3, key=KEY)
    attention = equinox.nn.MultiheadAttention(1, 3, key=KEY)

    def network(x: Any) -> Any:
        kernel = cell.weight_hh + x[0] if weights else cell.weight_hh
        moved = equinox.tree_at(lambda c: c.weight_hh, cell, kernel)
        hidden = lax.scan(lambda h, _: (moved(V if weights else x, h),) * 2, V, length=3)[1]
        return attention(hidden, hidden, hidden)

    assert paths(network, V) == [{"a": Path()}]


@pytest.mark.parametrize(
    "support",
    [constraints.positive, constraints.simplex, constraints.unit_interval, constraints.interval(-1.0, 2.0),
     constraints.greater_than(1.0), constraints.ordered_vector, constraints.corr_cholesky,
     constraints.lower_cholesky, constraints.softplus_positive, constraints.real_vector],
    ids=lambda support: type(support).__name__,
)  # fmt: skip
def test_numpyro_transforms_are_smooth(support: Any) -> None:
    transform = biject_to(support)
    assert not leaps(transform, V)
    if support is not constraints.real_vector:  # whose log-determinant is the constant 0
        assert not leaps(lambda x: transform.log_abs_det_jacobian(x, transform(x)), V)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.vmap, lambda f: lambda x: jax.jit(f)(x) * 2])
def test_a_users_function_is_not_trusted_for_its_name(wrap: Any) -> None:
    assert leaps(wrap(elu), V)
    assert not leaps(wrap(jax.nn.elu), V)


class Rounded:
    """A user's own array, which JAX asks for its value from within whatever it is given to."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __jax_array__(self) -> Any:
        return jnp.floor(self.value)


def test_a_users_code_called_by_a_trusted_function_is_not_trusted() -> None:
    assert not leaps(lambda x: special.logsumexp(x), V)
    function: Any = special.logsumexp  # whose annotations do not know __jax_array__
    assert leaps(lambda x: function(Rounded(x)), V)


def test_a_function_traced_first_inside_a_trusted_one_is_not_trusted() -> None:
    """JAX shares the trace of ``jnp.where``, whose equations then name the first caller."""
    jax.clear_caches()
    assert not leaps(lambda x: jax.nn.leaky_relu(x), V)
    assert not leaps(lambda x: special.gamma(x), V, limits=UNIT)
    assert leaps(lambda x: jnp.where(jnp.floor(x) == 0, x, 0.01 * x), V)
    assert leaps(lambda x: special.gammasgn(x), V)


@pytest.mark.parametrize(
    "function", [jax.nn.relu, jax.nn.elu, jax.nn.leaky_relu, jax.nn.hard_tanh], ids=lambda f: f.__name__
)
@pytest.mark.parametrize(
    "derivative",
    [jax.grad, jax.jacfwd, lambda f: jax.jit(jax.grad(jax.jit(f))), lambda f: jax.grad(jax.checkpoint(f)),
     lambda f: jax.grad(lambda x: lax.scan(lambda c, _: (f(c) + x, None), x, length=3)[0])],
    ids=["grad", "jacfwd", "jit", "remat", "scan"],
)  # fmt: skip
def test_derivatives_of_trusted_functions_are_not_trusted(function: Any, derivative: Any) -> None:
    """The derivative of a ReLU is a step, though JAX files it under the name of the ReLU."""
    slope = derivative(function)
    assert leaps(lambda x: slope(x), 0.5)


def line_of(function: Any, text: str) -> str:
    """The line of this file on which ``function`` says ``text``, as a jump names it."""
    lines, start = inspect.getsourcelines(function)
    (offset,) = (i for i, line in enumerate(lines) if text in line and "line_of" not in line)
    return f"{__file__.rsplit('/', 1)[-1]}:{start + offset}"


@jax.jit
def jitted(x: Any) -> Any:
    """A user's own jitted function."""
    y = jnp.exp(x)
    return jnp.round(y)  # here it jumps


def first_where(x: Any) -> Any:
    """Has jnp.where traced and shared."""
    return jnp.where(jnp.arange(3) > 0, x, jnp.trunc(x))


def second_where(x: Any, y: Any) -> Any:
    """Meets the shared trace."""
    kept = x * 2
    return jnp.where(y, kept, 0.0)  # here it jumps


def looped(x: Any) -> Any:
    """Jumps deep inside."""

    def body(i: int, carry: Any) -> Any:
        step = lax.cond(i > 0, jnp.sin, jnp.cos, carry)
        return jnp.ceil(step)  # here it jumps

    return lax.fori_loop(0, 3, body, jnp.exp(x))


def inside_a_library(x: Any) -> Any:
    """Jumps in NumPyro's code, called from here."""
    transform = biject_to(constraints.positive)
    return equinox.filter_jit(jnp.floor)(transform(x))  # here it jumps


def mapped(x: Any) -> Any:
    """Jumps in JAX's code, called by JAX's code, called from here."""
    return lax.map(jnp.floor, x)  # here it jumps


@pytest.mark.parametrize(
    ("function", "primitive"),
    [(jitted, "round"), (looped, "ceil"), (inside_a_library, "floor"), (mapped, "floor")],
    ids=["jit", "loops", "library", "map"],
)
def test_a_jump_is_named_by_the_users_line(function: Any, primitive: str) -> None:
    (out,) = paths(lambda x: function(x), V)
    assert out["a"].jump == f"{line_of(function, 'here it jumps')}: {primitive}"


def test_a_shared_trace_is_named_by_its_caller() -> None:
    jax.clear_caches()
    paths(first_where, V)
    (out,) = paths(second_where, V, V > 0.4)
    assert out == {"a": Path(), "b": Path(f"{line_of(second_where, 'here it jumps')}: select_n")}


def test_without_a_line_the_primitive_stands_alone() -> None:
    program = jax.make_jaxpr(jnp.floor)(1.0)  # nothing but JAX in its traceback
    assert reach(program, [{"z": Path()}]) == [{"z": Path("floor")}]


def test_a_jump_made_before_is_kept() -> None:
    program = jax.make_jaxpr(lambda x, y: jax.nn.elu(x) + jnp.floor(y))(1.0, 2.0)
    before = Path("model.py:3: gt")
    assert reach(program, [{"z": before}, {"z": Path(), "w": before}]) == [{"z": before, "w": before}]


def test_one_map_of_sources_per_input() -> None:
    program = jax.make_jaxpr(lambda x, y: x + y)(1.0, 2.0)
    with pytest.raises(ValueError, match=r"expected one map of sources per input \(2\); got 1"):
        reach(program, [{}])
