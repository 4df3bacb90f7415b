"""Each program of the table gets its plan, on both backends."""

import re

import pytest

from ppl_gen import estimators, infer
from ppl_gen.errors import ProgramError
from tests.plan_table import ROWS, Row, lines_of, moving_own_support

CASES = [pytest.param(row, backend, id=f"{row.name}-{backend}") for row in ROWS for backend in row.backends]


@pytest.mark.parametrize(("row", "backend"), CASES)
def test_program_gets_its_plan(row: Row, backend: str) -> None:
    plan = infer.plan(*row.build(backend))
    for site, expect in row.sites.items():
        got = plan[site]
        assert type(got.estimator) is getattr(estimators, expect.estimator), f"{site}: {got.reason}"
        assert isinstance(got.reason, str) and got.reason
        assert expect.contains <= got.depends
        if expect.depends is not None:
            assert got.depends == expect.depends
        if expect.summed is not None:
            assert got.summed_plates == expect.summed
        if expect.jump is not None:
            named = {int(line) for line in re.findall(r"plan_table\.py:(\d+)", got.reason)}
            assert named & set(lines_of(expect.jump)), got.reason


@pytest.mark.parametrize("row", [row for row in ROWS if any(e.jump for e in row.sites.values())], ids=lambda r: r.name)
def test_the_table_marks_one_line_per_backend(row: Row) -> None:
    assert all(len(lines_of(e.jump)) == 2 for e in row.sites.values() if e.jump)


@pytest.mark.parametrize("row", [r for r in ROWS if r.name in ("eight schools", "drawn index")], ids=lambda r: r.name)
def test_plan_prints_as_a_table(row: Row, backend: str) -> None:
    plan = infer.plan(*row.build(backend))
    lines = str(plan).splitlines()
    for site in row.sites:
        assert any(site in line and type(plan[site].estimator).__name__ in line for line in lines)
    frame = plan.to_frame()
    assert len(frame) == len(row.sites)


def test_score_is_refused_where_the_sites_own_support_moves(backend: str) -> None:
    model, guide, data = moving_own_support(backend)
    with pytest.raises(ProgramError, match=r"site 'z' \(Uniform\).*support"):
        infer.plan(model, guide, data, estimators={"z": estimators.Score()})


def test_score_is_kept_from_a_moving_support_when_asked_for_everywhere(backend: str) -> None:
    model, guide, data = moving_own_support(backend)
    try:
        plan = infer.plan(model, guide, data, estimators={"*": estimators.Score()})
    except ProgramError as error:
        assert "'z'" in str(error)
    else:
        assert type(plan["z"].estimator) is estimators.Pathwise


@pytest.mark.parametrize("name", ["eight schools", "VAE leaky ReLU", "gamma-Poisson"])
def test_score_can_be_asked_for_on_a_smooth_site(name: str, backend: str) -> None:
    row = next(row for row in ROWS if row.name == name)
    site = next(iter(row.sites))
    plan = infer.plan(*row.build(backend), estimators={site: estimators.Score()})
    assert type(plan[site].estimator) is estimators.Score
    assert plan[site].depends > {site}
