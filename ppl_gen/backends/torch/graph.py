"""Which values reach which, found while a torch program runs on real tensors.

Nothing is traced: every aten operation is watched as it happens (a dispatch mode, beneath autograd, vmap
and TorchScript), and what operations do not show (`detach`, the way to NumPy, a tensor as index) is watched
where it is called (a function mode). What the program computes is unchanged.

Each rule errs on the side of a dependency too many, which costs variance, never bias:

* An output carries what its inputs carry; what is written in place is carried by every alias of the memory.
* A jump is: an integer or boolean operand or result (comparisons, indices, masks), an operation in `_JUMPS`,
  one that is not torch's own, anything detached or computed without gradients, which includes the forward of
  an `autograd.Function`, whose gradient is what its author says. Kinks (relu, abs, max, clamp) are none.
* An escape is a value read by the host, or a shape that depends on one (`nonzero`, `x[mask]`, `unique`); it
  reaches all that comes after. Let off: boolean checks in the constructors, constraints, validators and
  samplers of the distributions and in Pyro's NaN warnings (they raise, warn or reject). Text made of a tensor (`repr`)
  is taken to be for a reader; the plan says so.
* Once the program hands work to a thread that it starts, everything escapes.

* A hook on a tensor's gradient is a jump of the latents it carries, in all that comes after.
* An operation that is not listed in `ppl_gen.backends.torch.smooth`, or whose pole is not proved to be far, is a jump of latents.

Not seen: threads that ran before, `torch.utils.dlpack.to_dlpack`, `tolist` inside TorchScript, and extensions that
touch memory without a registered operator.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from types import FrameType, FunctionType
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_gen.backends.torch import host, smooth
from ppl_gen.backends.torch.paths import Answers
from ppl_gen.backends.torch.pieces import Pieces
from ppl_gen.backends.torch.ranges import UNKNOWN, Ranges, hull, numbers
from ppl_gen.backends.torch.threads import Threads
from ppl_gen.backends.torch.words import Words
from ppl_gen.errors import ProgramError
from ppl_gen.program import NOISE, PARAM, Path, blocked, merge

Reach = dict[str, Path]

_torch: Any = torch
_T: Any = Tensor

# No slope almost everywhere, or steps, saw teeth and branch cuts whose edges a gradient does not see; decompositions
# whose pivots, signs and order flip; and the derivatives of what has a kink.
_JUMPS = frozenset(
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
_CUTS = frozenset("log log2 log10 log1p sqrt rsqrt pow asin acos atan asinh acosh atanh".split())
# Results, by position, that are known only up to a sign, or are one.
_AMBIGUOUS = {"_linalg_slogdet": (0,), "_linalg_eigh": (1,), "_linalg_svd": (0, 2)}
# Operations whose result has the operand's shape but none of its values.
_SHAPE_ONLY = frozenset(
    """empty_like zeros_like ones_like full_like rand_like randn_like randint_like
    new_empty new_zeros new_ones new_full new_empty_strided""".split()
)
# Operations whose results hold what no operand shows.
_FROM_OUTSIDE = frozenset("lift_fresh from_file empty empty_strided empty_like new_empty new_empty_strided".split())
_DETACH = frozenset([_T.detach, torch.detach, _T.detach_, torch.detach_, _T.data.__get__, torch.tensor, _T.new_tensor])
# Functions that read their arguments only to refuse bad ones.
_CHECKED = frozenset([F.one_hot, F.gaussian_nll_loss])
# Differentiable functions that compare, or switch gradients off, inside.
_SMOOTH = frozenset([torch.quantile, _T.quantile, torch.nanquantile])
_FROM_LIST = frozenset([torch.tensor, torch.as_tensor, torch.asarray, _T.new_tensor])
_REPLACE = frozenset([_T.data.__set__, _T.detach_, torch.detach_])
_HOOKS = frozenset([_T.register_hook, _T.register_post_accumulate_grad_hook])
_SUBSCRIPT = frozenset([_T.__getitem__, _T.__setitem__])
_SHARE = frozenset([_T.__dlpack__, _T.data_ptr, _T.storage, _T.untyped_storage])
_TO_HOST = _SHARE | {_T.__cuda_array_interface__.__get__, _T.apply_, _T.map_, _T.map2_}
_TO_HOST |= {_T.item, _T.tolist, _T.numpy, _T.__array__, _T.__reduce_ex__}
_TO_HOST |= {_T.__bool__, _T.__float__, _T.__int__, _T.__index__, _T.__complex__}

_HERE = os.path.dirname(os.path.abspath(__file__))
_TORCH, _PYRO = (os.path.dirname(str(package.__file__)) + os.sep for package in (torch, pyro))
_PACKAGES = (_TORCH, _PYRO, os.path.dirname(os.path.dirname(_HERE)) + os.sep)
_CHECKERS = (_TORCH + "distributions", _PYRO + "distributions", os.path.join(_PYRO, "util.py"))
_TRANSFORMS = tuple(
    os.path.join(package, part)
    for package, part in (
        (_TORCH, "distributions/transforms.py"),
        (_PYRO, "distributions/transforms"),
        (_PYRO, "infer/reparam"),
        (_PYRO, "distributions/stable.py"),
    )
)
_TELLING = {
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
}  # of operations whose results the host reads
# What stands between a program's text and these modes.
_PLUMBING = (
    __file__,
    *(_TORCH + part for part in ("utils/_python_dispatch.py", "_ops.py", "overrides.py", "_compile.py", "_dynamo/")),
)
_PARTIAL_TRANSFORMS = ("._inverse", "PowerTransform._call")  # judged like any other operations
_OPS = _PYRO + "ops" + os.sep
_MODULES = (_TORCH + "nn" + os.sep + "modules", _TORCH + "distributions")
_CHECKS = {"__init__", "_validate_sample", "check", "sample", "rsample", "warn_if_nan", "warn_if_inf"}


class Tracker:
    """Context manager that follows labelled tensors through whatever this thread runs inside it.

    Attributes:
        escapes: what left the tensor world, and where, as `(sources, "model.py:12: Tensor.item")`.
        by_data: whether the user's text reads data on the host.
        noise: where random numbers are first drawn in no distribution's sampler, if any reach a site or decide the program's
            course; those that only start a parameter do not.
        words: which elements of plates reach what.
        ranges: between which bounds tensors lie.
        read_at: where the host first read what a latent reaches; None if nowhere.
        blind: likewise, of reads that could not be answered with all that could have been read.
        printed: where text is made of a value that latents reach; None if nowhere.
    """

    def __init__(self, answers: Answers | None = None) -> None:
        self.answers = answers or Answers()
        self.ranges = Ranges()
        self.pieces = Pieces(self.ranges)
        self._declared: set[int] = set()  # tensors whose lack of a gradient the library answers for
        self._origins: dict[int, int] = {}  # piece of an unsafe_split -> the base of what was split
        self.read_at: str | None = None
        self.blind: str | None = None
        self.printed: str | None = None
        self.escapes: list[tuple[frozenset[str], str]] = []
        self.noise: str | None = None
        self.by_data = False
        self._told = False  # whether the host was told of any tensor's values
        self._drawn: str | None = None  # where the first such random numbers are drawn
        self.words = Words()
        self._quiet = False  # a trusted density is worked out: only marks are followed
        self._escaped: Reach = {}
        self._threads = Threads()
        self._labels: set[str] = set()  # all sources
        self._live: set[str] = set()  # sources that require gradients
        self._own: dict[int, tuple[Tensor, Reach]] = {}  # tensor -> itself, kept alive, and what it carries
        self._held: dict[int, Reach] = {}  # storage -> what was put there by the operation that made it
        self._written: dict[int, dict[int, Reach]] = {}  # storage -> base of the views written -> what
        self._apart: set[int] = set()  # pieces that promise not to be read through one another (unsafe_split)
        self._host: set[int] = set()  # storages that the host can look into at any time
        self._alive: list[object] = []  # keeps identities from being used twice
        self._compiled = False
        self._func: Any = None  # the torch function under way
        self._trusted = False  # its inner steps block nothing
        self._subscript: list[Tensor] = []  # tensors it indexes with

    def __enter__(self) -> Tracker:
        self._modes = ExitStack()
        # TorchScript's optimised graphs run on detached tensors, which would all look like jumps.
        self._modes.enter_context(_torch.jit.optimized_execution(False))
        self._modes.enter_context(self._threads)
        self._modes.enter_context(_Functions(self))
        self._modes.enter_context(_Operations(self))
        return self

    def __exit__(self, *error: object) -> None:
        self._modes.close()
        if self._compiled:  # torch.cond, once compiled under a mode, fails without
            _torch._dynamo.reset()

    def source(self, label: str, tensor: Tensor) -> Tensor:
        """Marks a tensor: what is computed from the result is reached by `label`.

        Args:
            label: the source's name; several tensors may share one.
            tensor: a value, or a parameter of a module.

        Returns:
            The tensor itself; or, if it carries something already (which it then keeps), an alias that does
            not; or a copy, if its memory was written with other sources. Parameters are always themselves.
        """
        with torch._C.DisableTorchFunction():
            if not (tensor.is_leaf and tensor.requires_grad):
                if self._written.get(_storage(tensor)):
                    tensor = tensor.clone()
                elif self._of(tensor).keys() - {label}:
                    tensor = tensor.view_as(tensor)
            self._labels.add(label)
            if tensor.requires_grad:
                self._live.add(label)
            self._set(tensor, {label: Path()}, fresh=True)
            if not label.startswith(PARAM):
                self.ranges.set(tensor, UNKNOWN)
                self.pieces.latent(label, tensor)
        return tensor

    def reach(self, *values: object) -> Reach:
        """Sources of any of these tensors (also in lists and dicts), and all that escaped until now."""
        if self._threads.started:
            self._escape({label: Path() for label in self._labels}, "threading")
        with torch._C.DisableTorchFunction():
            found = merge(*map(self._of, _tensors(values)), self._escaped)
            self.noise = self._drawn if NOISE in found else self.noise
            return {source: path for source, path in found.items() if source != NOISE}

    def stops(self, drawn: Tensor, *parts: object) -> str | None:
        """Where a sampler, as it ran, passes no gradient from what reaches its distribution's parts; None if all along."""
        with torch._C.DisableTorchFunction():
            ways, sources = self._of(drawn), merge(*map(self._of, _tensors(parts)))
        return next(
            (ways[s].jump if s in ways else s for s in sources if s != NOISE and not _is_open(ways.get(s))), None
        )

    @contextmanager
    def only_marks(self) -> Iterator[None]:
        """Inside, marks are followed, and nothing else is noted."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls a torch function, having noted what its operations will not show."""
        if self._quiet:
            return func(*args, **kwargs)
        outer = self._func, self._subscript, self._trusted
        self._func, self._subscript = func, []
        self._trusted = torch.is_grad_enabled() and (func in _SMOOTH or self._is_angle(func, args, kwargs))
        try:
            places: list[Tensor] = []
            if func in host.ANSWERED and self._is_random(args[0]):
                options = host.outcomes(func, args[0], self.ranges.of(args[0]))
                if options is not None:
                    return self._answer(func, args, kwargs, options)
            if func is _T.__repr__ and self._changes(self._of(args[0])):
                self.printed = self.printed or _where(func)
            if func in _TO_HOST:
                self._told = self._told or _is_users()
                self._note_data(_tensors(args[:1]))
                self._read(args[:1], func)
            elif func is F.one_hot and (*args, *kwargs.values())[1:] in ((), (-1,)):
                self._read(args[:1], func)  # the number of classes is read off the values
            elif func in _FROM_LIST:
                self._read([v for v in (*args, *kwargs.values()) if not isinstance(v, Tensor)], func)
            elif func in _SUBSCRIPT:
                args = (args[0], self._with_ends(args[1], func), *args[2:])
                self._subscript = list(_tensors(args[1]))
                places = [t for t in self._subscript if not t.dim() and self._of(t)]
                if places:  # the host reads them, and the operation shows but one element
                    self.words.smear(args[0], *places, *_tensors(args[2:]))
            out = func(*args, **kwargs)
            if func is _T.__setitem__ and places:
                self.words.smear(args[0], *places, *_tensors(args[2:]))
            if func in _HOOKS:  # what it makes of a gradient is what its author says
                where = _where(func)
                lost = blocked({s: p for s, p in self._of(args[0]).items() if not s.startswith(PARAM)}, where)
                self._escaped = merge(self._escaped, lost)
            if func in _FROM_LIST and args and (known := numbers(args[0])):
                self.ranges.set(out, hull(list(map(self.ranges.of, known))))
                self._is_written_down(out)
            elif func in _FROM_LIST and args and isinstance(args[0], np.ndarray):
                self._is_written_down(out)
            if func in _REPLACE:
                self._set(args[0], blocked(merge(*map(self._of, args)), _where(func)), fresh=False)
            return out
        finally:
            self._func, self._subscript, self._trusted = outer

    def _is_written_down(self, tensor: Tensor) -> None:
        """Notes a tensor of the program's own numbers; once the host was told of a tensor's values they may be the data's."""
        if not self._told:
            self.words.constant(tensor)

    def _is_angle(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a cosine is taken of latents that have several coordinates each."""
        if func is not torch.cosine_similarity or len(args) < 2:
            return False
        dim = args[2] if len(args) > 2 else kwargs.get("dim", 1)
        return all(not self._of(t) or (self.pieces.is_latent(t) and t.shape[dim] > 1) for t in args[:2])

    def _is_random(self, tensor: Tensor) -> bool:
        """Whether the host, reading this, learns of a value that later steps change, and is not only checking."""
        return self._changes(self._of(tensor)) and not (tensor.dtype == torch.bool and _is_checking())

    def _changes(self, reach: Reach) -> bool:
        """Whether what is read hangs on a latent, or on a parameter that the user's own text reads."""
        latents = any(not source.startswith((PARAM, NOISE)) for source in reach)
        return latents or (any(source.startswith(PARAM) for source in reach) and _is_users())

    def _note_data(self, tensors: Iterable[Tensor]) -> None:
        """Notes that the user's text reads data on the host: neither latents or parameters, nor its own numbers."""
        if any(not self._of(t) and not self.words.is_constant(t) for t in tensors) and _is_users():
            self.by_data = True

    def _answer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: list[object]) -> object:
        """What the host is told, of all that it could have been."""
        with self.only_marks():
            own = func(*args, **kwargs)
        if len(options) == 1 or self.answers.certain:
            return own
        self._escape(merge(*map(self._of, _tensors(args))), func, answered=True)
        tensor = args[0]
        key: tuple[object, object] = (self.pieces.key(tensor), id(tensor) if tensor.dim() else 0)
        if func in host.COMPARED:
            key = (len(self.answers.told), func)
        if func in host.LISTS and tensor.dim():
            flat = [self.answers.answer((*key, i), v, options) for i, v in enumerate(_flat(own))]
            return _nested(flat, tensor.shape)
        kind = "yes" if func in host.YES_OR_NO else "value"
        return self.answers.answer((kind, *key), own, options)

    def _with_ends(self, subscript: object, func: Any) -> object:
        """A subscript, the ends of its slices told to the host, and lists of whole numbers as tensors."""
        if isinstance(subscript, tuple):
            return tuple(self._with_ends(item, func) for item in subscript)
        if isinstance(subscript, list | np.ndarray) and _are_places(subscript):
            places = torch.as_tensor(subscript)
            self._is_written_down(places)
            return places
        if not isinstance(subscript, slice):
            return subscript
        ends = (subscript.start, subscript.stop, subscript.step)
        return slice(*(self.call(_T.__index__, (end,), {}) if isinstance(end, Tensor) else end for end in ends))

    def operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Notes what the outputs of one aten operation carry, and the memory it wrote."""
        name = _name(func)
        self._compiled |= isinstance(func, torch._ops.HigherOrderOperator)
        buffers = _running_statistics(name, args)
        read = () if name in _SHAPE_ONLY else (args, kwargs)
        inputs = [t for t in _tensors(read) if not any(t is buffer for buffer in buffers)]
        if any(tensor.is_nested for tensor in _tensors(out)):
            raise ProgramError(
                f"{_where(func)}: expected tensors with a shape; got a nested one. Pad the rows to one length, and mask the rest."
            )
        written = _written(func, args, kwargs)
        random = torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()) or name in _FROM_OUTSIDE
        self.words.made(random, inputs, list(_tensors(out)), [*(tensor for tensor, _ in written), *buffers])
        if self.words.planes:
            targets = [*(tensor for tensor, _ in written), *buffers]
            self.words.operation(func, name, args, kwargs, inputs, list(_tensors(out)), targets)
        if self._quiet:
            return
        self.ranges.operation(name, args, kwargs, inputs, list(_tensors(out)), [tensor for tensor, _ in written])
        if name in ("unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"):
            self._apart |= set(map(id, out))
            self._origins |= dict.fromkeys(map(id, out), id(_base(args[0])))
            self._alive += out
        noisy = torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()) and not _is_sampling()
        if noisy and self._drawn is None:
            self._drawn = _where(func)
        harmless = self.pieces.harmless(name, args)
        turning = [tensor for tensor in self._subscript if not any(tensor is operand for operand in harmless)]
        index = merge(*map(self._of, turning))
        reaches = [self._of(tensor) for tensor in inputs]
        if _TELLING & set(getattr(func, "tags", ())):
            self._note_data(_host_reads(func, name, inputs, self._subscript))
        if not noisy and not (index or any(reaches)):
            return
        where = _where(func)
        trusted = self._trusted or _is_transforming()
        if self._func not in _CHECKED and not trusted:
            self._read(_host_reads(func, name, inputs, self._subscript), self._func or func)

        risky = (
            None
            if getattr(func, "namespace", None) not in ("aten", "prims")
            else smooth.steps(name, args, kwargs, self.ranges)
        )

        def through(tensor: Tensor, reach: Reach) -> Reach:
            return reach if trusted or _smooth(tensor) else blocked(reach, where)

        def entering(tensor: Tensor, reach: Reach) -> Reach:
            if any(tensor is operand for operand in harmless):
                return self.pieces.unblocked(tensor, reach)
            steps = not trusted and (risky is None or any(tensor is operand for operand in risky))
            return through(tensor, _latents_blocked(reach, where) if steps else reach)

        raw = merge(*map(self.pieces.unblocked, inputs, reaches))
        self.pieces.note(name, args, out, raw)
        reach = merge(
            {NOISE: Path()} if noisy else {},
            index if trusted else blocked(index, where),
            *map(entering, inputs, reaches),
        )
        detached = self._func in _DETACH or (name == "detach" and _detaches(self._func))
        stopped = detached or _is_jump(func, name, args, kwargs)
        if (stopped and not trusted) or not (torch.is_grad_enabled() or self._trusted):
            drawn = not torch.is_grad_enabled() and _is_sampling()
            reach = blocked({NOISE: Path()} | reach, _where("sample")) if drawn else blocked(reach, where)
        for tensor, differentiable in [*written, *((buffer, False) for buffer in buffers)]:
            self._write(tensor, reach if differentiable else blocked(reach, where), func)
        if trusted and detached:
            self._declared |= set(map(id, _tensors(out)))
        old = {_storage(tensor) for tensor in inputs}
        for tensor in _tensors(out):
            if not any(tensor is target for target, _ in written):
                unsure = any(tensor is out[place] for place in _AMBIGUOUS.get(name, ())) and not trusted
                kept = blocked(reach, where) if unsure else reach
                self._set(tensor, through(tensor, kept), fresh=_storage(tensor) not in old)

    def _of(self, tensor: Tensor) -> Reach:
        storage = _storage(tensor)
        if id(tensor) in self._own:
            reach = self._own[id(tensor)][1]
        else:  # if its memory is known, an alias that no operation made, such as Parameter(tensor)
            reach = self._held.get(storage, {})
            reach = blocked(reach, _where("alias")) if reach else reach
        base = id(_base(tensor))
        for other, values in self._written.get(storage, {}).items():
            known = base == other or self._apart >= {base, other} or self._origins.get(base) == other
            known = known or other in self._declared
            reach = merge(reach, values if known else blocked(values, _where("alias")))
        saved = self._func is torch.autograd.grad  # which reads saved results
        watched = not self._trusted and id(tensor) not in self._declared and not saved
        if (
            watched
            and self._live & reach.keys()
            and _smooth(tensor)
            and not tensor.requires_grad
            and not _is_transforming()
        ):
            lost = {label: path for label, path in reach.items() if label in self._live}
            reach = merge(reach, blocked(lost, _where("no gradient")))
        return reach

    def _set(self, tensor: Tensor, reach: Reach, fresh: bool) -> None:
        self._own[id(tensor)] = tensor, reach
        storage = _storage(tensor)
        if fresh and storage:
            self._held[storage] = merge(self._held.get(storage, {}), reach)
            self._alive.append(tensor.untyped_storage())

    def _write(self, tensor: Tensor, reach: Reach, func: Any) -> None:
        storage, base = _storage(tensor), _base(tensor)
        if not storage:
            self._set(tensor, merge(self._of(tensor), reach), fresh=False)
            return
        if _is_checking() and reach.keys() <= self._of(tensor).keys():
            return  # a sampler tidies its own draw: Gamma keeps it away from 0
        views = self._written.setdefault(storage, {})
        views[id(base)] = merge(views.get(id(base), {}), reach)
        self._alive += [base, tensor.untyped_storage()]
        if storage in self._host or not tensor.untyped_storage().resizable():  # shared with NumPy
            self._escape(reach, func)

    def _read(self, values: Iterable[object], func: Any) -> None:
        """The host sees these tensors."""
        tensors = list(_tensors(values))
        if func in _SHARE:
            self._host |= {_storage(tensor) for tensor in tensors}
            self._alive += tensors
        if not (all(tensor.dtype == torch.bool for tensor in tensors) and _is_checking()):
            self._escape(merge(*map(self._of, tensors)), func)

    def _escape(self, reach: Reach, func: Any, *, answered: bool = False) -> None:
        if self._changes(reach):
            self.read_at = self.read_at or _where(func)
            self.blind = self.blind or (None if answered else _where(func))
        self.noise = self._drawn if NOISE in reach else self.noise
        reach = {source: path for source, path in reach.items() if source != NOISE}
        event = frozenset(reach), _where(func) if reach else ""
        if reach and event not in self.escapes:
            self.escapes.append(event)
            self._escaped = merge(self._escaped, {label: Path(event[1]) for label in reach})


class _Functions(TorchFunctionMode):
    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self.tracker = tracker

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.tracker.call(func, args, kwargs or {})


class _Operations(TorchDispatchMode):
    supports_higher_order_operators = True

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tracker = tracker

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            out = func(*args, **(kwargs or {}))
            self.tracker.operation(func, args, kwargs or {}, out)
        return out


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (Sequence, Set)) and not isinstance(value, (str, bytes, range)):
        for item in value:
            yield from _tensors(item)


def _flat(value: Any) -> list[Any]:
    return [inner for part in value for inner in _flat(part)] if isinstance(value, list) else [value]


def _nested(flat: list[Any], shape: Sequence[int]) -> Any:
    """The values as lists of lists of this shape."""
    if not shape:
        return flat[0]
    size = len(flat) // shape[0] if shape[0] else 0
    return [_nested(flat[i * size : (i + 1) * size], shape[1:]) for i in range(shape[0])]


def _smooth(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _base(tensor: Tensor) -> Tensor:
    """The tensor whose gradient knows of writes to this one."""
    return tensor if tensor._base is None else tensor._base


def _storage(tensor: Tensor) -> int:
    """Identity of the memory; 0 where there is none (sparse tensors, those vmap hands out)."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return 0


def _is_operator(func: Any) -> bool:
    return func is None or isinstance(func, (torch._ops.OpOverload, torch._ops.OpOverloadPacket))


def _detaches(func: Any) -> bool:
    """Whether a detach within `func` was written there; elsewhere it is autograd, saving a result."""
    return _is_operator(func) or (isinstance(func, FunctionType) and func is not torch.autograd.grad)


def _name(func: Any) -> str:
    """`add` for `aten.add_.Tensor`."""
    name = func.overloadpacket.__name__ if isinstance(func, torch._ops.OpOverload) else func.__name__
    return str(name).removesuffix("_")


def _is_open(way: Path | None) -> bool:
    return way is not None and way.jump is None


def _latents_blocked(reach: Reach, where: str) -> Reach:
    """The same sources; no gradient passes to those that are no parameters."""
    lost = blocked({source: path for source, path in reach.items() if not source.startswith(PARAM)}, where)
    return reach | lost


def _is_jump(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if getattr(func, "namespace", None) not in ("aten", "prims"):
        return True
    if name in _CUTS and any(tensor.is_complex() for tensor in _tensors(args)):
        return True
    match name:
        case "threshold":  # Threshold(0, 0) is relu
            return bool(args[1] != args[2])
        case "div":
            return kwargs.get("rounding_mode") is not None
        case "_to_copy":
            dtype = kwargs.get("dtype")
            return dtype is not None and dtype.is_floating_point and dtype.itemsize == 1  # eight bits
        case "grid_sampler_2d" | "grid_sampler_3d":  # 1 is nearest neighbour
            return bool(args[2] == 1)
        case "linalg_vector_norm" | "norm" | "_cdist_forward":  # an order of 0 counts
            return any(isinstance(order, (int, float)) and order == 0 for order in args[1:3])
    # torch has no derivative for the functions named so, and does not say it
    return name in _JUMPS or any(kind in name for kind in ("bessel", "polynomial", "airy"))


def _host_reads(func: Any, name: str, inputs: list[Tensor], subscript: list[Tensor]) -> list[Tensor]:
    """The inputs that decide a Python number or a shape."""
    tags = getattr(func, "tags", ())
    if torch.Tag.data_dependent_output in tags:  # but x[k] stays a tensor
        return [tensor for tensor in inputs if not any(tensor is index for index in subscript)]
    if torch.Tag.dynamic_output_shape not in tags:
        return []
    if name == "index":
        return [tensor for tensor in inputs[1:] if tensor.dtype in (torch.bool, torch.uint8)]
    return [tensor for tensor in inputs if not _smooth(tensor)] or inputs


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[Tensor, bool]]:
    """Tensors whose memory the operation writes, and whether autograd follows the write."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable or torch.Tag.inplace_view in func.tags:
        return []
    returned = any(value.alias_info is not None for value in schema.returns)
    named = [(a, args[i] if i < len(args) else kwargs.get(a.name)) for i, a in enumerate(schema.arguments)]
    return [
        (tensor, returned and not argument.is_out)
        for argument, value in named
        if argument.alias_info is not None and argument.alias_info.is_write
        for tensor in _tensors(value)
    ]


def _running_statistics(name: str, args: tuple[Any, ...]) -> list[Tensor]:
    """What batch normalization writes, and does not read, in training; most schemas do not say so."""
    training = name.endswith("batch_norm") and len(args) > 5 and args[5] is True
    return list(_tensors(args[3:5])) if training else []


def _frames() -> Iterator[FrameType]:
    """Frames of this package, torch and Pyro, from the innermost, and the first frame of the user's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        if not frame.f_code.co_filename.startswith(_PACKAGES):
            return
        frame = frame.f_back


def _where(func: Any) -> str:
    """`model.py:12: gt`, the line being the user's."""
    *_, frame = _frames()
    if not isinstance(func, str):
        func = _name(func) if _is_operator(func) else (resolve_name(func) or func.__name__)
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}: {func.removeprefix('torch.')}"


def _is_users() -> bool:
    """Whether the user's own text does what is under way, and no library within it."""
    frame = next((f for f in _frames() if not f.f_code.co_filename.startswith(_PLUMBING)), None)
    return frame is None or not frame.f_code.co_filename.startswith(_PACKAGES)


def _are_places(subscript: list[Any] | np.ndarray) -> bool:
    """Whether a list or an array in a subscript holds whole numbers, and no truth values or tensors."""
    if isinstance(subscript, np.ndarray):
        return bool(subscript.dtype.kind in "iu")
    return bool(subscript) and all(isinstance(place, int) and not isinstance(place, bool) for place in subscript)


def _is_sampling() -> bool:
    """Whether a distribution, the user's own or a plate's, is drawn from."""
    return any(f.f_code.co_name in ("sample", "rsample", "rsample_with_shape", "_sample_n") for f in _frames())


def _is_transforming() -> bool:
    """Whether the library's own change of variables is at work, or a distribution that is made."""
    for frame in _frames():
        file = frame.f_code.co_filename
        if file.startswith(_TRANSFORMS):
            return not frame.f_code.co_qualname.endswith(_PARTIAL_TRANSFORMS)
        if file.startswith(_CHECKERS) and frame.f_code.co_name == "__init__":
            return True
        if not file.startswith((_HERE, _OPS)) and not (file.startswith(_TORCH) and not file.startswith(_MODULES)):
            return False
    return False


def _is_checking() -> bool:
    """Whether a distribution looks at its own arguments, values or draws."""
    return any(f.f_code.co_name in _CHECKS and f.f_code.co_filename.startswith(_CHECKERS) for f in _frames())
