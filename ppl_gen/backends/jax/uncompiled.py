"""Eager JAX without compilation: what NumPy has too is done by NumPy, and the rest as ever.

An eager operation of JAX is compiled once for every shape, which takes tens of milliseconds: most of what a first run of a
program costs. Values stay JAX arrays, known at once: nothing is traced, and whatever a program does on the host it can do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl_gen.backends.jax.calls import Function, called, called_by, opened
from ppl_gen.backends.jax.operations import FUNCTIONS, apply

try:  # no other place says how an operation is carried out
    from jax._src.array import ArrayImpl
    from jax._src.core import EvalTrace, ShapedArray, eval_jaxpr, set_current_trace, typeof

    KNOWN = True
except ImportError:  # an older JAX, or a later one: there, all is compiled
    KNOWN = False

RANDOM = frozenset(("random_seed", "random_split", "random_fold_in", "random_bits"))  # made of operations themselves
MOVES = frozenset(("slice", "dynamic_slice", "squeeze", "reshape", "broadcast_in_dim", "concatenate"))  # of keys


def uncompiled() -> AbstractContextManager[Any]:
    """Inside, eager operations on a CPU are done by NumPy where they can be; their last digit may differ."""
    here = KNOWN and jax.default_backend() == "cpu"
    return set_current_trace(_NumPyTrace()) if here else nullcontext()  # type: ignore[no-untyped-call]


if KNOWN:

    class _NumPyTrace(EvalTrace):  # type: ignore[misc,valid-type,unused-ignore]
        """Carries out what is done outside of every transformation."""

        def process_primitive(self, primitive: Any, args: Sequence[Any], params: Any, /) -> Any:
            """The results of one primitive."""
            inner = called_by(primitive, params)
            if primitive.name in RANDOM or (inner is not None and _is_known(inner)):
                again = partial(primitive.impl, **params) if inner is None else partial(eval_jaxpr, *opened(inner))
                return self._again(again, *args)
            found = _by_numpy(primitive, args, params)
            if found is None:
                return super().process_primitive(primitive, args, params)  # type: ignore[no-untyped-call]
            return found if primitive.multiple_results else found[0]

        def process_custom_jvp_call(self, primitive: Any, fun: Any, jvp: Any, tracers: Any, /, **_: Any) -> Any:
            """What a function with a derivative of its own gives."""
            return self._again(fun.call_wrapped, *tracers)

        def process_custom_vjp_call(
            self, primitive: Any, fun: Any, fwd: Any, bwd: Any, tracers: Any, /, **_: Any
        ) -> Any:
            """Likewise."""
            return self._again(fun.call_wrapped, *tracers)

        def _again(self, call: Callable[..., Any], *args: Any) -> Any:
            with set_current_trace(self):
                return call(*args)


def _is_known(function: Function) -> bool:
    """Whether every operation of a compiled function is one of those here: if not, it is compiled as a whole."""
    for eqn in opened(function)[0].eqns:
        inner = called(eqn)
        name = eqn.primitive.name
        known = name in FUNCTIONS or name in RANDOM or name in ("random_wrap", "random_unwrap")
        if not (known if inner is None else _is_known(inner)):
            return False
    return True


def _by_numpy(primitive: Any, args: Sequence[Any], params: Any) -> list[jax.Array] | None:
    """The results as JAX arrays; None where NumPy is not to work them out."""
    if primitive.name not in FUNCTIONS or not all(map(_is_free, args)):
        return None
    avals = [typeof(arg) for arg in args]
    kind = next((jax.random.key_impl(arg) for arg in args if _is_key(typeof(arg))), None)
    found, _ = primitive.abstract_eval(*avals, **params)
    results = found if primitive.multiple_results else [found]
    if kind is not None:
        if primitive.name not in MOVES or not all(map(_has_two_words, args)):
            return None
        words = apply(primitive.name, params, list(map(_words, args)), [(r.shape, np.uint64) for r in results])
        return [jax.random.wrap_key_data(_halves(own), impl=kind) for own in words] or None
    if any(aval.dtype.kind not in "fiub" or aval.dtype == np.float16 for aval in (*results, *avals)):
        return None  # half precision is added up in full by XLA
    operands = [np.asarray(arg, aval.dtype) for arg, aval in zip(args, avals, strict=True)]
    values = apply(primitive.name, params, operands, [(r.shape, r.dtype) for r in results])
    return [_array(value, like) for value, like in zip(values, results, strict=False)] or None


def _is_free(arg: Any) -> bool:
    """Whether it is bound to no device."""
    return not (arg.committed if isinstance(arg, jax.Array) else isinstance(arg, jax.core.Tracer))


def _is_key(aval: Any) -> bool:
    return bool(jnp.issubdtype(aval.dtype, jax.dtypes.prng_key))


def _has_two_words(arg: Any) -> bool:
    return not _is_key(typeof(arg)) or jax.random.key_data(arg).shape[-1] == 2


def _words(arg: Any) -> Any:
    """Random keys of two words as an array of as many dimensions, one number a key; other arrays as they are."""
    if not _is_key(typeof(arg)):
        return np.asarray(arg)
    return np.array(jax.random.key_data(arg)).view(np.uint64)[..., 0]


def _halves(words: Any) -> jax.Array:
    """The words of random keys, from their numbers."""
    return jax.device_put(np.array(words, order="C")[..., None].view(np.uint32))


def _array(value: Any, like: Any) -> jax.Array:
    """A NumPy array as a JAX array that is as weakly typed, with memory of its own: what it was made of may be the user's."""
    array = jax.device_put(np.array(value))
    if not like.weak_type:
        return array
    return ArrayImpl(
        ShapedArray(array.shape, array.dtype, weak_type=True), array.sharding, array._arrays, committed=False
    )
