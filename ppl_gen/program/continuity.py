"""Is a piecewise function continuous where its pieces meet? Proved by algebra on what the program wrote.

``where(z > 0, a, b)`` is continuous if a and b are the same expression once z is 0. An `Expr` is what an elementwise
operation did; everything else (a reduction, a view, data) is an unknown of its own, equal to nothing but itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

COMPARISONS = frozenset(("gt", "ge", "lt", "le"))
LARGEST = 200  # operations in an expression that is looked at


@dataclass(frozen=True)
class Expr:
    """An elementwise expression.

    Attributes:
        op: name of the operation; "const" and "unknown" have no operands.
        args: the operands.
        value: of a constant, or the number that names an unknown.
    """

    op: str
    args: tuple[Expr, ...] = ()
    value: float = 0.0

    @property
    def size(self) -> int:
        """Operations in it, counted as often as they are met; stops counting beyond `LARGEST`."""
        total = 1
        for arg in self.args:
            total += arg.size
            if total > LARGEST:
                break
        return total


def const(value: float) -> Expr:
    """A number."""
    return Expr("const", value=float(value))


def unknown(number: int) -> Expr:
    """An array of which nothing is known; one number always means the same array."""
    return Expr("unknown", value=float(number))


def is_continuous(condition: Expr, first: Expr, second: Expr) -> bool:
    """Whether ``where(condition, first, second)`` has no step: its pieces agree on every border of the condition."""
    if condition.size + first.size + second.size > LARGEST:
        return False
    borders = list(_borders(condition))
    return bool(borders) and all(_agree(border, first, second) for border in borders)


def _borders(condition: Expr) -> Iterator[Expr | None]:
    """The comparisons that a condition is made of; None for what is no comparison."""
    if condition.op in ("and", "or", "not"):
        for arg in condition.args:
            yield from _borders(arg)
    else:
        yield condition if condition.op in COMPARISONS else None


def _agree(border: Expr | None, first: Expr, second: Expr) -> bool:
    if border is None:
        return False
    left, right = (simplify(arg) for arg in border.args)
    return any(
        all(_same(substitute(first, old, new), substitute(second, old, new)) for old, new in cases)
        for cases in _solutions(left, right)
    )


def _solutions(left: Expr, right: Expr) -> Iterator[list[tuple[Expr, Expr]]]:
    """Ways to say left = right by replacing one expression; each a list of cases that all must hold."""
    if right.op == "const":
        yield [(left, right)]
        yield from _solved(left, right.value)
    elif left.op == "const":
        yield from _solutions(right, left)
    else:
        yield [(left, right)]
        yield [(right, left)]


def _solved(expr: Expr, value: float) -> Iterator[list[tuple[Expr, Expr]]]:
    """Ways to say ``expr = value`` of what is inside `expr`."""
    if not expr.args:
        return
    inner = expr.args[0]
    numbers = [arg.value for arg in expr.args if arg.op == "const"]
    rest = [arg for arg in expr.args if arg.op != "const"]
    if expr.op in ("add", "mul") and len(numbers) == 1 and len(rest) == 1:
        if expr.op == "mul" and numbers[0] == 0:
            return
        target = value - numbers[0] if expr.op == "add" else value / numbers[0]
        yield [(rest[0], const(target))]
        yield from _solved(rest[0], target)
    elif expr.op == "abs" and value >= 0:
        yield [(inner, const(value)), (inner, const(-value))]
    elif expr.op == "pow" and numbers == [2.0] and value >= 0:
        yield [(inner, const(math.sqrt(value))), (inner, const(-math.sqrt(value)))]


def substitute(expr: Expr, old: Expr, new: Expr) -> Expr:
    """`expr` with every `old` in it replaced, simplified."""
    expr = simplify(expr)
    if expr == old:
        return new
    return simplify(Expr(expr.op, tuple(substitute(arg, old, new) for arg in expr.args), expr.value))


def _same(first: Expr, second: Expr) -> bool:
    if first.op == second.op == "const":
        return math.isclose(first.value, second.value, rel_tol=1e-6, abs_tol=1e-9)
    return first.op == second.op and first.value == second.value and _same_args(first, second)


def _same_args(first: Expr, second: Expr) -> bool:
    return len(first.args) == len(second.args) and all(map(_same, first.args, second.args))


FUNCTIONS: dict[str, Callable[[float], float]] = {
    "exp": math.exp,
    "expm1": math.expm1,
    "log": math.log,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "sin": math.sin,
    "cos": math.cos,
    "abs": abs,
    "relu": lambda x: max(x, 0.0),
    "softplus": lambda x: math.log1p(math.exp(x)),
}


def simplify(expr: Expr) -> Expr:
    """The same value in fewer words: sums and products in one order, constants worked out, zeros taken to their end."""
    args = tuple(map(simplify, expr.args))
    match expr.op:
        case "sub" | "neg" | "square" | "div" if (restated := _restated(expr.op, args)) is not None:
            return simplify(restated)
        case "add" | "mul":
            return _collected(expr.op, args)
        case "pow" if args[1].op == "const":
            return _power(args[0], args[1].value)
        case "max" | "min" if all(arg.op == "const" for arg in args):
            return const((max if expr.op == "max" else min)(arg.value for arg in args))
        case "max" | "min" if args[0] == args[1]:
            return args[0]
        case "same":
            return args[0]
        case "select" if args[1] == args[2]:
            return args[1]
        case "indicator" if _is_decided(args[0]):
            return const(_holds(args[0]))
        case "select" if _is_decided(args[0]):
            return args[1] if _holds(args[0]) else args[2]
    return _evaluated(Expr(expr.op, args, expr.value))


def _restated(op: str, args: tuple[Expr, ...]) -> Expr | None:
    """A difference or quotient as a sum or product; None where it is none."""
    match op:
        case "sub":
            return Expr("add", (args[0], Expr("mul", (const(-1), args[1]))))
        case "neg":
            return Expr("mul", (const(-1), args[0]))
        case "square":
            return Expr("pow", (args[0], const(2)))
    is_number = args[1].op == "const" and args[1].value != 0
    return Expr("mul", (args[0], const(1 / args[1].value))) if is_number else None


def _evaluated(expr: Expr) -> Expr:
    """The value of a function of a number, where it has one."""
    if expr.op not in FUNCTIONS or expr.args[0].op != "const":
        return expr
    try:
        return const(FUNCTIONS[expr.op](expr.args[0].value))
    except (ValueError, OverflowError):
        return expr


def _is_decided(condition: Expr) -> bool:
    """Whether it compares two numbers."""
    return condition.op in COMPARISONS and all(arg.op == "const" for arg in condition.args)


def _holds(comparison: Expr) -> bool:
    left, right = (arg.value for arg in comparison.args)
    return {"gt": left > right, "ge": left >= right, "lt": left < right, "le": left <= right}[comparison.op]


def _power(base: Expr, exponent: float) -> Expr:
    if exponent == 1:
        return base
    if base.op == "const" and (base.value > 0 or exponent == int(exponent) >= 0):
        return const(base.value**exponent)
    if exponent % 2 == 0 and base.op == "abs":  # an even power does not see the sign
        return Expr("pow", (base.args[0], const(exponent)))
    return Expr("pow", (base, const(exponent)))


def _collected(op: str, args: tuple[Expr, ...]) -> Expr:
    """A sum or product with nested ones taken in, its constants as one, like terms together."""
    flat = [inner for arg in args for inner in (arg.args if arg.op == op else (arg,))]
    numbers = [arg.value for arg in flat if arg.op == "const"]
    rest = [arg for arg in flat if arg.op != "const"]
    number = math.prod(numbers) if op == "mul" else math.fsum(numbers)
    if op == "mul" and number == 0:
        return const(0)
    if op == "mul" and number != 1 and len(rest) == 1 and rest[0].op == "add":  # a number goes into the bracket
        return simplify(Expr("add", tuple(Expr("mul", (const(number), term)) for term in rest[0].args)))
    if op == "add":
        rest = _like_terms(rest)
    rest.sort(key=repr)
    if number != (1 if op == "mul" else 0) or not rest:
        rest = [const(number), *rest]
    return rest[0] if len(rest) == 1 else Expr(op, tuple(rest))


def _like_terms(terms: list[Expr]) -> list[Expr]:
    """Terms of a sum that differ by a factor only, as one each."""
    factors: dict[Expr, float] = {}
    for term in terms:
        factor, rest = 1.0, term
        if term.op == "mul" and term.args[0].op == "const":
            factor, inner = term.args[0].value, term.args[1:]
            rest = inner[0] if len(inner) == 1 else Expr("mul", inner)
        factors[rest] = factors.get(rest, 0.0) + factor
    return [
        rest if factor == 1 else _collected("mul", (const(factor), rest))
        for rest, factor in factors.items()
        if factor != 0
    ]
