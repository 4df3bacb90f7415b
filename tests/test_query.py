"""Claims about queries: coherent, exact for the orders listed, for every split of the variables."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest

from ppl_gen.data import Schema
from ppl_gen.data.variable import Variable
from ppl_gen.query.conditionals import logsumexp
from ppl_gen.query.orders import draw_orders
from ppl_gen.query.query import condition, ensemble_log_prob

CARDINALITIES = (2, 3, 2, 3, 2, 2)
WIDTH = len(CARDINALITIES)
SCHEMA = Schema(tuple(Variable.of_levels(j, range(size)) for j, size in enumerate(CARDINALITIES)))


def counted_network(cardinalities, seed=0, scale=1.5):
    """A multilayer perceptron of masked inputs and masks with random weights, and its calls' sizes."""
    rng = np.random.default_rng(seed)
    width, levels = len(cardinalities), max(cardinalities)
    first = rng.standard_normal((2 * width, 16)) * scale
    second = rng.standard_normal((16, width * levels)) * scale / 4
    beyond = np.arange(levels) >= np.array(cardinalities)[:, None]

    calls: list[int] = []

    def network(codes, mask):
        assert codes.shape == mask.shape and mask.dtype == bool and not codes[~mask].any()
        calls.append(len(codes))
        hidden = np.tanh(np.concatenate([codes * mask, mask], 1) @ first)
        logits = np.where(beyond, -np.inf, (hidden @ second).reshape(-1, width, levels))
        return logits - np.log(np.exp(logits).sum(2, keepdims=True))

    return network, calls


def random_network(cardinalities, seed=0):
    return counted_network(cardinalities, seed)[0]


NETWORK = random_network(CARDINALITIES)


@cache
def one_conditional(assigned, variable):
    """p(variable | assigned), for `assigned` a sorted tuple of (variable, level)."""
    codes, mask = np.zeros((1, WIDTH), dtype=np.float32), np.zeros((1, WIDTH), dtype=bool)
    for j, level in assigned:
        codes[0, j], mask[0, j] = level, True
    return np.exp(NETWORK(codes, mask)[0, variable])


def along(order, values):
    """p_k of the variables in `order`, by the chain rule."""
    product, assigned = 1.0, tuple[tuple[int, int], ...]()
    for j in order:
        product *= one_conditional(tuple(sorted(assigned)), j)[values[j]]
        assigned += ((j, values[j]),)
    return product


def brute_force(orders, given, values):
    """p(values | given) as a ratio of two marginals of the even mixture over `orders`."""
    joint = np.mean([along(order, {**given, **values}) for order in orders])
    return joint / np.mean([along(order[: len(given)], given) for order in orders])


def completions(variables):
    return np.array(list(itertools.product(*(range(CARDINALITIES[j]) for j in variables))))


@pytest.mark.parametrize("orders", [1, 3, 16])
def test_all_splits_into_given_asked_and_ignored_agree_with_brute_force(orders):
    rng = np.random.default_rng(orders)
    checked = 0
    for split in itertools.product("bai", repeat=WIDTH):
        known = [j for j in range(WIDTH) if split[j] == "b"]
        asked = [j for j in range(WIDTH) if split[j] == "a"]
        if not asked:
            continue
        given = {j: int(rng.integers(CARDINALITIES[j])) for j in known}
        query = condition(NETWORK, SCHEMA, asked, given, orders=orders, seed=checked)
        values = completions(asked)
        log_probs = query.log_prob(values).value
        assert abs(np.exp(log_probs).sum() - 1) < 1e-12
        listed = query.info["orders"]
        expected = [brute_force(listed, given, dict(zip(asked, row, strict=True))) for row in values]
        np.testing.assert_allclose(log_probs, np.log(expected), atol=1e-5)
        checked += 1
    assert checked == 3**WIDTH - 2**WIDTH


def test_evidence_weights_matter():
    """Power of the test above: even weights would be off by more than its tolerance."""
    query = condition(NETWORK, SCHEMA, [0, 1], {2: 1, 3: 2, 4: 0}, orders=5)
    orders, values = query.info["orders"], {0: 1, 1: 2}
    given = {2: 1, 3: 2, 4: 0}
    even = np.mean([along(order, {**given, **values}) / along(order[:3], given) for order in orders])
    assert abs(np.log(even) - query.log_prob([[1, 2]]).value[0]) > 1e-3
    assert query.info["effective_orders"][0] < 5


def rows_with_holes(num_rows=40, seed=1):
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.integers(size, size=num_rows) for size in CARDINALITIES], 1).astype(float)
    holes = rng.random(rows.shape) < 0.5
    holes[0], holes[1], holes[2] = False, True, False
    holes[2, 3] = True
    return rows, np.where(holes, np.nan, rows)


def test_rows_of_different_masks_answer_like_one_query_each_in_one_network_call():
    rows, given = rows_with_holes()
    network, calls = counted_network(CARDINALITIES)
    query = condition(network, SCHEMA, None, given, orders=4)
    query.info  # the weights, a call of their own  # noqa: B018
    calls.clear()
    together = query.log_prob(rows)
    assert len(calls) == 1
    for i, hole in enumerate(np.isnan(given)):
        known = {j: int(rows[i, j]) for j in np.flatnonzero(~hole)}
        if not hole.any():
            assert abs(together.value[i]) < 1e-12
            continue
        single = condition(NETWORK, SCHEMA, None, known, orders=4)
        np.testing.assert_allclose(single.log_prob(rows[i : i + 1, hole]).value, together.value[i], atol=1e-12)
        np.testing.assert_array_equal(single.info["orders"], query.info["orders"][i])


def test_values_that_contradict_repeated_evidence_are_impossible():
    rows, given = rows_with_holes()
    query = condition(NETWORK, SCHEMA, None, given, orders=4)
    wrong = rows.copy()
    wrong[0, 0] = 1 - wrong[0, 0]
    assert np.isneginf(query.log_prob(wrong).value[0]) and np.isfinite(query.log_prob(wrong).value[1:]).all()


def test_marginals_are_sums_of_the_joint_and_repeat_the_evidence():
    rows, given = rows_with_holes()
    query = condition(NETWORK, SCHEMA, None, given, orders=3)
    marginals, info = query.marginals(), query.info["marginals"]
    assert info["kind"] == "exact" and not any(error.any() for error in info["standard_error"].values())
    for i in (1, 2, 5, 9):
        known = {j: int(rows[i, j]) for j in range(WIDTH) if not np.isnan(given[i, j])}
        asked = [j for j in range(WIDTH) if j not in known]
        values = completions(asked)
        probs = np.exp(condition(NETWORK, SCHEMA, asked, known, orders=3).log_prob(values).value)
        for place, j in enumerate(asked):
            np.testing.assert_allclose(marginals[j][i], np.bincount(values[:, place], probs), atol=1e-12)
        for j, value in known.items():
            assert marginals[j][i, value] == 1 and marginals[j][i].sum() == 1


def test_samples_follow_log_prob_and_repeat_the_evidence():
    """Chi-square over 12 cells below 60 (11 d.f.: false alarm 1e-8); a 10 % tilt would be above."""
    given = np.full((2, WIDTH), np.nan)
    given[0, [1, 4, 5]] = 2, 1, 0
    given[1, [0, 3, 5]] = 1, 0, 1
    query = condition(NETWORK, SCHEMA, None, given, orders=6)
    draws = query.sample(40_000, seed=3)
    assert draws.shape == (40_000, 2, WIDTH) and draws.dtype.kind == "i"
    for i in range(2):
        known = ~np.isnan(given[i])
        assert (draws[:, i, known] == given[i, known]).all()
        cells, counts = np.unique(draws[:, i], axis=0, return_counts=True)
        assert len(cells) == 12
        probs = np.exp(condition(NETWORK, SCHEMA, None, given[i : i + 1], orders=6).log_prob(cells).value)
        assert chi_square(counts, probs) < 60
        tilted = probs * np.where(probs == probs.max(), 1.1, 1.0)
        assert chi_square(40_000 * tilted / tilted.sum(), probs) > 60
    np.testing.assert_array_equal(query.sample(9, seed=3), query.sample(9, seed=3))
    assert (query.sample(9, seed=3) != query.sample(9, seed=4)).any()


def chi_square(counts, probs):
    expected = counts.sum() * probs
    return ((counts - expected) ** 2 / expected).sum()


def wide_query(num_variables=14, given=None, orders=5):
    return condition(random_network((2,) * num_variables, 7), Schema.binary(num_variables), None, given, orders)


def test_many_completions_are_estimated_with_a_standard_error():
    """16384 completions: against enumeration |z| < 5 (false alarm 1e-5), and the error is honest."""
    query = wide_query()
    values = np.array(list(itertools.product(range(2), repeat=14)))
    log_probs = query.log_prob(values).value
    assert abs(np.exp(log_probs).sum() - 1) < 1e-9
    exact = np.exp(log_probs) @ values
    got, info = query.marginals(num_samples=2000), query.info["marginals"]
    assert info["kind"] == "estimate" and info["num_samples"] == 2000
    z = np.array([(got[j][0, 1] - exact[j]) / info["standard_error"][j][0, 1] for j in range(14)])
    assert np.abs(z).max() < 5 and np.abs(z).mean() > 0.2
    assert max(error.max() for error in info["standard_error"].values()) < 0.02
    mode = query.mode()
    assert query.info["mode"]["kind"] == "local maximum"
    np.testing.assert_allclose(query.info["mode"]["log_prob"], query.log_prob(mode).value)
    flips = np.where(np.eye(14, dtype=int) == 1, 1 - mode, mode)
    assert (query.log_prob(flips).value <= query.log_prob(mode).value).all()
    assert (log_probs > query.log_prob(mode).value).sum() < 5


def test_mean_and_mode_of_small_queries_are_exact():
    query = condition(NETWORK, SCHEMA, [3, 0, 1], {2: 1}, orders=16)
    values = completions([3, 0, 1])
    log_probs = query.log_prob(values).value
    np.testing.assert_array_equal(query.mode()[0], values[log_probs.argmax()])
    assert query.info["mode"]["kind"] == "exact"
    np.testing.assert_allclose(query.mean()[0], np.exp(log_probs) @ values)


def test_info_lists_orders_weights_and_spread():
    query = condition(NETWORK, SCHEMA, [3, 0], {2: 1, 4: 0}, orders=3)
    assert query.info["spread"] is None
    query.log_prob(completions([3, 0]))
    info = query.info
    assert info["kind"] == "exact" and info["orders"].shape == (3, 4) and info["weights"].shape == (1, 3)
    assert {tuple(sorted(order[:2])) for order in info["orders"]} == {(2, 4)}
    assert len({tuple(order) for order in info["orders"]}) == 3
    known = {2: 1, 4: 0}
    values = [{**known, 3: a, 0: b} for a, b in completions([3, 0])]
    per_order = [[along(o, value) / along(o[:2], known) for o in info["orders"]] for value in values]
    np.testing.assert_allclose(info["spread"], np.log(per_order).std(1, ddof=1))
    assert condition(NETWORK, SCHEMA, [3], {2: 1}, orders=16).info["orders"].shape == (1, 2)  # 1! 1! of them


def test_orders_are_distinct_uniform_and_the_same_for_a_seed():
    """Each of 6 x 2 orders is drawn 5 of 12 times: 4 s.d. over 3000 seeds, false alarm 8e-4 / 12 cells."""
    given = np.array([[True, True, True, False, False, False]])
    asked = np.array([[False, False, False, True, True, False]])
    counts = dict.fromkeys(itertools.product(range(6), repeat=5), 0)
    for seed in range(3000):
        orders = [tuple(order) for order in draw_orders(given, asked, 5, seed).of_row(0)]
        assert len(set(orders)) == 5
        for order in orders:
            counts[order] += 1
    seen = np.array([count for count in counts.values() if count])
    assert len(seen) == 12 and np.abs(seen - 1250).max() < 5 * np.sqrt(3000 * 5 / 12 * 7 / 12)
    assert len(draw_orders(given, asked, 99, 0).of_row(0)) == 12
    many = draw_orders(np.zeros((1, 30), bool), np.ones((1, 30), bool), 4, 0).of_row(0)
    assert many.shape == (4, 30) and (np.sort(many, axis=1) == np.arange(30)).all()


def test_ensemble_is_the_even_mixture_of_orders_and_sums_out_missing_values():
    rows, holed = rows_with_holes()
    values, spread = ensemble_log_prob(NETWORK, holed, orders=7, seed=2)
    assert values[1] == 0 and spread[1] == 0  # nothing there
    for i in (0, 2, 7):
        present = np.flatnonzero(~np.isnan(holed[i]))
        mask = ~np.isnan(holed[i : i + 1])
        orders = draw_orders(np.zeros_like(mask), mask, 7, 2).of_row(0)
        probs = np.array([along(order, {j: int(rows[i, j]) for j in present}) for order in orders])
        np.testing.assert_allclose(values[i], np.log(probs.mean()))
        np.testing.assert_allclose(spread[i], np.log(probs).std(ddof=1) if len(probs) > 1 else 0)
    full = completions(range(WIDTH)).astype(float)
    assert abs(np.exp(ensemble_log_prob(NETWORK, full, orders=7)[0]).sum() - 1) < 1e-12


def test_long_batches_are_cut_into_calls_of_at_most_4096_rows():
    network, calls = counted_network((2,) * 20)
    rows = np.random.default_rng(0).integers(2, size=(600, 20)).astype(float)
    values, _ = ensemble_log_prob(network, rows, orders=2)
    assert max(calls) <= 4096 and len(calls) > 2
    np.testing.assert_allclose(values[-3:], ensemble_log_prob(network, rows[-3:], orders=2)[0])


FRAME_LEVELS: dict[str, list[Any]] = {
    "sex": ["Female", "Male"],
    "job": ["clerk", "farmer", "nurse"],
    "old": [False, True],
}


@pytest.fixture
def frames():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.choice(levels, 50) for name, levels in FRAME_LEVELS.items()})
    frame["hours"] = rng.choice([20, 40, 60], 50)
    schema = Schema.of(frame)
    return frame, schema, random_network(schema.cardinalities)


def test_frames_go_in_and_come_out_by_name(frames):
    frame, schema, network = frames
    query = condition(network, schema, ["hours", "sex"], {"job": "nurse"}, orders=4)
    draws = query.sample(30)
    assert list(draws.columns) == ["hours", "sex"] and len(draws) == 30 and set(draws["sex"]) <= {"Female", "Male"}
    assert set(draws["hours"]) <= {20, 40, 60}
    log_probs = query.log_prob(draws)
    np.testing.assert_allclose(log_probs.value, query.log_prob(draws[["sex", "hours"]]).value)
    single = query.log_prob({"sex": "Male", "hours": 40})
    assert len(single) == 1 and abs(query.marginals()["sex"].sum() - 1) < 1e-12
    mode = query.mode()
    assert list(mode.columns) == ["hours", "sex"] and query.log_prob(mode).value[0] >= log_probs.value.max() - 1e-12
    means = condition(network, schema, ["hours", "old"], {"job": "nurse"}).mean()
    assert 20 <= means["hours"][0] <= 60 and 0 <= means["old"][0] <= 1


def test_frames_of_evidence_keep_their_rows(frames):
    frame, schema, network = frames
    given = frame.head(5).astype(object).set_axis(list("vwxyz"), axis=0)
    given.loc["v", "sex"] = given.loc["w", "job"] = None
    query = condition(network, schema, None, given, orders=4)
    draws = query.sample(3)
    assert draws.index.names == ["sample", "row"] and len(draws) == 15
    assert list(draws.loc[2].index) == list("vwxyz") and (draws.loc[1]["job"].iloc[2:] == given["job"].iloc[2:]).all()
    assert list(query.mode().index) == list("vwxyz")
    partial = condition(network, schema, ["sex"], given[["job"]], orders=4)
    assert partial.log_prob(frame[["sex"]].head(5)).shape == (5,) and partial.sample(2).shape == (10, 1)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown name": (dict(of=["sexx"]), "sexx"),
    "unknown evidence": (dict(of=["sex"], given={"agee": 1}), "agee"),
    "unknown level": (dict(of=["sex"], given={"job": "king"}), "job"),
    "evidence on asked": (dict(of=["sex"], given={"sex": "Male"}), "sex"),
    "nothing asked": (dict(of=[]), "at least one"),
    "all given": (dict(given={"sex": "Male", "job": "nurse", "old": True, "hours": 20}), "all"),
    "twice": (dict(of=["sex", "old", "sex"]), "sex"),
    "no orders": (dict(of=["sex"], orders=0), "orders"),
    "half an order": (dict(of=["sex"], orders=1.5), "orders"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_queries_are_refused_by_name(case, frames):
    frame, schema, network = frames
    arguments, named = WRONG[case]
    with pytest.raises(ValueError, match=named):
        condition(network, schema, **arguments)


def test_wrong_values_are_refused_by_name(frames):
    frame, schema, network = frames
    query = condition(network, schema, ["sex", "job"], {"old": True})
    for values, named in [
        (np.array([["Male"]], dtype=object), "sex"),
        (np.array([["Male", None]], dtype=object), "job"),
        (np.array([["Male", "king"]], dtype=object), "job"),
        (frame[["sex"]], "job"),
        ({"sex": "Male", "jobb": "nurse"}, "jobb"),
        (frame.head(0), "row"),
    ]:
        with pytest.raises(ValueError, match=named):
            query.log_prob(values)
    with pytest.raises(ValueError, match="row"):
        condition(network, schema, ["sex"], frame[["job"]].head(0))
    with pytest.raises(ValueError, match="3 rows"):
        condition(network, schema, ["sex"], frame[["job"]].head(3)).log_prob(frame[["sex"]].head(2))
    with pytest.raises(ValueError, match="sample"):
        query.sample(0)
    with pytest.raises(ValueError, match="'sex'"):
        query.mean()


def test_a_network_that_answers_wrongly_is_refused():
    with pytest.raises(ValueError, match="shape"):
        condition(lambda codes, mask: codes, SCHEMA, [0]).log_prob([[1]])
    with pytest.raises(ValueError, match="NaN"):
        condition(lambda codes, mask: np.full((*codes.shape, 3), np.nan), SCHEMA, [0]).log_prob([[1]])


def test_logsumexp_holds_at_the_ends():
    assert logsumexp(np.array([-np.inf, -np.inf])) == -np.inf
    np.testing.assert_allclose(logsumexp(np.array([[-1e4, -1e4]])), [-1e4 + np.log(2)])
