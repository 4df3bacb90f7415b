"""Do the elements of a plate keep to themselves? Proved from which elements reach which, whatever their values.

Every element along a plate carries *marks*, bits of one word: for each binary digit of its position, one mark of two.
A backend pushes the words through the operations of a program (elementwise: or; reductions and matrix products: any over
what is reduced; moves and constant gathers: the move itself; what it does not know: everything), never looking at a value.
Two positions differ in some digit, so an element that another one reaches carries a mark that its own position lacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppl_gen.program import Site, Term

Words = NDArray[np.int64]
Mixes = frozenset[tuple[str, Term, str]]
WIDTH = 62  # marks in one word


@dataclass(frozen=True)
class Marks:
    """Which bits of a word tell the positions in each plate apart.

    Attributes:
        lengths: plate -> its number of elements.
        offsets: plate -> the first of its bits.
    """

    lengths: Mapping[str, int]
    offsets: Mapping[str, int]

    def of(self, plate: str) -> Words:
        """The word of every position, shape (length,)."""
        positions = np.arange(self.lengths[plate])
        digits = np.arange(bits(self.lengths[plate]) // 2)
        places = self.offsets[plate] + 2 * digits + ((positions[:, None] >> digits) & 1)
        words: Words = np.bitwise_or.reduce(np.int64(1) << places, axis=1, initial=np.int64(0))
        return words

    def strays(self, plate: str, words: Words, axis: int) -> bool:
        """Whether an element along `axis` (counted from the right) carries a mark of another position of `plate`.

        Args:
            plate: the plate.
            words: of a term's elements.
            axis: the plate's dimension there; where the term has but one element in it, nothing can stray.
        """
        if words.ndim < -axis or words.shape[axis] != self.lengths[plate]:
            return words.ndim >= -axis and words.shape[axis] != 1 and bool((words & self._mask(plate)).any())
        shape = [1] * words.ndim
        shape[axis] = -1
        foreign = ~self.of(plate).reshape(shape) & self._mask(plate)
        return bool((words & foreign).any())

    def _mask(self, plate: str) -> np.int64:
        return np.int64(((1 << bits(self.lengths[plate])) - 1) << self.offsets[plate])


def bits(length: int) -> int:
    """How many bits of a word tell so many positions apart."""
    return 2 * max(1, (length - 1).bit_length())


def rounds(lengths: Mapping[str, int]) -> Iterator[Marks]:
    """Marks for all plates of more than one element, as many plates at a time as one word can hold."""
    offsets: dict[str, int] = {}
    used = 0
    for plate, length in lengths.items():
        if length < 2:
            continue
        if used + bits(length) > WIDTH:
            yield Marks({name: lengths[name] for name in offsets}, offsets)
            offsets, used = {}, 0
        offsets[plate] = used
        used += bits(length)
    if offsets:
        yield Marks({name: lengths[name] for name in offsets}, offsets)


def length(site: Site, dim: int) -> int:
    """How many elements a site has along a dimension of its batch, counted from the right."""
    return site.batch_shape[dim] if len(site.batch_shape) >= -dim else 1


def lengths_of(latents: Mapping[str, Site]) -> dict[str, int]:
    """Plate -> its number of elements, of all plates in which a latent has more than one."""
    found: dict[str, int] = {}
    for site in latents.values():
        for plate, dim in site.plates.items():
            found[plate] = max(found.get(plate, 1), length(site, dim))
    return {plate: size for plate, size in found.items() if size > 1}


def mixes_all(sites: Mapping[Term, Site], latents: Mapping[str, Site]) -> Mixes:
    """What must be assumed of latents that left the array library: they move every element of what follows."""
    return frozenset(
        (name, term, plate)
        for name, latent in latents.items()
        for term, site in sites.items()
        if name in site.reach
        for plate in latent.plates
    )
