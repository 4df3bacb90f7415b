"""No pathwise gradient where a density is not continuous in a latent, and no needless score elsewhere.

The oracle is the analysis of Lee, Rival and Yang, "Smoothness Analysis for Probabilistic Programs with Application to
Optimised Variational Inference" (POPL 2023), whose published answers, site by site of model and guide, are copied as facts:
"Diff" (differentiable), "Lips" (locally Lipschitz: continuous), "Top" (neither is known). Pathwise is right where neither
program says "Top". The programs are our own (`oracle_programs`), of the same structure.
"""

from __future__ import annotations

import re

import pytest
import torch

from ppl_gen import infer
from ppl_gen.estimators import Pathwise
from tests.oracle_programs import PAIRS

ANSWERS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "air": (
        {"z_pres": "Top", "z_where": "Lips", "z_what": "Lips"},
        {"z_pres": "Top", "z_where": "Top", "z_what": "Lips"},
    ),
    "br": (dict.fromkeys(("a", "bA", "bR", "bAR", "sigma"), "Diff"),) * 2,
    "csis": ({"z": "Diff"}, {"z": "Diff"}),
    "dmm": ({"z": "Lips"}, {"z": "Diff"}),
    "lda": (
        {"topic_weights": "Diff", "topic_words": "Diff", "doc_topics": "Diff", "word_topics": "Top"},
        {"topic_weights": "Diff", "topic_words": "Diff"},
    ),
    "sgdef": (dict.fromkeys(("w_top", "w_mid", "w_bottom", "z_top", "z_mid", "z_bottom"), "Diff"),) * 2,
    "ssvae": ({"z": "Diff", "y": "Top"},) * 2,
    "vae": ({"latent": "Diff"},) * 2,
    "spnor": ({"z1": "Diff", "z2": "Top"}, {"z1": "Diff", "z2": "Diff"}),
    "dpmm": ({"beta": "Diff", "lambda": "Diff", "z": "Top"},) * 2,
    "cvae": ({"z": "Lips"}, {"z": "Diff"}),
    "scanvi": (
        {"z1": "Lips", "z2": "Lips", "l": "Diff", "y": "Top"},
        {"z1": "Diff", "z2": "Lips", "l": "Diff", "y": "Top"},
    ),
    "prodlda": ({"logtheta": "Diff"},) * 2,
    "mhmm": ({"eps_g": "Diff", "eps_i": "Diff"},) * 2,
}

# "Top" for a division by the scale of the window. As the scale goes to zero the window's points leave the image on either
# side of zero, where it is padded with zeros, so the density is continuous there after all: either answer is right.
EITHER = {("air", "z_where")}


def kind(site: str) -> str:
    """The name without its step."""
    return re.sub(r"_\d+$", "", site)


def test_all_fourteen_pairs_are_there() -> None:
    assert set(PAIRS) == set(ANSWERS) and len(PAIRS) == 14


@pytest.mark.parametrize("name", PAIRS)
def test_pathwise_exactly_where_the_density_is_continuous(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        program = PAIRS[name]()
    plan, (model, guide) = infer.plan(*program), ANSWERS[name]
    assert {kind(site) for site in plan} == set(guide) | ({"doc_topics"} if name == "lda" else set())
    for site in plan:
        known = {answers[kind(site)] for answers in (model, guide) if kind(site) in answers}
        if (name, kind(site)) not in EITHER:
            assert isinstance(plan[site].estimator, Pathwise) == ("Top" not in known), plan[site].reason
