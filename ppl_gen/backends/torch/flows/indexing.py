"""Marks through indices: exact where the places are constant, else anything may come from, or go, anywhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppl_gen.backends.torch.flows.call import Call, Words, either, everything, reduced, to_all


def index_rule(call: Call) -> list[Words]:
    """`x[i, j]`, with tensors among the indices."""
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
    words = either(*map(call.words_of, given))
    if words is None:
        return None
    if any(index.dtype in (torch.bool, torch.uint8) for index in given):
        return everything(words)
    words = words.expand(torch.broadcast_shapes(*(index.shape for index in given)))
    first = next(place for place, index in enumerate(indices) if index is not None)
    together = all(index is not None for index in indices[first : first + len(given)])
    after = tensor.dim() - len(given) - (first if together else 0)
    return words.reshape([*words.shape, *[1] * after])


def gather(call: Call) -> list[Words]:
    """Elements along one dimension, each from a place of its own."""
    tensor, dim, index = call.args[:3]
    marks = call.words_of(index)
    chosen = call.present(tensor)
    if not call.constant(index) and tensor.dim():
        chosen = reduced(chosen, [dim]).expand(tensor.shape)
    return [either(torch.gather(chosen, dim, index), marks)]


def index_select(call: Call) -> list[Words]:
    """Slices along one dimension."""
    tensor, dim, index = call.args[:3]
    marks = call.words_of(index)
    chosen = call.present(tensor)
    if not call.constant(index):
        chosen = reduced(chosen, [dim]).expand(tensor.shape)
    if marks is not None:
        marks = marks.reshape([-1] + [1] * (tensor.dim() - dim % tensor.dim() - 1))
    return [either(torch.index_select(chosen, dim, index), marks)]


def embedding(call: Call) -> list[Words]:
    """Rows of a table."""
    table, index = call.args[:2]
    marks, chosen = call.words_of(index), call.words_of(table)
    if chosen is not None:
        chosen = (chosen if call.constant(index) else reduced(chosen, [0]).expand(table.shape))[index]
    return [either(None if marks is None else marks.unsqueeze(-1), chosen)]


def scatter(call: Call) -> list[Words]:
    """What is scattered may go anywhere along the dimension."""
    tensor, dim, index = call.args[:3]
    source = call.args[3] if len(call.args) > 3 else call.kwargs.get("src")
    own = call.present(tensor)
    marks = call.words_of(index)
    if isinstance(source, Tensor) and (words := call.words_of(source)) is not None:
        words = words[tuple(slice(size) for size in index.shape)] if source.dim() else words
        marks = either(marks, words)
    if marks is None:
        return to_all(call, own if call.constant(index) or not tensor.dim() else own | reduced(own, [dim]))
    spread = own.new_zeros([1 if d == dim % max(tensor.dim(), 1) else size for d, size in enumerate(tensor.shape)])
    if not tensor.dim():
        return to_all(call, own | everything(marks))
    marks = reduced(marks.expand(index.shape), [dim])
    spread[tuple(slice(size) for size in marks.shape)] = marks
    return to_all(call, own | spread)


def index_add(call: Call) -> list[Words]:
    """Slices are added along one dimension, anywhere in it."""
    tensor, dim, index, source = call.args[:4]
    own, marks = call.present(tensor), call.words(source)
    marks = marks if marks is None or marks.dim() else marks.expand(tensor.shape)
    marks = None if marks is None else reduced(marks, [dim])
    return to_all(call, either(own, marks, call.whole([index])))


def index_put(call: Call) -> list[Words]:
    """Exact where the places are constant and differ; else everything that is written may be anywhere."""
    tensor, indices, values = call.args[:3]
    own, marks = call.present(tensor), call.words(values)
    given = [index for index in indices if index is not None]
    if len(given) == 1 and given[0].dtype == torch.bool and given[0].shape == tensor.shape and values.numel() == 1:
        return to_all(call, either(own, call.words_of(given[0]), call.whole([values])))  # as masked_fill
    own_words = call.whole(given)
    if all(map(call.constant, given)) and marks is not None and not call.given("accumulate", False):
        numbered = torch.arange(tensor.numel(), device=tensor.device).reshape(tensor.shape)
        places = numbered[tuple(slice(None) if index is None else index for index in indices)]
        if places.unique().numel() == places.numel():
            return to_all(call, torch.ops.aten.index_put(own.contiguous(), indices, marks))
    total = either(own_words, call.whole([values]))
    return to_all(call, either(own, total))
