"""What operations do not show, noted where torch's functions are called: detaching, the way to the host, subscripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ppl_gen.backends.torch import host
from ppl_gen.backends.torch.findings import SHARE, Findings, Underway
from ppl_gen.backends.torch.frames import is_checking, is_users, where
from ppl_gen.backends.torch.intervals import hull, numbers
from ppl_gen.backends.torch.operators import Function, tensors_in
from ppl_gen.program import PARAM, blocked, merge

_T: Any = Tensor

DETACH = frozenset([_T.detach, torch.detach, _T.detach_, torch.detach_, _T.data.__get__, torch.tensor, _T.new_tensor])
# Functions that read their arguments only to refuse bad ones.
CHECKED = frozenset([F.one_hot, F.gaussian_nll_loss])
# Differentiable functions that compare, or switch gradients off, inside.
_SMOOTH = frozenset([torch.quantile, _T.quantile, torch.nanquantile])
_FROM_LIST = frozenset([torch.tensor, torch.as_tensor, torch.asarray, _T.new_tensor])
_REPLACE = frozenset([_T.data.__set__, _T.detach_, torch.detach_])
_HOOKS = frozenset([_T.register_hook, _T.register_post_accumulate_grad_hook])
_SUBSCRIPT = frozenset([_T.__getitem__, _T.__setitem__])
_TO_HOST = SHARE | {_T.__cuda_array_interface__.__get__, _T.apply_, _T.map_, _T.map2_}
_TO_HOST |= {_T.item, _T.tolist, _T.numpy, _T.__array__, _T.__reduce_ex__}
_TO_HOST |= {_T.__bool__, _T.__float__, _T.__int__, _T.__index__, _T.__complex__}


class Functions(TorchFunctionMode):
    """Watches the functions that a run calls."""

    def __init__(self, run: Findings) -> None:
        super().__init__()
        self.run = run

    def __torch_function__(
        self,
        func: Function,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        run, kwargs = self.run, kwargs or {}
        if run.is_quiet:
            return func(*args, **kwargs)
        outer, was_lenient = run.underway, run.memory.is_lenient
        trusted = torch.is_grad_enabled() and (func in _SMOOTH or self._is_angle(func, args, kwargs))
        run.underway = Underway(func, trusted)
        run.memory.is_lenient = trusted or func is torch.autograd.grad  # which reads saved results
        try:
            return self._watched(func, args, kwargs)
        finally:
            run.underway, run.memory.is_lenient = outer, was_lenient

    def _watched(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls a function, having noted what its operations will not show."""
        options = self._options(func, args)
        if options is not None:
            return self._answer(func, args, kwargs, options)
        self._note_reads(func, args, kwargs)
        places: list[Tensor] = []
        if func in _SUBSCRIPT:
            args, places = self._subscripted(args)
        out = func(*args, **kwargs)
        if func is _T.__setitem__ and places:
            self.run.words.smear(args[0], *places, *tensors_in(args[2:]))
        if func in _FROM_LIST and args:
            self._note_numbers(args[0], out)
        self._note_detached(func, args)
        return out

    def _is_angle(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a cosine is taken of latents that have several coordinates each."""
        if func is not torch.cosine_similarity or len(args) < 2:
            return False
        dim = args[2] if len(args) > 2 else kwargs.get("dim", 1)
        run = self.run
        return all(not run.memory.reach(t) or (run.pieces.is_latent(t) and t.shape[dim] > 1) for t in args[:2])

    def _options(self, func: Function, args: tuple[Any, ...]) -> list[object] | None:
        """All that the host could be told of a value that later steps change, where it is not only checking."""
        if func not in host.ANSWERED:
            return None
        tensor: Tensor = args[0]
        if not self.run.changes(self.run.memory.reach(tensor)) or (tensor.dtype == torch.bool and is_checking()):
            return None
        return host.outcomes(func, tensor, self.run.ranges.of(tensor))

    def _answer(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any], options: list[object]) -> object:
        """What the host is told, of all that it could have been."""
        run = self.run
        with run.only_marks():
            own = func(*args, **kwargs)
        if len(options) == 1 or run.answers.certain:
            return own
        run.escape(run.carried(args), func, is_answered=True)
        tensor: Tensor = args[0]
        key: tuple[object, object] = (run.pieces.key(tensor), id(tensor) if tensor.dim() else 0)
        if func in host.COMPARED:
            key = (len(run.answers.told), func)
        if func in host.LISTS and tensor.dim():
            flat = [run.answers.answer((*key, i), v, options) for i, v in enumerate(host.flat(own))]
            return host.nested(flat, tensor.shape)
        kind = "yes" if func in host.YES_OR_NO else "value"
        return run.answers.answer((kind, *key), own, options)

    def _note_reads(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Notes what the host learns by a function."""
        run = self.run
        if func is _T.__repr__ and run.changes(run.memory.reach(args[0])):
            run.printed = run.printed or where(func)
        if func in _TO_HOST:
            run.is_told = run.is_told or is_users()
            run.note_data(tensors_in(args[:1]))
            run.note_host_read(args[:1], func)
        elif func is F.one_hot and (*args, *kwargs.values())[1:] in ((), (-1,)):
            run.note_host_read(args[:1], func)  # the number of classes is read off the values
        elif func in _FROM_LIST:
            run.note_host_read([v for v in (*args, *kwargs.values()) if not isinstance(v, Tensor)], func)

    def _subscripted(self, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[Tensor]]:
        """The arguments of a subscript as operations show them, and the tensors in it that the host reads."""
        run = self.run
        args = (args[0], self._with_ends(args[1]), *args[2:])
        run.underway.subscript = list(tensors_in(args[1]))
        places = [t for t in run.underway.subscript if not t.dim() and run.memory.reach(t)]
        if places:  # the operation shows but one element
            run.words.smear(args[0], *places, *tensors_in(args[2:]))
        return args, places

    def _with_ends(self, subscript: object) -> object:
        """A subscript, the ends of its slices told to the host, and lists of whole numbers as tensors."""
        if isinstance(subscript, tuple):
            return tuple(map(self._with_ends, subscript))
        if isinstance(subscript, list | np.ndarray) and _are_places(subscript):
            places = torch.as_tensor(subscript)
            self.run.note_literal(places)
            return places
        return slice(*map(self._end, _ends(subscript))) if isinstance(subscript, slice) else subscript

    def _end(self, end: object) -> object:
        """An end of a slice, as the host reads it."""
        return self.__torch_function__(_T.__index__, (), (end,)) if isinstance(end, Tensor) else end

    def _note_numbers(self, given: object, out: Tensor) -> None:
        """Notes a tensor that is made from numbers."""
        if known := numbers(given):
            self.run.ranges.set(out, hull(list(map(self.run.ranges.of, known))))
            self.run.note_literal(out)
        elif isinstance(given, np.ndarray):
            self.run.note_literal(out)

    def _note_detached(self, func: Function, args: tuple[Any, ...]) -> None:
        """Notes what loses its gradient, or has it changed as its author says."""
        memory = self.run.memory
        if func in _HOOKS:
            reach = memory.reach(args[0])
            lost = blocked({s: p for s, p in reach.items() if not s.startswith(PARAM)}, where(func))
            self.run.escaped = merge(self.run.escaped, lost)
        if func in _REPLACE:
            memory.put(args[0], blocked(merge(*map(memory.reach, args)), where(func)), fresh=False)


def _ends(subscript: slice) -> tuple[object, object, object]:
    return subscript.start, subscript.stop, subscript.step


def _are_places(subscript: list[Any] | np.ndarray) -> bool:
    """Whether a list or an array in a subscript holds whole numbers, and no truth values or tensors."""
    if isinstance(subscript, np.ndarray):
        return bool(subscript.dtype.kind in "iu")
    return bool(subscript) and all(isinstance(place, int) and not isinstance(place, bool) for place in subscript)
