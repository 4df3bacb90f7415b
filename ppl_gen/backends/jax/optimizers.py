"""The optimizers that JAX programs may be trained with: optax transformations, and NumPyro's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro.optim import Minimize, _NumPyroOptim

from ppl_gen.backends.rates import settle_rate


class Optimizer:
    """Moves one player by the updates of an optax transformation; see `build`."""

    def __init__(self, wanted: object, learning_rate: float, values: Any) -> None:
        self._transform = build(wanted, learning_rate, values)

    def start(self, values: Any) -> Any:
        """The moments to begin with."""
        return self._transform.init(values)

    def update(self, values: Any, gradient: Any, moments: Any, loss: jax.Array) -> tuple[Any, Any]:
        """(values, moments) after a step."""
        updates, moments = self._transform.update(gradient, moments, values, value=loss)
        return optax.apply_updates(values, updates), moments


def build(optimizer: Any, learning_rate: float, params: Any) -> optax.GradientTransformationExtraArgs:
    """The optimizer as an optax transformation that may look at the loss, as `value`.

    Args:
        optimizer: an optax transformation, one of NumPyro's, or None (Adam).
        learning_rate: of Adam; the others have their own.
        params: what it is to move.

    Raises:
        TypeError: no optimizer, or one that asks for the loss again and again within a step.
        ValueError: a learning rate beside one of the optimizer's own.
    """
    if optimizer is None:
        return optax.with_extra_args_support(adam(float(learning_rate)))
    if isinstance(optimizer, type) or not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer: expected an optax transformation or one of NumPyro's; got {optimizer!r}. For example optax.sgd(0.1) or "
            "numpyro.optim.Adam(0.01)."
        )
    settle_rate(name_of(optimizer), None, learning_rate)
    if isinstance(optimizer, Minimize):
        raise _refusal(name_of(optimizer))
    own = _of_numpyro(optimizer) if isinstance(optimizer, _NumPyroOptim) else optimizer
    transform = optax.with_extra_args_support(own)
    try:  # shapes alone
        jax.eval_shape(lambda p: transform.update(p, transform.init(p), p, value=jnp.zeros(())), params)
    except TypeError as error:
        raise _refusal(f"{name_of(optimizer)} ({error})") from error
    return transform


def _refusal(came: str) -> TypeError:
    return TypeError(
        f"optimizer: expected one that takes a step from a loss and its gradient; got {came}, which asks for the loss again and "
        "again within a step, where each is another draw. Use optax.adam or numpyro.optim.Adam."
    )


def name_of(optimizer: Any) -> str:
    """What an optimizer is called, by which a checkpoint tells whose moments it holds."""
    return str(getattr(optimizer, "__name__", type(optimizer).__name__))


def _of_numpyro(optimizer: _NumPyroOptim) -> optax.GradientTransformationExtraArgs:
    """NumPyro's optimizers hold the parameters themselves: what they move them by is the update."""

    def update(gradient: Any, state: Any, params: Any = None, *, value: Any = None, **more: Any) -> Any:
        del more
        moved = optimizer.update(gradient, state, value)
        return jax.tree.map(lambda new, old: new - old, optimizer.get_params(moved), params), moved

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def adam(learning_rate: float) -> optax.GradientTransformation:
    """`optax.adam` with one division per weight where it has three, which is what a step on a CPU waits for.

    Source: Kingma & Ba 2015, algorithm 1.
    """
    first, second, small = 0.9, 0.999, 1e-8

    def init(params: Any) -> optax.ScaleByAdamState:
        mu, nu = (jax.tree.map(lambda p: jax.device_put(np.zeros(p.shape, p.dtype)), params) for _ in range(2))
        return optax.ScaleByAdamState(jax.device_put(np.zeros((), np.int32)), mu, nu)

    def update(gradient: Any, state: optax.ScaleByAdamState, params: Any = None) -> Any:
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(gradient, state.mu, first, 1)
        nu = optax.tree.update_moment_per_elem_norm(gradient, state.nu, second, 2)
        of_mu, of_nu = -learning_rate / (1 - first**count), 1 / (1 - second**count)
        updates = jax.tree.map(lambda m, v: (m * of_mu) / (jnp.sqrt(v * of_nu) + small), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)
