"""Marks through products and decompositions of matrices."""

from __future__ import annotations

import torch

from ppl_gen.backends.torch.flows.call import Call, Words, either, reduced, to_all, to_front


def product(call: Call, first: int = 0) -> list[Words]:
    """Matrix products, batched ones too, and of a matrix with a vector; then what is added to them."""
    a, b = call.args[first], call.args[first + 1]
    left, right = call.words_of(a), call.words_of(b)
    if left is not None:
        left = reduced(left, [-1])
        left = left if b.dim() > 1 else left.squeeze(-1)
    if right is not None:
        right = reduced(right, [-2] if b.dim() > 1 else [-1])
    added = call.words_of(call.args[0]) if first else None
    return to_all(call, either(added, left, right))


def added_product(call: Call) -> list[Words]:
    """A matrix product and what is added to it."""
    return product(call, 1)


def outer(call: Call) -> list[Words]:
    """An outer product and what is added to it."""
    added, a, b = map(call.words, call.args[:3])
    return to_all(call, either(added, None if a is None else a.unsqueeze(-1), b))


def distances(call: Call) -> list[Words]:
    """Every row of one operand with every row of the other."""
    a, b = map(call.words, call.args[:2])
    rows = None if a is None else reduced(a, [-1])
    columns = None if b is None else reduced(b, [-1]).transpose(-1, -2)
    return to_all(call, either(rows, columns))


_ONE_DIMENSION = frozenset("lu_unpack linalg_lu_solve linalg_householder_product ormqr linalg_ldl_solve".split())


def matrices(call: Call) -> list[Words]:
    """Of the last two dimensions, matrix by matrix; the second operand may hold one vector for each."""
    first = call.inputs[0]
    own: Words = None
    shapes = []
    for place, tensor in enumerate(call.inputs):
        vector = call.name == "_linalg_solve_ex" and tensor.shape == first.shape[:-1]
        width = tensor.dim() - (1 if place == 1 and (vector or call.name in _ONE_DIMENSION) else 2)
        shapes.append(tensor.shape[:width])
        words = call.words_of(tensor)
        if words is not None:
            own = either(own, reduced(words, range(width, words.dim())).reshape(words.shape[:width]))
    if own is None:
        return to_all(call, None)
    own = own.expand(torch.broadcast_shapes(*shapes))
    return [to_front(own, out, own.dim(), call) for out in call.outs]
