"""One step of a torch program as a flat graph of tensor operations, trusted only where it repeats eager steps."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from ppl_gen.backends.torch.places import Statements, of_error

Step = Callable[..., list[Tensor]]

_WHOLE = (torch.int32, torch.int64)
INDUCTOR_STEPS = 10_000  # from here on, compiling (seconds) is repaid by faster steps (tenths of a millisecond)
INDUCTOR_NODES = 4_000  # larger graphs compile for minutes


class CannotCapture(Exception):
    """The step has no graph; the message says why."""


def capture(step: Step, inputs: list[Tensor]) -> torch.fx.GraphModule:
    """The operations that `step` does on `inputs`, random draws included, as a graph of the same signature.

    The inputs must be the very tensors that the step's closures read. Running the step changes those of them that it
    writes to (running averages); the caller puts them back.

    Raises:
        CannotCapture: the step branches on a value, or leaves torch.
    """
    try:
        with Statements() as statements, _Subscripts(), tracing(TracingContext(FakeTensorMode())):
            graph = make_fx(step)(*inputs)
    except Exception as error:
        raise CannotCapture(f"{of_error(error, statements.name)}: {said(error)}") from error
    graph.graph.eliminate_dead_code()
    if not any(_writes(node) for node in graph.graph.nodes):
        _do_once(graph.graph)
    graph.recompile()
    return graph


def _do_once(graph: torch.fx.Graph) -> None:
    """Let what is computed twice from the same operands be computed once; torch's own pass takes seconds to import."""
    known: dict[Hashable, torch.fx.Node] = {}
    for node in list(graph.nodes):
        if not _is_pure(node):
            continue
        key = (node.target, _key(node.args), _key(node.kwargs))
        if key in known:
            node.replace_all_uses_with(known[key])
            graph.erase_node(node)
        else:
            known[key] = node


def _is_pure(node: torch.fx.Node) -> bool:
    """Whether the same operands always give the same values; none of the graph's operations writes to memory."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded in target.tags:
        return False
    return not target.overloadpacket.__name__.startswith(
        ("empty", "new_empty")
    )  # whose values are what lay there before


def _key(value: Any) -> Hashable:
    """Operands as part of a key: 1, 1.0 and True are three."""
    if isinstance(value, list | tuple):
        return tuple(map(_key, value))
    if isinstance(value, Mapping):
        return tuple((name, _key(inner)) for name, inner in sorted(value.items()))
    return type(value), repr(value) if isinstance(value, float) else value


def said(error: BaseException) -> str:
    """An exception in a few words: kind, and the first line of its message."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


class _Subscripts(TorchFunctionMode):
    """What torch reads on the host though no program means it so, as operations on tensors.

    These are `table[state]` for whole numbers without dimensions, and `one_hot`, which looks for the largest index.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__getitem__:
            keys = args[1] if isinstance(args[1], tuple) else (args[1],)
            if keys and all(isinstance(key, Tensor) and not key.dim() and key.dtype in _WHOLE for key in keys):
                return args[0][tuple(key.reshape(1) for key in keys)].squeeze(0)
        if func is torch.nn.functional.one_hot:
            return _one_hot(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 0:
        return torch.nn.functional.one_hot(tensor, num_classes)
    return (tensor.unsqueeze(-1) == torch.arange(num_classes, device=tensor.device)).to(tensor.dtype)


def _writes(node: torch.fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def compiled(graph: torch.fx.GraphModule, steps: int, wanted: Any) -> tuple[Step, str]:
    """(the graph made fast, how): through Inductor where asked for, or where the run is long enough."""
    nodes = len(graph.graph.nodes)
    if wanted is True or (steps >= INDUCTOR_STEPS and nodes <= INDUCTOR_NODES):
        import torch._inductor.config as inductor

        with inductor.patch(fallback_random=True):  # the same random numbers as an eager step
            fast = torch.compile(graph, dynamic=False)

        def call(*inputs: Tensor) -> Any:
            with inductor.patch(fallback_random=True), torch.no_grad():
                return fast(*inputs)

        return call, f"captured, {nodes} operations, compiled"

    def replay(*inputs: Tensor) -> Any:
        with torch.no_grad():
            return graph(*inputs)

    return replay, f"captured, {nodes} operations"


def side_by_side(run: Callable[[], tuple[Tensor, ...]], count: int) -> list[Tensor]:
    """What `count` replays give, each with random numbers of its own: arrays (count, ...).

    Raises:
        Exception: torch cannot batch one of the operations.
    """

    def lane(zero: Tensor) -> tuple[Tensor, ...]:
        with _OwnMemory(zero):
            return run()

    # torch warns, to stderr, of each operation that it takes one by one
    core: Any = torch._C
    told = core._debug_only_are_vmap_fallback_warnings_enabled()
    core._functorch._set_vmap_fallback_warning_enabled(False)
    try:
        found: tuple[Tensor, ...] = torch.func.vmap(lane, randomness="different")(torch.zeros(count))
    finally:
        core._functorch._set_vmap_fallback_warning_enabled(told)
    return list(found)


class _OwnMemory(TorchFunctionMode):
    """Under `vmap`, memory that is filled with random numbers is each lane's own."""

    def __init__(self, zero: Tensor) -> None:
        super().__init__()
        self.zero = zero  # a scalar of this lane

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(func, torch._ops.OpOverload) and func.overloadpacket.__name__.startswith(("empty", "new_empty")):
            return found + self.zero.to(found)
        return found


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether two results, the loss first, agree up to the rounding of another order of operations."""
    scales = [_scale(b) for b in expected]
    largest = max(scales[1:], default=0.0)  # a gradient may be nothing but rounding of others
    return all(
        a.shape == b.shape and a.dtype == b.dtype and _close(a, b, max(1e-5 * (1.0 + scale), 1e-6 * largest))
        for a, b, scale in zip(found, expected, scales, strict=True)
    )


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if a.is_floating_point() and _largest(a - b) <= tolerance:  # nearly always, and the quicker to find
        return True
    return torch.allclose(a, b, rtol=1e-3, atol=tolerance, equal_nan=True)


def _scale(value: Tensor) -> float:
    """Largest finite magnitude."""
    largest = _largest(value if value.is_floating_point() else value.double())
    return largest if isfinite(largest) else float(value.abs().nan_to_num(nan=0.0, posinf=0.0).max())


def _largest(value: Tensor) -> float:
    """Largest magnitude, NaN where there is one."""
    if not value.numel():
        return 0.0
    low, high = torch.aminmax(value)
    return float(torch.maximum(-low, high))
