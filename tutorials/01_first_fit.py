# %% [markdown]
# # A first fit
#
# For readers who know Pyro or NumPyro. One small program with a discrete and a continuous latent, fitted as
# plain Pyro and as one text on torch and on JAX. On the way: which gradient estimator each latent got and
# why, how to change it, and a bound on the likelihood of new data held against the exact value.
#
# It needs both backends, which `make install` brings. Set `PPL_GEN_SMOKE=1` for a shorter run.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np
import pyro
import torch
from pyro import distributions as pyro_dist

import ppl_gen as pg
from ppl_gen import estimators, infer

SMOKE = os.environ.get("PPL_GEN_SMOKE") == "1"
STEPS = 500 if SMOKE else 2000

# %% [markdown]
# ## Data
#
# Five sensors look at a machine that is in one of two modes (`z`, not seen) and drifts (`w`, not seen
# either).

# %%
D = 5
rng = np.random.default_rng(0)
mode = rng.random(1500) < 0.3
drift = rng.standard_normal(1500)
shift, slope = np.array([1.5, 1.0, -1.0, 0.0, 0.5]), np.array([0.5, 1.0, 1.5, 1.0, 1.0])
x = mode[:, None] * shift + drift[:, None] * slope + 0.5 * rng.standard_normal((1500, D))
train, test = x[:1000], x[1000:]

# %% [markdown]
# ## A plain Pyro program
#
# Nothing here comes from ppl_gen. Pyro's own loop would now need a choice of `Trace_ELBO` or
# `TraceGraph_ELBO`, and a baseline written into `infer={"baseline": ...}`.

# %%
torch.manual_seed(0)
reading, to_mode, to_drift = torch.nn.Linear(2, D), torch.nn.Linear(D, 1), torch.nn.Linear(D + 1, 1)


def pyro_model(x):
    net = pyro.module("reading", reading)
    odds = pyro.param("odds", torch.tensor(0.0))
    noise = pyro.param("noise", torch.tensor(1.0), constraint=pyro_dist.constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", pyro_dist.Bernoulli(logits=odds))
        w = pyro.sample("w", pyro_dist.Normal(0.0, 1.0))
        pyro.sample("x", pyro_dist.Normal(net(torch.stack([z, w], -1)), noise).to_event(1), obs=x)


def pyro_guide(x):
    mode_net, drift_net = pyro.module("to_mode", to_mode), pyro.module("to_drift", to_drift)
    spread = pyro.param("spread", torch.tensor(1.0), constraint=pyro_dist.constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", pyro_dist.Bernoulli(logits=mode_net(x)[..., 0]))
        seen = torch.cat([x, z[..., None]], -1)
        pyro.sample("w", pyro_dist.Normal(drift_net(seen)[..., 0], spread))


# %% [markdown]
# `infer.plan` reads the program without training it. NumPy data become float tensors. A discrete `z` lets
# no gradient through, so it gets the score function with a learned baseline; `w` is Gaussian, and every way
# from it to the cost is differentiable, so it gets the pathwise estimator.

# %%
plan = infer.plan(pyro_model, pyro_guide, train)
print(plan)

assert isinstance(plan["z"].estimator, estimators.Score)
assert isinstance(plan["w"].estimator, estimators.Pathwise)

# %% [markdown]
# The same call with `fit` trains. Pyro's parameter store and random state, and the weights of the three
# networks, are as before afterwards; the trained ones are in the result.

# %%
before = reading.weight.detach().clone()
pyro_fit = infer.fit(pyro_model, pyro_guide, train, steps=STEPS, batch_size=100, learning_rate=0.02)
print(pyro_fit)

assert torch.equal(reading.weight, before) and not list(pyro.get_param_store().keys())
assert not torch.equal(pyro_fit.module("reading").weight, before)

# %% [markdown]
# ## One text for both backends
#
# `pg.sample`, `pg.param` and `pg.plate` call the backend's own statements. `pg.dist` has the distributions
# whose arguments agree in Pyro and NumPyro, `pg.xp` is the array API with `sigmoid`, `softplus` and a few
# more, and `pg.nn.linear(name, inputs, size)` makes its weights under `name`. JAX draws Bernoullis as
# integers, hence the `astype`.


# %%
def model(x):
    odds = pg.param("odds", pg.xp.zeros(()))
    noise = pg.param("noise", pg.xp.ones(()), constraint=pg.dist.constraints.positive)
    with pg.plate("data", len(x)):
        z = pg.xp.astype(pg.sample("z", pg.dist.Bernoulli(logits=odds)), pg.xp.float32)
        w = pg.sample("w", pg.dist.Normal(0.0, 1.0))
        mean = pg.nn.linear("reading", pg.xp.stack([z, w], axis=-1), D)
        pg.sample("x", pg.dist.Normal(mean, noise).to_event(1), obs=x)


def guide(x):
    spread = pg.param("spread", pg.xp.ones(()), constraint=pg.dist.constraints.positive)
    with pg.plate("data", len(x)):
        logits = pg.nn.linear("to_mode", x, 1)[..., 0]
        z = pg.xp.astype(pg.sample("z", pg.dist.Bernoulli(logits=logits)), pg.xp.float32)
        seen = pg.xp.concat([x, z[..., None]], axis=-1)
        pg.sample("w", pg.dist.Normal(pg.nn.linear("to_drift", seen, 1)[..., 0], spread))


fits = {
    backend: infer.fit(model, guide, train, backend=backend, steps=STEPS, batch_size=100, learning_rate=0.02)
    for backend in ("torch", "jax")
}
for fit in fits.values():
    print(fit, end="\n\n")

# %% [markdown]
# ## How good is it?
#
# `fit.log_prob` gives a `LogProb`: values, their Monte Carlo standard errors, and a kind. Here the kind is
# `lower_bound`, as the importance-weighted average over draws from the guide is one in expectation. Two
# values of unlike kinds cannot be compared by mistake: subtracting them raises.
#
# This model is small enough for the exact value. Given `z` the sensors are jointly Gaussian, so we
# enumerate the two modes.


# %%
def exact_log_prob(params, x, weight):
    """log p(x) in nats, by enumeration of z and the integral over w in closed form; shape (rows,)."""
    shift, slope = weight
    log_odds, noise = params["odds"], params["noise"]
    covariance = np.outer(slope, slope) + noise**2 * np.eye(D)
    _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
    by_mode = []
    for z in (0, 1):
        gap = x - params["reading.bias"] - z * shift
        log_prior = -np.logaddexp(0, -log_odds if z else log_odds)
        by_mode.append(log_prior - 0.5 * (log_det + np.sum(gap @ np.linalg.inv(covariance) * gap, axis=1)))
    return np.logaddexp(*by_mode)


def report(name, fit, weight):
    bound = fit.log_prob(test, num_samples=100)
    exact = exact_log_prob(fit.params, test, weight).mean()
    print(f"{name:<12} exact {exact:.3f}   bound {bound.mean()}")
    error = bound.mean().standard_error
    assert bound.kind == "lower_bound"
    assert -0.05 - 4 * error < float(bound.mean()) - exact < 4 * error
    return exact


exact = {backend: report(backend, fit, fit.params["reading.weight"]) for backend, fit in fits.items()}  # (in, out)
exact["plain Pyro"] = report("plain Pyro", pyro_fit, pyro_fit.params["reading.weight"].T)  # torch: (out, in)

# %% [markdown]
# The bound is close because this guide's family holds the true posterior. And the three fits are as good as
# the program that made the data:

# %%
truth = {"odds": np.log(0.3 / 0.7), "noise": 0.5, "reading.bias": np.zeros(D)}
best = exact_log_prob(truth, test, (shift, slope)).mean()
print(f"the truth    exact {best:.3f}")

for value in exact.values():
    assert value > best - (0.5 if SMOKE else 0.1)

# %% [markdown]
# ## Another estimator
#
# `estimators=` maps a site's name (or `"*"`) to an instance. The mode has two values, so both can be tried.
# `infer.gradient` draws independent single-step gradients: enumeration has the same mean as the score
# function and less variance (much less here, before the first step, where no baseline has learned anything
# yet).

# %%
asked = {"z": estimators.Enumerate()}
print(infer.plan(model, guide, train, backend="torch", estimators=asked))

options = {"backend": "torch", "num_samples": 400}
by_score = infer.gradient(model, guide, train[:100], **options)["to_mode.weight"]
by_enumeration = infer.gradient(model, guide, train[:100], estimators=asked, **options)["to_mode.weight"]
difference = by_score.mean(0) - by_enumeration.mean(0)
standard_error = np.sqrt((by_score.var(0) + by_enumeration.var(0)) / 400)
print("variance by score function", by_score.var(0).sum(), "by enumeration", by_enumeration.var(0).sum())

assert np.all(np.abs(difference) < 5 * standard_error)
assert by_enumeration.var(0).sum() < 0.5 * by_score.var(0).sum()

# %% [markdown]
# What would be wrong is refused before the first step, with the reason:

# %%
try:
    infer.plan(model, guide, train, backend="torch", estimators={"z": estimators.Pathwise()})
except pg.ProgramError as error:
    print(error)
    refusal = str(error)

assert "site 'z'" in refusal

# %% [markdown]
# ## Stop, continue, load
#
# With `checkpoint=` the state is written as the run goes. A second call with the same path goes on from
# there, and ends where one long run ends. `save` and `load` keep a finished fit; the file holds arrays and
# text, no code, so `load` is given the program.

# %%
settings = {"backend": "torch", "batch_size": 100, "learning_rate": 0.01}
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "run.safetensors"
    infer.fit(model, guide, train, steps=100, checkpoint=path, **settings)
    continued = infer.fit(model, guide, train, steps=200, checkpoint=path, **settings)
    in_one_go = infer.fit(model, guide, train, steps=200, **settings)

    fits["torch"].save(path)
    loaded = infer.load(path, model, guide)

for name, value in in_one_go.params.items():
    np.testing.assert_allclose(continued.params[name], value, rtol=1e-5, atol=1e-6)
assert np.array_equal(loaded.log_prob(test, seed=1).value, fits["torch"].log_prob(test, seed=1).value)

# %% [markdown]
# ## What the fit can do
#
# Draws from the guide, from the posterior predictive, and from the model itself; the losses as a figure.

# %%
fit = fits["torch"]
latents = fit.posterior(test, num_samples=200)
agreement = np.mean((latents["z"].mean(0) > 0.5) == mode[1000:])
agreement = max(agreement, 1 - agreement)  # which mode is called 1 is arbitrary
print(f"mode found in {agreement:.1%} of the test rows")
figure = fit.plot()

assert latents["w"].shape == (200, 500)
assert fit.predict(test, num_samples=3)["x"].shape == (3, 500, D)
assert fit.sample(7)["x"].shape == (7, D)
assert agreement > 0.9
