"""A run can be saved, killed and continued exactly; a hostile file is refused and runs nothing."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

import ppl_gen as pg
from ppl_gen import infer, models
from ppl_gen.estimators import Score

X = (np.random.default_rng(0).random((16, 6)) < 0.4).astype(np.float64)
STEPS = 12


def model(x: Any) -> None:
    """Two hidden bits a row: score-function sites, so a learned baseline is part of the state."""
    with pg.plate("data", len(x)):
        h = pg.sample("h", pg.dist.Bernoulli(logits=pg.param("top", pg.xp.zeros(2))).to_event(1))
        h = pg.xp.astype(h, pg.xp.float32)
        pg.sample("x", pg.dist.Bernoulli(logits=pg.nn.linear("down", h, 6)).to_event(1), obs=x)


def guide(x: Any) -> None:
    with pg.plate("data", len(x)):
        pg.sample("h", pg.dist.Bernoulli(logits=pg.nn.linear("up", x, 2)).to_event(1))


def trained(backend: str, path: Any = None, **options: Any) -> infer.Fit:
    """Two batches a pass; with validation, so that the best state is kept and stored."""
    given: dict[str, Any] = {
        "steps": STEPS,
        "batch_size": 8,
        "learning_rate": 0.05,
        "validation": X[:5],
        "seed": 3,
    } | options
    return infer.fit(model, guide, X, backend=backend, checkpoint=path, **given)


@pytest.fixture(scope="module")
def whole() -> dict[str, infer.Fit]:
    """Uninterrupted runs."""
    return {backend: trained(backend) for backend in ("torch", "jax")}


def assert_same(left: infer.Fit, right: infer.Fit) -> None:
    """Bit by bit."""
    np.testing.assert_array_equal(left.losses, right.losses)
    assert left.validation_losses == right.validation_losses
    assert left.params.keys() == right.params.keys()
    for name, value in left.params.items():
        np.testing.assert_array_equal(value, right.params[name], err_msg=name)


def test_a_saved_fit_comes_back(backend: str, whole: dict[str, infer.Fit], tmp_path: Path) -> None:
    fit = whole[backend]
    fit.save(tmp_path / "fit.ckpt")
    loaded = infer.load(tmp_path / "fit.ckpt", model, guide)
    assert_same(loaded, fit)
    assert (loaded.backend, loaded.seed, str(loaded.plan)) == (backend, 3, str(fit.plan))
    for ask in (
        lambda f: f.log_prob(X, num_samples=5).value,
        lambda f: f.posterior(X, 2)["h"],
        lambda f: f.predict(X, 2)["x"],
        lambda f: f.sample(3)["x"],
    ):
        np.testing.assert_allclose(ask(loaded), ask(fit), rtol=1e-6)
    loaded.save(tmp_path / "again.ckpt")
    assert_same(infer.load(tmp_path / "again.ckpt", model, guide), fit)


def test_an_interrupted_run_continues_bit_by_bit_and_a_finished_one_stays(
    backend: str, whole: dict[str, infer.Fit], tmp_path: Path
) -> None:
    path, seen = tmp_path / "run.ckpt", []

    def break_off(state: infer.Running) -> None:
        seen.append(state.step)
        if state.step == STEPS // 2 + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(backend, path, callbacks=[break_off])
    stored = len(infer.load(path, model, guide).losses)
    assert 0 < stored < STEPS
    continued = trained(backend, path, callbacks=[lambda state: seen.append(state.step)])
    assert seen[-1] == STEPS and seen.count(STEPS // 2) == 1 and seen[STEPS // 2 + 1] == stored + 1
    assert_same(continued, whole[backend])
    again = trained(backend, path, callbacks=[lambda state: seen.append(-1)])  # nothing is left to do
    assert -1 not in seen
    assert_same(again, whole[backend])


def test_a_checkpoint_of_another_run_is_refused_before_step_0(
    backend: str, whole: dict[str, infer.Fit], tmp_path: Path
) -> None:
    path = tmp_path / "run.ckpt"
    whole[backend].save(path)

    def wider(x: Any) -> None:
        with pg.plate("data", len(x)):
            h = pg.sample("h", pg.dist.Bernoulli(logits=pg.param("top", pg.xp.zeros(3))).to_event(1))
            pg.sample("x", pg.dist.Bernoulli(logits=pg.nn.linear("down", h * 1.0, 6)).to_event(1), obs=x)

    def proposal(x: Any) -> None:
        with pg.plate("data", len(x)):
            pg.sample("h", pg.dist.Bernoulli(logits=pg.nn.linear("up", x, 3)).to_event(1))

    before = path.read_bytes()
    for change in ({"seed": 4}, {"batch_size": 4})[: 2 if backend == "torch" else 1]:
        with pytest.raises(ValueError, match=r"run\.ckpt: expected one of this program.*Remove the file"):
            trained(backend, path, **change)
    with pytest.raises(ValueError, match=r"run\.ckpt: expected one of this program.*Remove the file"):
        infer.fit(wider, proposal, X, backend=backend, checkpoint=path, steps=2, batch_size=8, seed=3)
    with pytest.raises(ValueError, match="Pass the model and guide it was trained from"):
        infer.load(path, wider, proposal)
    assert path.read_bytes() == before


def test_another_optimizer_does_not_take_up_the_moments(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "run.ckpt"
    trained("torch", path, steps=1)
    with pytest.raises(ValueError, match="with optimizer 'SGD'; got"):
        trained("torch", path, optimizer=torch.optim.SGD)


KILLED = """
import sys
sys.path.insert(0, {root!r})
from tests.test_checkpoint import trained
def slow(state):
    print(state.step, flush=True)
    import time; time.sleep(0.05)
trained({backend!r}, {path!r}, steps=100_000, callbacks=[slow], compile=False)
"""


def test_a_killed_process_leaves_a_whole_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # saved at every step for this test, so that the kill falls among writes
    path, root = tmp_path / "run.ckpt", str(Path(__file__).parents[1])
    text = KILLED.format(root=root, backend="torch", path=str(path)).replace(
        "def slow", "from ppl_gen.training import loop\nloop.REPORTS = loop.SAVES = 10**6\ndef slow"
    )
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(6)]
        time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and lines[-1].strip() == "6"
    loaded = infer.load(path, model, guide)
    assert len(loaded.losses) >= 6 and np.isfinite(loaded.losses).all()
    assert all(np.isfinite(value).all() for value in loaded.params.values())
    np.testing.assert_array_equal(loaded.losses[:6], trained("torch", steps=6, compile=False).losses)


# -- hostile and broken files ----------------------------------------------------------------------------------------


class Bomb:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_hostile_files_are_refused_and_run_nothing(whole: dict[str, infer.Fit], tmp_path: Path) -> None:
    good, mark = tmp_path / "good.ckpt", tmp_path / "mark"
    whole["torch"].save(good)
    content = good.read_bytes()
    hostile = {
        "empty": b"",
        "truncated header": content[:40],
        "truncated arrays": content[:-3],
        "longer": content + b"x",
        "random": np.random.default_rng(0).bytes(5000),
        "pickle": pickle.dumps(Bomb(mark)),
        "another safetensors file": save({"a": np.zeros(3)}),
        "header not JSON": save({"a": np.zeros(3)}, metadata={"ppl_gen": "{"}),
        "header a list": save({"a": np.zeros(3)}, metadata={"ppl_gen": "[1]"}),
        "header a number": save({"a": np.zeros(3)}, metadata={"ppl_gen": "7"}),
        "header deep": save({"a": np.zeros(3)}, metadata={"ppl_gen": "[" * 100_000}),
        "another version": save({}, metadata={"ppl_gen": json.dumps({"version": 99, "meta": {}, "template": {}})}),
        "no meta": save(
            {}, metadata={"ppl_gen": json.dumps({"version": 1, "meta": {}, "template": {"args": [], "kwargs": {}}})}
        ),
        "template names no array": save(
            {},
            metadata={
                "ppl_gen": json.dumps({"version": 1, "meta": {}, "template": {"args": [{"array": "b"}], "kwargs": {}}})
            },
        ),
    }
    for name, data in hostile.items():
        path = tmp_path / f"{name}.ckpt"
        path.write_bytes(data)
        with pytest.raises(ValueError, match="checkpoint .*: expected .*; got"):
            infer.load(path, model, guide)
        with pytest.raises(ValueError, match="checkpoint .*: expected .*; got"):
            trained("torch", path)
        assert path.read_bytes() == data
    assert not mark.exists()
    pickle.loads(hostile["pickle"])  # the power check: this one does run
    assert mark.exists()


@pytest.mark.parametrize("array", ["state/params/top", "state/losses", "state/validation"])
def test_arrays_of_other_shapes_are_refused(array: str, whole: dict[str, infer.Fit], tmp_path: Path) -> None:
    path = tmp_path / "bent.ckpt"
    whole["torch"].save(path)
    from safetensors import safe_open

    with safe_open(str(path), framework="numpy") as file:
        arrays, header = {n: file.get_tensor(n) for n in file.keys()}, file.metadata()  # noqa: SIM118
    arrays[array] = np.zeros((5, 1, 7), dtype=np.float32)
    path.write_bytes(save(arrays, metadata=header))
    for use in (lambda: infer.load(path, model, guide), lambda: trained("torch", path)):
        with pytest.raises(ValueError, match=r"bent\.ckpt: expected"):
            use()


def test_nothing_is_pickled(whole: dict[str, infer.Fit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("pickle was used")

    for module, name in (
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "dump"),
        (pickle, "dumps"),
        (torch, "load"),
        (torch, "save"),
    ):
        monkeypatch.setattr(module, name, forbidden)
    monkeypatch.setattr(pickle, "Unpickler", forbidden)
    whole["torch"].save(tmp_path / "fit.ckpt")
    assert_same(infer.load(tmp_path / "fit.ckpt", model, guide), whole["torch"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        infer.load(tmp_path / "none.ckpt", model, guide)


def test_what_cannot_be_stored_shows_before_step_0(tmp_path: Path) -> None:
    def flagged(x: Any, flag: Any) -> None:
        with pg.plate("data", len(x)):
            pg.sample("x", pg.dist.Normal(pg.param("m", pg.xp.zeros(())), 1.0), obs=x)

    seen: list[int] = []

    def see(state: infer.Running) -> None:
        seen.append(state.step)

    with pytest.raises(TypeError, match="checkpoint: expected data that are arrays"):
        infer.fit(
            flagged, data=(X[:, 0], object()), backend="torch", steps=3, checkpoint=tmp_path / "c", callbacks=[see]
        )
    assert seen == [] and list(tmp_path.iterdir()) == []


# -- other programs --------------------------------------------------------------------------------------------------


def mixture(y: Any) -> None:
    """One global mean, one bit per row."""
    mu = pg.sample("mu", pg.dist.Normal(0.0, 3.0))
    with pg.plate("data", len(y)):
        k = pg.sample("k", pg.dist.Bernoulli(probs=0.5 * pg.xp.ones(())))
        pg.sample("y", pg.dist.Normal(mu + 3.0 * pg.xp.astype(k, pg.xp.float32), 1.0), obs=y)


def test_a_mean_field_guide_with_parameters_per_row_can_be_loaded(backend: str, tmp_path: Path) -> None:
    y = np.random.default_rng(1).normal(size=15)
    asked = {"k": Score()}  # a latent that is asked for is proposed, not summed out
    fit = infer.fit(mixture, data=y, backend=backend, steps=2, batch_size=5, learning_rate=0.1, estimators=asked)
    fit.save(tmp_path / "fit.ckpt")
    loaded = infer.load(tmp_path / "fit.ckpt", mixture)
    assert loaded.params["k.logits"].shape == (15,)
    assert_same(loaded, fit)
    np.testing.assert_array_equal(loaded.posterior(y, 2)["k"], fit.posterior(y, 2)["k"])
    with pytest.raises(ValueError, match="expected the 15 rows"):
        loaded.posterior(y[:4])


def test_a_loaded_nade_answers_queries(backend: str, tmp_path: Path) -> None:
    nade = models.OrderAgnosticNADE(6, hidden=(5,))
    fit = infer.fit(nade, data=X, backend=backend, steps=2, batch_size=10)
    fit.save(tmp_path / "fit.ckpt")
    loaded = infer.load(tmp_path / "fit.ckpt", models.OrderAgnosticNADE(6, hidden=(5,)))
    ask = [f.query([0, 1], given={5: 1}, orders=2).marginals() for f in (fit, loaded)]
    for variable in (0, 1):
        np.testing.assert_array_equal(ask[0][variable], ask[1][variable])
    with pytest.raises(ValueError, match="expected"):
        infer.load(tmp_path / "fit.ckpt", models.OrderAgnosticNADE(6, hidden=(4,)))
