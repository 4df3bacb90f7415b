"""What aten operations are, by name: what they write, what the host learns by them, and which of them are steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket

Operator = OpOverload[..., Any] | HigherOrderOperator
Function = Callable[..., Any]

# No slope almost everywhere, or steps, saw teeth and branch cuts whose edges a gradient does not see; decompositions
# whose pivots, signs and order flip; and the derivatives of what has a kink.
STEPS = frozenset(
    """floor ceil round trunc sign sgn heaviside frac fmod remainder floor_divide copysign nextafter frexp
    threshold hardshrink angle atan2 histc histogram _histogramdd_from_bin_cts _histogramdd_from_bin_tensors
    linspace logspace mode _unique _unique2 unique_dim unique_consecutive
    bernoulli normal poisson binomial multinomial
    linalg_qr geqrf linalg_lu linalg_lu_factor linalg_lu_factor_ex linalg_ldl_factor linalg_ldl_factor_ex
    linalg_eig linalg_eigvals _linalg_eigvals
    threshold_backward hardtanh_backward leaky_relu_backward rrelu_with_noise_backward softshrink_backward
    hardsigmoid_backward hardswish_backward elu_backward _prelu_kernel_backward
    fake_quantize_per_tensor_affine_cachemask fake_quantize_per_channel_affine_cachemask
    _fake_quantize_learnable_per_tensor_affine _fake_quantize_learnable_per_channel_affine
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
    quantize_per_tensor quantize_per_tensor_dynamic quantize_per_channel""".split()
)
# Leap across a branch cut where their values are complex.
CUTS = frozenset("log log2 log10 log1p sqrt rsqrt pow asin acos atan asinh acosh atanh".split())
# Results, by position, that are known only up to a sign, or are one.
AMBIGUOUS = {"_linalg_slogdet": (0,), "_linalg_eigh": (1,), "_linalg_svd": (0, 2)}
# Operations whose result has the operand's shape but none of its values.
SHAPE_ONLY = frozenset(
    """empty_like zeros_like ones_like full_like rand_like randn_like randint_like
    new_empty new_zeros new_ones new_full new_empty_strided""".split()
)
# Operations whose results hold what no operand shows.
FROM_OUTSIDE = frozenset("lift_fresh from_file empty empty_strided empty_like new_empty new_empty_strided".split())
# Pieces that promise not to be read through one another.
UNSAFE_PIECES = ("unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk")


class Operation:
    """One aten operation that was done.

    Attributes:
        func: the operator.
        args: its positional arguments.
        kwargs: its keyword arguments.
        out: its result, or results.
        name: `add` for `aten.add_.Tensor`.
        tags: what torch says of the operator.
        results: the tensors of its result.
        buffers: what batch normalization writes, and does not read, in training.
        inputs: the tensors whose values it reads.
        written: tensors whose memory it writes as its schema says, and whether autograd follows the write.
        targets: all tensors whose memory it writes.
    """

    def __init__(self, func: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: object) -> None:
        self.func, self.args, self.kwargs = func, args, kwargs
        self.out: Any = out
        self.name = name_of(func)
        self.tags: Collection[torch.Tag] = getattr(func, "tags", ())
        self.results = list(tensors_in(out))
        self.buffers = _running_statistics(self.name, args)
        operands = () if self.name in SHAPE_ONLY else (args, kwargs)
        self.inputs = [tensor for tensor in tensors_in(operands) if not is_among(tensor, self.buffers)]
        self.written = _written(func, args, kwargs)
        self.targets = [*(tensor for tensor, _ in self.written), *self.buffers]

    @property
    def is_own(self) -> bool:
        """Whether the operator is torch's own."""
        return getattr(self.func, "namespace", None) in ("aten", "prims")

    @property
    def draws(self) -> bool:
        """Whether it draws random numbers."""
        return torch.Tag.nondeterministic_seeded in self.tags

    @property
    def tells(self) -> bool:
        """Whether the host reads its results, or their shapes."""
        return torch.Tag.data_dependent_output in self.tags or torch.Tag.dynamic_output_shape in self.tags

    def host_reads(self, subscript: Sequence[Tensor]) -> list[Tensor]:
        """The inputs that decide a Python number or a shape; those in a subscript do not: `x[k]` stays a tensor."""
        if torch.Tag.data_dependent_output in self.tags:
            return [tensor for tensor in self.inputs if not is_among(tensor, subscript)]
        if torch.Tag.dynamic_output_shape not in self.tags:
            return []
        if self.name == "index":
            return [tensor for tensor in self.inputs[1:] if tensor.dtype in (torch.bool, torch.uint8)]
        return [tensor for tensor in self.inputs if not is_inexact(tensor)] or self.inputs

    @property
    def is_step(self) -> bool:
        """Whether it passes no gradient at all, whatever it meets."""
        if not self.is_own or (self.name in CUTS and any(tensor.is_complex() for tensor in tensors_in(self.args))):
            return True
        match self.name:
            case "threshold":  # Threshold(0, 0) is relu
                return bool(self.args[1] != self.args[2])
            case "div":
                return self.kwargs.get("rounding_mode") is not None
            case "_to_copy":
                dtype = self.kwargs.get("dtype")
                return dtype is not None and dtype.is_floating_point and dtype.itemsize == 1  # eight bits
            case "grid_sampler_2d" | "grid_sampler_3d":  # 1 is nearest neighbour
                return bool(self.args[2] == 1)
            case "linalg_vector_norm" | "norm" | "_cdist_forward":  # an order of 0 counts
                return any(isinstance(order, (int, float)) and order == 0 for order in self.args[1:3])
        # torch has no derivative for the functions named so, and does not say it
        return self.name in STEPS or any(kind in self.name for kind in ("bessel", "polynomial", "airy"))


def _written(func: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[Tensor, bool]]:
    """Tensors whose memory an operator writes, and whether autograd follows the write."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable or torch.Tag.inplace_view in getattr(func, "tags", ()):
        return []
    returned = any(value.alias_info is not None for value in schema.returns)
    given = [args[i] if i < len(args) else kwargs.get(a.name) for i, a in enumerate(schema.arguments)]
    return [
        (tensor, returned and not argument.is_out)
        for argument, value in zip(schema.arguments, given, strict=True)
        if argument.alias_info is not None and argument.alias_info.is_write
        for tensor in tensors_in(value)
    ]


def _running_statistics(name: str, args: tuple[Any, ...]) -> list[Tensor]:
    """What batch normalization writes, and does not read, in training; most schemas do not say so."""
    training = name.endswith("batch_norm") and len(args) > 5 and args[5] is True
    return list(tensors_in(args[3:5])) if training else []


def tensors_in(value: object) -> Iterator[Tensor]:
    """The tensors in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (Sequence, Set)) and not isinstance(value, (str, bytes, range)):
        for item in value:
            yield from tensors_in(item)


def is_among(tensor: Tensor, tensors: Collection[Tensor]) -> bool:
    """Whether it is one of these."""
    return bool(tensors) and any(tensor is one for one in tensors)


def is_inexact(tensor: Tensor) -> bool:
    """Whether its type can carry a gradient."""
    return tensor.is_floating_point() or tensor.is_complex()


def is_operator(func: Operator | Function | None) -> bool:
    """Whether it is an operator (or nothing), and no function of torch's Python interface."""
    return func is None or isinstance(func, (OpOverload, OpOverloadPacket))


def name_of(func: Operator | Function) -> str:
    """`add` for `aten.add_.Tensor`."""
    name = func.overloadpacket.__name__ if isinstance(func, OpOverload) else func.__name__
    return str(name).removesuffix("_")


def detaches(func: Function | None) -> bool:
    """Whether a detach within `func` was written there; elsewhere it is autograd, saving a result."""
    return is_operator(func) or (isinstance(func, FunctionType) and func is not torch.autograd.grad)
