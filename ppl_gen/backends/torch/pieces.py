"""What looks like a step and is none: pieces that meet where they join, an order that puts a tensor in order, a direction.

A comparison is kept together with what it would carry if it were no step; where `ppl_gen.program.continuity` proves that the pieces it
chooses between meet, that is what counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor

from ppl_gen.backends.torch.ranges import Ranges
from ppl_gen.program import Path
from ppl_gen.program.continuity import COMPARISONS, Expr, const, is_continuous, unknown

T = TypeVar("T")
Operand = Tensor | bool | int | float
DEEPEST = 40  # operations within one another in an expression

_OPERATIONS = {
    name: name
    for name in "add sub mul div neg square abs pow exp expm1 log log1p sqrt tanh sigmoid sin cos relu".split()
}
_OPERATIONS |= {"maximum": "max", "minimum": "min", "gt": "gt", "ge": "ge", "lt": "lt", "le": "le", "clone": "same"}
_OPERATIONS |= {
    "logical_and": "and",
    "bitwise_and": "and",
    "logical_or": "or",
    "bitwise_or": "or",
    "logical_not": "not",
}
_OPERATIONS |= {"bitwise_not": "not", "where": "select", "__and": "and", "__or": "or"}
_CONDITIONS = COMPARISONS | {"and", "or", "not"}
_VIEWS = frozenset("expand view unsqueeze squeeze clone _unsafe_view".split())


def version(tensor: Tensor) -> int:
    """How often it was written to; tensors of inference do not count."""
    return 0 if tensor.is_inference() else tensor._version


class Notes(Generic[T]):
    """What is known of tensors as they are now: it is forgotten where they are written to."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, int, T]] = {}

    def put(self, tensor: Tensor, value: T) -> None:
        """Remember `value` of a tensor."""
        self._known[id(tensor)] = tensor, version(tensor), value

    def get(self, tensor: object) -> T | None:
        """What was put; None where nothing holds any more."""
        found = self._known.get(id(tensor))
        return found[2] if found is not None and found[0] is tensor and version(found[0]) == found[1] else None


class Pieces:
    """Expressions, comparisons, orders and lengths of the tensors of one run."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self._numbers = itertools.count()
        self._exprs: Notes[tuple[Expr, int]] = Notes()
        self._reaches: Notes[Mapping[str, Path]] = Notes()
        self._orders: Notes[tuple[Tensor, int, int]] = Notes()
        self._lengths: Notes[tuple[str, str]] = Notes()  # (what it is: own, squares, length; of which latent)

    def latent(self, name: str, tensor: Tensor) -> None:
        """The value of a latent, whose elements are coordinates of their own."""
        self._lengths.put(tensor, ("own", name))

    def is_latent(self, tensor: Tensor) -> bool:
        """Whether it is the very value of a latent."""
        found = self._lengths.get(tensor)
        return found is not None and found[0] == "own"

    def unblocked(self, tensor: Tensor, reach: Mapping[str, Path]) -> dict[str, Path]:
        """What a comparison, an indicator or an order would carry if it were no step; of others `reach`."""
        found = self._reaches.get(tensor)
        return dict(reach if found is None else found)

    def harmless(self, name: str, args: Sequence[Any]) -> list[Tensor]:
        """The operands through which the operation, as it is used here, has no step."""
        match name:
            case "where" if len(args) == 3 and self._meet(args[0], args[1], args[2]):
                return [args[0]]
            case "masked_fill" if self._meet(args[1], args[2], args[0]):
                return [args[1]]
            case "mul":
                return [a for a, b in (args[:2], args[1::-1]) if isinstance(a, Tensor) and self._vanishes(a, b)]
            case "gather" if self._in_order(args[0], args[2], args[1]):
                return [args[2]]
            case "index_select" if self._in_order(args[0], args[2], args[1]):
                return [args[2]]
            case "index" if len(args[1]) == 1 and args[0].dim() == 1 and self._in_order(args[0], args[1][0], 0):
                return [args[1][0]]
            case "div" if self._is_direction(args[0], args[1]):
                return [args[1]]
        return []

    def note(self, name: str, args: Sequence[Any], out: object, reach: Mapping[str, Path]) -> None:
        """Remember what an operation made.

        Args:
            name: of the operation.
            args: its operands.
            out: its result, or results.
            reach: what it would carry if it were no step.
        """
        if name in ("sort", "topk", "argsort") and isinstance(out, tuple | list | Tensor):
            places = out if isinstance(out, Tensor) else out[-1]
            dim = _dim_of_order(name, args)
            self._orders.put(places, (args[0], version(args[0]), dim % max(args[0].dim(), 1)))
            self._reaches.put(places, reach)
        if not isinstance(out, Tensor):
            return
        self._note_length(name, args, out)
        expr = self._made(name, args, out)
        if expr is not None:
            self._exprs.put(out, expr)
            if expr[0].op in _CONDITIONS or expr[0].op == "indicator":
                self._reaches.put(out, reach)

    def key(self, tensor: Tensor) -> object:
        """What a tensor is, for two readings to be known as one."""
        return self._expr(tensor)[0]

    def _expr(self, value: Operand) -> tuple[Expr, int]:
        """(expression of an operand, its depth)."""
        if isinstance(value, bool | int | float):
            return const(float(value)), 1
        known = self._exprs.get(value)
        if known is None:
            bounds = self._ranges.of(value).bounds
            known = (const(bounds.low) if bounds.low == bounds.high else unknown(next(self._numbers))), 1
            self._exprs.put(value, known)
        return known

    def _made(self, name: str, args: Sequence[Any], out: Tensor) -> tuple[Expr, int] | None:
        if any(out is value for value in args):
            return None  # written in place
        if name == "_to_copy" and isinstance(args[0], Tensor):
            inner, depth = self._expr(args[0])
            if inner.op in _CONDITIONS:
                return (Expr("indicator", (inner,)), depth + 1) if out.is_floating_point() else (inner, depth)
            return (inner, depth) if out.is_floating_point() and args[0].is_floating_point() else None
        if name in ("clamp", "clamp_min", "clamp_max"):
            low = args[1] if name != "clamp_max" and len(args) > 1 else None
            high = args[-1] if name == "clamp_max" else args[2] if len(args) > 2 else None
            return self._clamped(args[0], low, high)
        if name == "softplus" and len(args) == 1:
            return self._joined("softplus", args)
        if name == "rsub" and len(args) == 2:
            return self._joined("sub", args[::-1])
        operation = _OPERATIONS.get(name)
        width = 3 if operation == "select" else 2
        if operation is None or len(args) > width or not all(isinstance(v, Tensor | int | float) for v in args):
            return None
        return self._joined(operation, args)

    def _joined(self, operation: str, args: Sequence[Any]) -> tuple[Expr, int] | None:
        parts = [self._expr(value) for value in args]
        depth = 1 + max(depth for _, depth in parts)
        return (Expr(operation, tuple(expr for expr, _ in parts)), depth) if depth <= DEEPEST else None

    def _clamped(self, value: Operand, low: Operand | None, high: Operand | None) -> tuple[Expr, int] | None:
        expr, depth = self._expr(value)
        for operation, end in (("max", low), ("min", high)):
            if end is not None:
                other, deep = self._expr(end)
                expr, depth = Expr(operation, (expr, other)), max(depth, deep) + 1
        return (expr, depth) if depth <= DEEPEST else None

    def _meet(self, condition: Operand, first: Operand, second: Operand) -> bool:
        return is_continuous(*(self._expr(value)[0] for value in (condition, first, second)))

    def _vanishes(self, indicator: Tensor, other: Operand) -> bool:
        """Whether `other` is zero where the indicator, or condition, turns."""
        expr = self._expr(indicator)[0]
        condition = expr.args[0] if expr.op == "indicator" else expr
        return condition.op in _CONDITIONS and is_continuous(condition, self._expr(other)[0], const(0))

    def _in_order(self, tensor: Tensor, places: Tensor, dim: int) -> bool:
        known = self._orders.get(places)
        if known is None:
            return False
        source, number, along = known
        return source is tensor and version(tensor) == number and dim % max(tensor.dim(), 1) == along

    def _note_length(self, name: str, args: Sequence[Any], out: Tensor) -> None:
        found = next(self._lengths_of(name, args, out), None)
        if found is not None:
            self._lengths.put(out, found)

    def _lengths_of(self, name: str, args: Sequence[Any], out: Tensor) -> Iterator[tuple[str, str]]:
        kind, latent = self._lengths.get(args[0]) or ("", "") if args else ("", "")
        several = bool(args) and isinstance(args[0], Tensor) and args[0].numel() >= 2 * out.numel()
        if kind == "own" and (
            name == "square" or (name == "mul" and args[1] is args[0]) or (name == "pow" and args[1] == 2)
        ):
            yield "squares", latent
        if kind == "squares" and name == "sum" and several:
            yield "length", latent
        if kind == "own" and name == "linalg_vector_norm" and several and (len(args) < 2 or args[1] == 2):
            yield "length", latent
        if kind == "length" and (name in _VIEWS or name in ("sqrt", "clamp_min")):
            yield kind, latent

    def _is_direction(self, value: Operand, length: Operand) -> bool:
        """Whether a latent of several coordinates is divided by its own length: no path that counts meets the one place."""
        own, over = self._lengths.get(value), self._lengths.get(length)
        return own is not None and over == ("length", own[1]) and own[0] == "own"


def _dim_of_order(name: str, args: Sequence[Any]) -> int:
    place = 2 if name == "topk" else 1
    return args[place] if len(args) > place and isinstance(args[place], int) else -1
