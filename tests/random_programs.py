"""Programs that nobody wrote: random graphs of sites whose costs hide what they depend on.

Each program has up to four latents (binary, categorical, vectors of bits, at most one normal) in and out of a plate,
with random parents in model and guide, and an observation. On its way to the observation a latent may pass a twist:
something that a single run of the program need not show. A gate (a latent outside the plate, or a number of the data)
opens a mixing of the plate's elements, a jump or a pole; a parameter that starts at zero weighs a sum; a latent shifts or
gathers the others; Python branches on a latent, or indexes a list by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from hypothesis import strategies as st
from scipy.special import digamma as numpy_digamma

from ppl_gen.language import dist, param, plate, sample, xp

SIZE = 2  # elements of the plate
MOST = 400  # branches of the reference
PLAIN = "plain"
MIXING = ("mean", "roll", "sort", "latent roll", "gather", "weight", "residual", "data")
POLES: dict[str, tuple[float, ...]] = {
    "over its size": (0.0,),
    "inverse": (0.0,),
    "solve": (0.0,),
    "logarithm": (0.0,),
    "digamma": (-2.0, -1.0, 0.0),
    "floor": (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0),
}
ON_TORCH = ("branch", "list", "branch to floor")  # Python control flow on a latent
PIECES = 20  # nodes of the reference between two breaks


@dataclass(frozen=True)
class Node:
    """One latent: its kind, whether it is in the plate, its parents in the model and in the guide, its way to the data."""

    kind: str
    inside: bool
    model_parents: tuple[int, ...]
    guide_parents: tuple[int, ...]
    weights: tuple[float, ...]
    twist: str = PLAIN
    other: int = 0  # the latent that opens the twist

    @property
    def breaks(self) -> tuple[float, ...]:
        """Where the cost may jump in a normal latent's value."""
        return POLES.get("floor" if self.twist == "branch to floor" else self.twist, ())


def wide(value: Any, node: Node) -> Any:
    """A value as one float per plate element (or one in all): categories and vectors of bits weighed together."""
    value = xp.astype(value, xp.float32)
    return value[..., 0] - 1.5 * value[..., 1] if node.kind == "bits" else value


def push(nodes: tuple[Node, ...], parents: tuple[int, ...], values: list[Any], inside: bool, weights: Any) -> Any:
    """The parents' influence, shaped like what they influence; a plate's elements are summed on the way out."""
    total: Any = 0.0
    for weight, parent in zip(weights, parents, strict=False):
        value = values[parent]
        total = total + weight * (xp.sum(value) if nodes[parent].inside and not inside else value)
    return total


def distribution(node: Node, shift: Any, free: Any) -> Any:
    """The node's distribution; `free` is its own parameter, a number or an array of logits."""
    if node.kind == "normal":
        return dist.Normal(0.5 * shift + free, 0.8)
    if node.kind == "category":
        steps = xp.asarray([0.4, -0.3, 0.1])
        each = shift[..., None] if hasattr(shift, "ndim") and shift.ndim else shift
        return dist.Categorical(logits=free + steps * each)
    if node.kind == "bits":
        both = xp.stack([shift + xp.zeros(()), -shift + xp.zeros(())], axis=-1)
        return dist.Bernoulli(logits=free + both).to_event(1)
    return dist.Bernoulli(logits=free + shift)


SHAPES = {"bit": (), "normal": (), "category": (3,), "bits": (2,)}


def digamma(z: Any) -> Any:
    """In each library's own words."""
    if isinstance(z, torch.Tensor):
        return torch.digamma(z)
    return jax.scipy.special.digamma(z) if isinstance(z, jnp.ndarray) else numpy_digamma(z)


def swapped(v: Any) -> Any:
    return xp.take(v, xp.asarray([1, 0]), axis=0)


def beyond(twist: str, v: Any) -> Any:
    """What a partial function or a step makes of a value; bounded, with a jump at each of its `POLES`."""
    matrix = xp.asarray([[1.0, 0.5], [0.5, 1.0]])
    if twist == "over its size":
        return v / xp.abs(v)
    if twist == "inverse":
        return xp.tanh(xp.sum(xp.linalg.inv(v * matrix)))
    if twist == "solve":
        return xp.tanh(xp.sum(xp.linalg.solve(v * matrix, xp.asarray([[0.4], [0.8]]))))
    if twist == "logarithm":
        with np.errstate(invalid="ignore"):
            return xp.nan_to_num(xp.tanh(xp.log(v)))
    return xp.tanh(digamma(v)) if twist == "digamma" else xp.floor(v)


def twisted(nodes: tuple[Node, ...], values: list[Any], i: int, a: Any, w: Any) -> Any:
    """The value of node i on its way to the data; `a` is the parameter that starts at zero, `w` a number of the data."""
    node, v = nodes[i], values[i]
    twist, other = node.twist, values[node.other]
    opened = other > 0.5
    if twist == PLAIN:
        return v
    if twist in POLES:
        return xp.where(opened, beyond(twist, v), v)
    if twist == "gather":
        return xp.take(v, xp.astype(xp.where(opened, 1.0 + 0 * other, 0 * other), xp.int64), axis=0)
    if twist == "latent roll":
        places = xp.where(opened, xp.asarray([1, 0]), xp.asarray([0, 1]))
        return xp.take(v, places, axis=0)
    if twist in ("weight", "residual", "data"):
        return v + {"weight": other, "residual": a, "data": w}[twist] * xp.sum(v)
    if twist == "branch":
        return xp.mean(v) + 0 * v if opened else v
    if twist == "branch to floor":
        return xp.floor(v) if opened else v
    if twist == "list":
        return [v, swapped(v)][int(opened)]
    mixed = {"mean": xp.mean, "roll": swapped, "sort": xp.sort}[twist](v)
    return xp.where(opened, mixed, v)


def programs(nodes: tuple[Node, ...]) -> tuple[Callable[..., None], Callable[..., None]]:
    """(model, guide) of a graph; both take the observation, and a number that the program multiplies with."""

    def walk(role: str) -> list[Any]:
        values: list[Any] = []
        for i, node in enumerate(nodes):
            shape = ((SIZE,) if node.inside else ()) + SHAPES[node.kind]
            start = 0.3 * np.cos(np.arange(np.prod(shape, dtype=int)) + i + 1).reshape(shape)
            free: Any = xp.asarray(start.astype(np.float32))
            if role == "guide":
                free = param(f"q{i}", free)
            parents = node.guide_parents if role == "guide" else node.model_parents
            shift = push(nodes, parents, values, node.inside, node.weights)
            if node.inside:
                with plate("rows", SIZE):
                    value = sample(f"z{i}", distribution(node, shift + xp.zeros(SIZE), free))
            else:
                value = sample(f"z{i}", distribution(node, shift, free))
            values.append(wide(value, node))
        return values

    def model(x: Any, w: Any = 0.0) -> None:
        values = walk("model")
        a = param("a", xp.asarray(0.0)) if any(node.twist == "residual" for node in nodes) else 0.0
        values = [twisted(nodes, values, i, a, w) for i in range(len(nodes))]
        everyone = tuple(range(len(nodes)))
        hidden = any(node.twist != PLAIN for node in nodes)  # then what it does must weigh enough to be seen
        weights = (0.9, 2.1, 0.6, 0.8) if hidden else (0.9, -0.7, 0.6, 0.8)
        loc = push(nodes, everyone, values, True, weights) + param("shift", xp.asarray(0.2))
        with plate("rows", SIZE):
            sample("x", dist.Normal(loc + xp.zeros(SIZE), 0.6 if hidden else 0.9), obs=x)

    def guide(x: Any, w: Any = 0.0) -> None:
        walk("guide")

    return model, guide


def levels(node: Node) -> int:
    """Values of a latent in the reference."""
    one = {"bit": 2, "category": 3, "bits": 4, "normal": PIECES * (len(node.breaks) + 1) if node.breaks else 24}
    return int(one[node.kind] ** (SIZE if node.inside else 1))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Node, ...]:
    """One to four nodes without a twist; small enough that all branches can be run through."""
    nodes: list[Node] = []
    branches = 1
    for i in range(draw(st.integers(1, 4))):
        kinds = ["bit", "category", "bits"] + ["normal"] * all(node.kind != "normal" for node in nodes)
        some = st.lists(st.integers(0, i - 1), unique=True, max_size=2).map(tuple) if i else st.just(())
        kind, inside = draw(st.sampled_from(kinds)), draw(st.booleans())
        node = Node(kind, inside, draw(some), draw(some), draw(st.tuples(*[st.sampled_from([-1.1, 0.7, 1.3])] * 2)))
        if branches * levels(node) > MOST:
            break
        branches *= levels(node)
        nodes.append(node)
    return tuple(nodes) if nodes else (Node("bit", False, (), (), (1.0, 1.0)),)


@st.composite
def twisted_graphs(draw: st.DrawFn, host: bool) -> tuple[Node, ...]:
    """A gate, what it twists, and up to two more; with `host`, by Python's own control flow."""
    weights = st.tuples(*[st.sampled_from([-1.1, 0.7, 1.3])] * 2)
    twist = draw(st.sampled_from(ON_TORCH if host else (*MIXING, *POLES)))
    within = twist == "gather"  # each element of the plate chooses what it sees
    kind = "normal" if twist in (*POLES, "branch to floor") else draw(st.sampled_from(["bit", "bit", "category"]))
    gate = Node("bit", within, (), (), draw(weights))
    after = draw(st.sampled_from([(), (0,)]))
    nodes = [gate, Node(kind, kind != "normal", after, draw(st.sampled_from([(), (0,)])), draw(weights), twist)]
    if draw(st.booleans()):
        parents = draw(st.sampled_from([(), (0,), (1,)]))
        more = Node(draw(st.sampled_from(["bit", "bits"])), draw(st.booleans()), parents, (), draw(weights))
        if levels(nodes[0]) * levels(nodes[1]) * levels(more) <= MOST:
            nodes.append(more)
    return tuple(nodes)
