"""A file holds what a fit was: objective, particles, estimators, and no rows; what is missing in it is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

import ppl_gen as pg
from ppl_gen import estimators, infer, models, objectives
from ppl_gen.estimators import Arm, Constant, Learned, LeaveOneOut, MovingAverage, Optimal, Relax, Score
from ppl_gen.infer.specs import describe, rebuild
from ppl_gen.objectives import ELBO, ImportanceWeighted, Renyi, Warmup
from tests import plain_numpyro, plain_pyro
from tests.nightly import grid
from tests.test_checkpoint import X, assert_same, guide, model

KINDS = [
    kind for home in (estimators, objectives) for kind in map(home.__dict__.get, home.__all__) if isinstance(kind, type)
]
BUILT = [kind for kind in KINDS if kind.__name__ not in ("Baseline", "Bound", "Estimator", "Loss", "Plan", "Warmup")]
OTHERS = [
    Score(Learned(3)),
    Score(Optimal(learned=True, decay=0.9), normalize=True),
    Score(MovingAverage(0.5)),
    Score(Constant(-2.5)),
    Relax(hidden=5, temperature=0.25),
    Renyi(-0.5),
    ELBO(Warmup(10, 0.1), analytic_kl=True),
    ImportanceWeighted(doubly_reparametrized=True),
]


def contents(thing: Any) -> Any:
    """All that an instance holds, those inside it too."""
    return (type(thing), {k: contents(v) for k, v in vars(thing).items()}) if hasattr(thing, "__dict__") else thing


@pytest.mark.parametrize("thing", [*(kind() for kind in BUILT), *OTHERS], ids=repr)
def test_every_class_of_the_library_is_built_again_from_json(thing: Any) -> None:
    again = rebuild(json.loads(json.dumps(describe(thing))), "path", "it", "it=")
    assert contents(again) == contents(thing)


def fitted(backend: str, **options: Any) -> infer.Fit:
    given = {"steps": 2, "batch_size": 8, "seed": 3, "compile": False, "backend": backend}
    return infer.fit(model, guide, X, **{**given, **options})


def test_objective_particles_and_estimators_come_back(backend: str, tmp_path: Path) -> None:
    asked = {"h": LeaveOneOut()}
    fit = fitted(backend, objective=Renyi(0.25), num_particles=3, estimators=asked)
    fit.save(tmp_path / "fit")
    loaded = infer.load(tmp_path / "fit", model, guide)
    assert repr(loaded._trainer.objective) == "Renyi(alpha=0.25)"
    assert loaded.plan.num_particles == 3 and isinstance(loaded.plan["h"].estimator, LeaveOneOut)
    assert str(loaded.plan) == str(fit.plan)
    fitted(backend, objective=Renyi(0.25), num_particles=3, estimators=asked, steps=3, checkpoint=tmp_path / "fit")
    nested = fitted(backend, estimators={"h": Score(MovingAverage(0.75))})
    nested.save(tmp_path / "fit")
    assert repr(infer.load(tmp_path / "fit", model, guide).plan["h"].estimator) == repr(nested.plan["h"].estimator)
    assert "0.75" in repr(nested.plan["h"].estimator)


class OwnBound(ELBO):
    """A class of the user's."""


class OwnEstimator(Arm):
    """Likewise."""


def test_a_class_of_the_users_own_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "fit"
    fitted("torch", objective=OwnBound(), estimators={"h": OwnEstimator()}).save(path)
    with pytest.raises(
        ValueError, match=r"expected an objective from ppl_gen; got .*OwnBound.*Pass objective= to load"
    ):
        infer.load(path, model, guide)
    with pytest.raises(
        ValueError, match=r"estimator of site 'h'.*got .*OwnEstimator.*Pass estimators=\{'h': \.\.\.\} to load"
    ):
        infer.load(path, model, guide, objective=OwnBound())
    loaded = infer.load(path, model, guide, objective=OwnBound(), estimators={"h": OwnEstimator()})
    assert type(loaded._trainer.objective) is OwnBound and type(loaded.plan["h"].estimator) is OwnEstimator


def contents_of(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, header) of a file."""
    with safe_open(str(path), framework="numpy") as file:
        return {n: file.get_tensor(n) for n in file.keys()}, json.loads(file.metadata()["ppl_gen"])  # noqa: SIM118


def rewrite(path: Path, arrays: dict[str, np.ndarray], header: dict[str, Any]) -> None:
    path.write_bytes(save(arrays, metadata={"ppl_gen": json.dumps(header)}))


# -- rows ------------------------------------------------------------------------------------------------------------


def test_a_file_holds_no_rows_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "fit"
    fit = fitted("torch", checkpoint=path)
    for write, rows in ((lambda: None, 0), (lambda: fit.save(path), 0), (lambda: fit.save(path, rows=3), 3)):
        write()
        arrays, header = contents_of(path)
        stored = [value for name, value in arrays.items() if not name.startswith("state/")]
        assert [len(value) for value in stored] == [rows] * bool(rows)
        assert bool(rows) == ("shape" not in header["template"]["args"][0])
    np.testing.assert_array_equal(stored[0], X[:3])
    with pytest.raises(ValueError, match="rows: expected a whole number"):
        fit.save(path, rows=-1)
    fit.save(path)
    with pytest.raises(ValueError, match="rows: expected 0, .*Pass data= to load"):
        infer.load(path, model, guide).save(path, rows=2)
    infer.load(path, model, guide, X).save(path, rows=2)


def regression(x: Any, y: Any) -> None:
    """Inputs and a whole-numbered outcome, which must be positive."""
    with pg.plate("data", len(x)):
        rate = pg.xp.exp(pg.param("w", pg.xp.zeros(())) * pg.xp.log(x))
        pg.sample("y", pg.dist.Poisson(rate), obs=y)


GIVEN = np.array([1.0, 2.0, 5.0, 9.0], np.float32), np.array([2, 3, 7, 8], np.int64)


def test_draws_that_hang_on_given_inputs_ask_for_them(backend: str, tmp_path: Path) -> None:
    fit = infer.fit(regression, data=GIVEN, backend=backend, steps=20, learning_rate=0.1, compile=False)
    path = tmp_path / "fit"
    fit.save(path)
    loaded = infer.load(path, regression)
    assert_same(loaded, fit)
    np.testing.assert_allclose(loaded.log_prob(GIVEN).value, fit.log_prob(GIVEN).value, rtol=1e-6)
    with pytest.raises(ValueError, match="sample: expected rows of the data, as site 'y'.*Pass data= to load"):
        loaded.sample(4)
    np.testing.assert_array_equal(infer.load(path, regression, data=GIVEN).sample(4)["y"], fit.sample(4)["y"])
    fit.save(path, rows=4)
    np.testing.assert_array_equal(infer.load(path, regression).sample(4)["y"], fit.sample(4)["y"])


def test_a_program_that_needs_real_rows_says_so(tmp_path: Path) -> None:
    """It refuses whatever could be made up: a key that only the data hold."""

    def locked(x: Any) -> None:
        if float(x[0]) != 7.25:
            raise KeyError("no such code")
        regression(x, pg.xp.astype(x, pg.xp.int64) * 0)

    x = np.array([7.25, 2.0], np.float32)
    fit = infer.fit(locked, data=x, backend="torch", steps=1, compile=False)
    fit.save(tmp_path / "fit")
    with pytest.raises(
        ValueError, match=r"expected rows to read the program on.*KeyError: 'no such code'.*Pass.*data=.*rows=2"
    ):
        infer.load(tmp_path / "fit", locked)
    assert_same(infer.load(tmp_path / "fit", locked, data=x), fit)


def test_a_table_of_named_variables_needs_no_rows(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": ["x", "y", "x", "y"], "b": [True, False, False, True]})
    fit = infer.fit(
        models.OrderAgnosticNADE(pg.data.Schema.of(frame), hidden=(3,)), data=frame, backend="torch", steps=2
    )
    fit.save(tmp_path / "fit")
    fresh = models.OrderAgnosticNADE(pg.data.Schema.of(frame), hidden=(3,))
    for data in (None, frame):
        loaded = infer.load(tmp_path / "fit", fresh, data=data)
        np.testing.assert_array_equal(loaded.log_prob(frame).value, fit.log_prob(frame).value)


# -- files that are old, damaged, or of something else ------------------------------------------------------------------


def test_an_old_file_warns(tmp_path: Path) -> None:
    path = tmp_path / "fit"
    fit = fitted("torch")
    fit.save(path, rows=2)
    arrays, header = contents_of(path)
    for key in ("objective", "plan", "loss_rows", "validation_rows"):
        del header["meta"][key]
    rewrite(path, arrays, {**{k: v for k, v in header.items() if k != "arrays"}, "version": 1})
    with pytest.warns(UserWarning, match="older version, which stored neither objective, particles nor estimators"):
        assert_same(infer.load(path, model, guide), fit)
    with pytest.warns(UserWarning, match="older version.*what checkpoint= wrote is whole"):
        continued = fitted("torch", steps=4, checkpoint=path)
    assert_same(continued, fitted("torch", steps=4))


def drop(name: str) -> Callable[[Any, Any], None]:
    return lambda arrays, header: arrays.pop(name)


def drop_everywhere(name: str) -> Callable[[Any, Any], None]:
    """The list of arrays does not know it either, as in a file that was written so."""

    def damage(arrays: Any, header: Any) -> None:
        del arrays[name], header["arrays"][name]

    return damage


def unset(*keys: str) -> Callable[[Any, Any], None]:
    def damage(arrays: Any, header: Any) -> None:
        place = header["meta"]
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return damage


DAMAGES: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "a best array": (drop("state/best/params/top"), "'best/params/top'"),
    "a best array, unlisted": (drop_everywhere("state/best/params/top"), "'best/params/top'"),
    "a parameter": (drop("state/params/top"), "'params/top'"),
    "a parameter, unlisted": (
        drop_everywhere("state/params/top"),
        "'params/top'|guide: expected one with the parameters",
    ),
    "losses": (drop_everywhere("state/losses"), "'losses'"),
    "validation losses": (drop_everywhere("state/validation"), "'validation'"),
    "the objective": (unset("objective"), "an objective in its header"),
    "the plan": (unset("plan"), "'rows' in its header"),
    "the rows of the plan": (unset("plan", "rows"), "'rows' in its header"),
    "an estimator": (unset("plan", "rows", "h", "estimator"), "site 'h' of the plan"),
    "an estimator's class": (unset("plan", "rows", "h", "estimator", "class"), "an estimator of site 'h'"),
    "the seed": (unset("seed"), "'seed' in its header"),
}
ONLY_CONTINUED = {
    "a moment": (drop_everywhere("state/moments/0/0/exp_avg"), "'moments/0/0/exp_avg'"),
    "a baseline's weight": (drop_everywhere("state/weights/h/first.weight"), "'weights/h/first.weight'"),
    "the random state": (drop_everywhere("state/random"), "'random'"),
}


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "fit"
    fitted("torch", validation=X[:5], checkpoint=path)
    return path


@pytest.mark.parametrize("what", [*DAMAGES, *ONLY_CONTINUED])
def test_what_a_damaged_file_lacks_is_named(what: str, whole_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    arrays, header = contents_of(whole_file)
    damage, named = {**DAMAGES, **ONLY_CONTINUED}[what]
    damage(arrays, header)
    rewrite(path, arrays, header)
    if what in DAMAGES:
        with pytest.raises(ValueError, match=rf"checkpoint .*damaged: expected.*({named})"):
            infer.load(path, model, guide)
    if "header" not in named and "plan" not in named and "estimator" not in named:
        with pytest.raises(ValueError, match=rf"checkpoint .*damaged: .*expected.*|.*({named})"):
            fitted("torch", validation=X[:5], checkpoint=path, steps=4)


def test_another_optimizers_options_are_refused(tmp_path: Path) -> None:
    from functools import partial

    import torch

    path = tmp_path / "run"
    fitted("torch", optimizer=torch.optim.Adam, checkpoint=path)
    with pytest.raises(ValueError, match=r"checkpoint .*run: 'moments/0/0/max_exp_avg_sq': expected it"):
        fitted("torch", optimizer=partial(torch.optim.Adam, amsgrad=True), checkpoint=path, steps=4)


def test_a_file_of_another_program_says_which_site_differs(tmp_path: Path) -> None:
    def other(x: Any) -> None:
        with pg.plate("data", len(x)):
            h = pg.sample("h", pg.dist.Bernoulli(logits=pg.param("top", pg.xp.zeros(2))).to_event(1))
            pg.sample("x", pg.dist.Normal(pg.nn.linear("down", h * 1.0, 6), 1.0).to_event(1), obs=x)

    path = tmp_path / "fit"
    fitted("torch").save(path)
    for data in (None, X):
        with pytest.raises(
            ValueError, match=r"expected a program with \['model', 'x', 'Bernoulli'.*got \['model', 'x', 'Normal'"
        ):
            infer.load(path, other, guide, data)


PLAIN = ["hierarchical_regression", "topic_model"]


@pytest.mark.parametrize(("name", "backend"), grid(PLAIN, jax=["hierarchical_regression"]))
def test_plain_programs_come_back_without_rows(name: str, backend: str, tmp_path: Path) -> None:
    """Group numbers and word counts are made up well enough to read the program on."""
    program, fresh = (getattr({"torch": plain_pyro, "jax": plain_numpyro}[backend], name)() for _ in range(2))
    fit = infer.fit(program.model, program.guide, program.data, steps=2, learning_rate=0.05, compile=False)
    fit.save(tmp_path / "fit")
    loaded = infer.load(tmp_path / "fit", fresh.model, fresh.guide)
    assert_same(loaded, fit)
    assert str(loaded.plan) == str(fit.plan)
    for site, value in fit.posterior(program.data, 2).items():
        np.testing.assert_allclose(loaded.posterior(fresh.data, 2)[site], value, rtol=1e-5, atol=1e-6)
