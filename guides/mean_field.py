"""The automatic guide: every latent independent of the others, discrete ones included."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from typing import Any

from ppl_gen.errors import ProgramError
from ppl_gen.language import Distribution, active, current_rows, dist, param, plate, sample, xp
from ppl_gen.program import Latent
from ppl_gen.program.arrays import Array


class MeanField:
    """A fully factorized proposal: normals moved onto each support, Bernoullis and categoricals.

    Parameters are ``name.loc`` and ``name.scale`` (in unconstrained space), or ``name.logits``. A latent inside the
    plate of the data rows has parameters for each row of the whole data, looked up by row.

    Args:
        latents: the model's latent sites.
        row_plates: plates that stand for the rows of the data.
        num_rows: rows of the whole data.
        scale: initial standard deviation in unconstrained space.

    Raises:
        ProgramError: a latent that has no automatic guide.
    """

    def __init__(
        self,
        latents: Sequence[Latent],
        row_plates: Collection[str] = (),
        num_rows: int | None = None,
        scale: float = 0.1,
    ) -> None:
        for latent in latents:
            reason = _refusal(latent)
            if reason:
                raise ProgramError(
                    f"site '{latent.name}' ({latent.distribution}): expected a latent that the automatic guide knows; got {reason}. "
                    "Write a guide for it."
                )
        self.latents, self.row_plates, self.num_rows, self.scale = list(latents), set(row_plates), num_rows, scale

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Propose every latent."""
        for latent in self.latents:
            with ExitStack() as stack:
                for name, (dim, size) in latent.plates.items():
                    rows = current_rows() if name in self.row_plates else None
                    stack.enter_context(plate(name, size if rows is None else len(rows), dim=dim))
                sample(latent.name, self._proposal(latent))

    def _proposal(self, latent: Latent) -> Distribution:
        event_dim = len(latent.event_shape)
        shape = latent.batch_shape + latent.event_shape
        if latent.is_binary:
            return dist.Bernoulli(logits=self._param(latent, "logits", shape, 0.0)).to_event(event_dim)
        if latent.is_categorical:
            return dist.Categorical(
                logits=self._param(latent, "logits", (*shape, latent.num_values or 1), 0.0)
            ).to_event(event_dim)
        if latent.is_one_hot:
            return dist.OneHotCategorical(logits=self._param(latent, "logits", shape, 0.0)).to_event(event_dim - 1)
        dialect: Any = active(f"site '{latent.name}'")
        free = dialect.unconstrained_shape(latent.support, shape)
        loc = self._param(latent, "loc", free, 0.0)
        scale = self._param(latent, "scale", free, self.scale, dist.constraints.positive)
        proposal: Distribution = dialect.normal_on(latent.support, loc, scale, event_dim)
        return proposal

    def _param(
        self, latent: Latent, part: str, shape: tuple[int, ...], start: float, constraint: object = None
    ) -> Array:
        """One parameter; along a row plate it covers all rows and the batch's are taken."""
        axes = [len(latent.batch_shape) + dim for name, (dim, _) in latent.plates.items() if name in self.row_plates]
        whole = tuple(self.num_rows if axis in axes and self.num_rows else size for axis, size in enumerate(shape))
        value = param(f"{latent.name}.{part}", lambda: xp.full(whole, start), constraint)
        rows = current_rows()
        return xp.take(value, xp.asarray(rows), axis=axes[0]) if axes and rows is not None else value


def _refusal(latent: Latent) -> str | None:
    if latent.subsampled:
        return "one inside a plate that draws its own subsample"
    discrete = bool(getattr(latent.support, "is_discrete", False))
    known = latent.is_binary or latent.is_categorical or latent.is_one_hot
    return "another discrete support" if discrete and not known else None
