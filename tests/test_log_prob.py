"""Claims about LogProb: a likelihood says what it is, and unlike ones do not meet."""

from __future__ import annotations

import operator

import numpy as np
import pytest

from ppl_gen.evaluate.log_prob import LogProb

ALIKE = [operator.sub, operator.lt, operator.le, operator.gt, operator.ge]


@pytest.mark.parametrize("meet", ALIKE)
def test_unlike_kinds_do_not_meet_and_the_error_says_why(meet):
    with pytest.raises(ValueError, match="one kind.*'exact' and 'lower_bound'"):
        meet(LogProb([-1.0], 0.0, "exact"), LogProb([-2.0], 0.1, "lower_bound"))


@pytest.mark.parametrize("meet", ALIKE)
@pytest.mark.parametrize("other", ["bbb", None])
def test_unlike_data_do_not_meet_and_the_error_says_why(meet, other):
    with pytest.raises(ValueError, match="same data.*'aaa'"):
        meet(LogProb(-1.0, 0.0, "exact", "aaa"), LogProb(-2.0, 0.0, "exact", other))


@pytest.mark.parametrize("kind", ["exact", "lower_bound", "upper_bound", "estimate"])
def test_like_ones_meet_elementwise(kind):
    one, two = LogProb([-1.0, -5.0], 0.0, kind, "a"), LogProb([-2.0, -4.0], 0.0, kind, "a")
    np.testing.assert_array_equal(one - two, [1.0, -1.0])
    np.testing.assert_array_equal(one < two, [False, True])
    np.testing.assert_array_equal(one >= two, [True, False])
    assert one.mean() <= two.mean() and not one.mean() > two.mean()
    assert one[0] - two[0] == 1.0 and one[0] - 3 == -4.0 and 3 - one[0] == 4.0 and one[1] < -3


def test_mean_and_sum_carry_kind_data_and_error():
    """Independent errors 3 and 4 add to 5; the mean of two has half of it."""
    both = LogProb([-10.0, -20.0], [3.0, 4.0], "lower_bound", "a")
    assert float(both.sum()) == -30 and both.sum().standard_error == 5
    assert float(both.mean()) == -15 and both.mean().standard_error == 2.5
    assert both.mean().kind == "lower_bound" and both.mean().fingerprint == "a" and both[1].standard_error == 4


def test_it_is_an_array_and_a_number_where_it_is_one():
    rows = LogProb(np.log([0.25, 0.75]))
    assert len(rows) == 2 and rows.shape == (2,) and rows.kind == "exact"
    np.testing.assert_allclose(np.exp(rows).sum(), 1)
    assert np.asarray(rows, dtype=np.float32).dtype == np.float32
    assert float(LogProb(-2.5)) == -2.5 and float(LogProb([-2.5])) == -2.5
    with pytest.raises(TypeError, match="one value"):
        float(rows)
    with pytest.raises(TypeError, match="single value"):
        len(LogProb(-2.5))


def test_repr_names_kind_and_error():
    assert repr(LogProb(-3.25)) == "LogProb(exact: log p = -3.2500 nats)"
    assert repr(LogProb([-10.0, -20.0], [3.0, 4.0], "lower_bound")) == (
        "LogProb(lower_bound: mean of 2: log p >= -15.0000 ± 2.5 (s.e.) nats)"
    )
    assert "no rows" in repr(LogProb([]))


def test_it_is_frozen_and_owns_its_values():
    values = np.array([-1.0, -2.0])
    log_prob = LogProb(values)
    values[0] = 7
    assert log_prob.value[0] == -1
    with pytest.raises(AttributeError):
        log_prob.kind = "estimate"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (([-1.0], 0.0, "bound"), "kind"),
        (([-1.0], -0.5, "estimate"), "zero or more"),
        (([-1.0], 0.5, "exact"), "exact"),
        (([-1.0, -2.0], [0.1, 0.2, 0.3], "estimate"), "shape"),
    ],
)
def test_wrong_parts_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        LogProb(*arguments)


def test_no_rows_have_no_mean():
    with pytest.raises(ValueError, match="at least one row"):
        LogProb([]).mean()
