"""What a program is once it has been read, as plain data; and what is concluded from its graph, as pure functions.

The backends fill it in, the plan and the elimination read it. It may import the standard library and NumPy.
"""

from ppl_gen.program.arrays import Array, Namespace
from ppl_gen.program.facts import Facts
from ppl_gen.program.paths import NOISE, PARAM, Path, blocked, merge
from ppl_gen.program.run import OWN, PLATE, Batch, Choice, Draw, Run, assignments
from ppl_gen.program.site import Latent, Site, Term, named_alike

__all__ = [
    "NOISE",
    "Namespace",
    "OWN",
    "PARAM",
    "PLATE",
    "Array",
    "Batch",
    "Choice",
    "Draw",
    "Facts",
    "Latent",
    "Path",
    "Run",
    "Site",
    "Term",
    "assignments",
    "blocked",
    "merge",
    "named_alike",
]
