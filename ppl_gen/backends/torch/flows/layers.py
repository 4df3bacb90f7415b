"""Marks through the layers of networks, losses, attention and searches."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ppl_gen.backends.torch.flows.call import Call, Words, either, everything, mixed, reduced, to_all, to_front
from ppl_gen.backends.torch.flows.elementwise import pointwise


def leading(kept: Callable[[Tensor], int], data: int = 1) -> Callable[[Call], list[Words]]:
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
        return [to_front(words, out, width, call) for out in call.outs]

    return rule


def layer_norm(call: Call) -> list[Words]:
    """It mixes the dimensions that it normalizes over."""
    width = call.args[0].dim() - len(call.args[1])
    return leading(lambda _: width)(call)


def batch_norm(call: Call) -> list[Words]:
    """In training it mixes all but the channels, in evaluation nothing."""
    tensor = call.args[0]
    training = any(value is True for value in call.args[3:6]) or call.name == "_batch_norm_with_update"
    words = call.words_of(tensor)
    channels: Words = None
    for value in call.args[1 : 3 if training else 5]:
        channels = either(channels, call.words(value))
    if training and words is not None:
        words = reduced(words, [dim for dim in range(tensor.dim()) if dim != 1])
    if channels is not None:
        words = either(words, channels.reshape([-1] + [1] * (tensor.dim() - 2)))
    total = None if words is None else everything(words)
    return [words if out.shape == tensor.shape else total for out in call.outs]


def recurrent(call: Call) -> list[Words]:
    """One layer over (time, batch, features): batch elements are kept apart."""
    batch = call.args[0].shape[-2]
    own: Words = None
    rest = []
    for tensor in call.inputs:
        words = call.words_of(tensor)
        if words is None:
            continue
        if tensor.dim() > 1 and tensor.shape[-2] == batch and any(tensor is call.args[i] for i in (0, 5, 6)):
            own = either(own, reduced(words, [d for d in range(words.dim()) if d != words.dim() - 2]).reshape(batch, 1))
        else:
            rest.append(tensor)
    words = either(own, call.whole(rest))
    if words is None:
        return to_all(call, None)
    return [words if out.dim() > 1 and out.shape[-2] == batch else everything(words) for out in call.outs]


def likelihood(call: Call) -> list[Words]:
    """nll_loss: of (rows, classes) and (rows,)."""
    tensor, target = call.args[:2]
    if call.given("reduction") or tensor.dim() < 2:
        return mixed(call)
    words = call.words_of(tensor)
    words = None if words is None else reduced(words, [1]).squeeze(1)
    words = either(words, call.words_of(target), call.whole([call.args[2]]))
    return [words if out.shape == target.shape else None if words is None else everything(words) for out in call.outs]


def loss(call: Call) -> list[Words]:
    """Element by element, unless it is summed up."""
    return mixed(call) if call.given("reduction") else pointwise(call)


def attention(call: Call) -> list[Words]:
    """Over all of a sequence; batch and heads apart."""
    own: Words = None
    for value in call.args[:3]:
        words = call.words(value)
        own = either(own, None if words is None else reduced(words, [-2, -1]))
    rest = call.whole([t for t in call.inputs if not any(t is value for value in call.args[:3])])
    words = either(own, rest)
    if words is None:
        return to_all(call, None)
    lead = words.shape[:-2]
    return [
        words.reshape([*lead, *[1] * (out.dim() - len(lead))]) if out.shape[: len(lead)] == lead else everything(words)
        for out in call.outs
    ]


def searched(call: Call) -> list[Words]:
    """searchsorted: each value in the last dimension of the boundaries."""
    bounds, values = call.args[:2]
    own = call.words(bounds)
    own = None if own is None else reduced(own, [-1]) if bounds.dim() > 1 else everything(own)
    return to_all(call, either(own, call.words(values)))


def bucketed(call: Call) -> list[Words]:
    """bucketize: each value in all the boundaries."""
    return to_all(call, either(call.words(call.args[0]), call.whole([call.args[1]])))
