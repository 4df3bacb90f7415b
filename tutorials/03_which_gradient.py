# %% [markdown]
# # Which gradient did I get?
#
# For readers who have fitted a program (tutorial 1). Every latent site gets a gradient estimator. This tutorial
# shows how to see which one and why, how to hold it against the truth, what each would cost, and what happens
# when a program asks for one that would be wrong.
#
# It runs on JAX (`BACKEND=torch` for torch). Set `PPL_GEN_SMOKE=1` for a shorter run, on torch.

# %%
import os
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import ppl_gen as pg
from ppl_gen import estimators, infer

SMOKE = os.environ.get("PPL_GEN_SMOKE") == "1"
BACKEND = os.environ.get("BACKEND", "torch" if SMOKE else "jax")
SAMPLES, MOST = (200, 200) if SMOKE else (4000, 64_000)

# %% [markdown]
# ## A program with three kinds of latents
#
# Four machines, five readings each. A machine is in one of two modes (`mode`, a bit) and drifts (`drift`, a
# normal); whether a reading is spoilt (`spoilt`, a bit) depends on the mode.

# %%
rng = np.random.default_rng(0)
x = rng.normal(0.5, 1.2, (4, 5))


def number(bit):
    return pg.xp.astype(bit, pg.xp.float32)


def model(x):
    with pg.plate("machines", 4, dim=-2):
        mode = number(pg.sample("mode", pg.dist.Bernoulli(0.4)))
        drift = pg.sample("drift", pg.dist.Normal(0.0, 0.5))
        with pg.plate("readings", 5, dim=-1):
            spoilt = number(pg.sample("spoilt", pg.dist.Bernoulli(logits=1.5 * mode - 1.5)))
            pg.sample("x", pg.dist.Normal(mode + drift + 2.0 * spoilt, 0.8), obs=x)


def guide(x):
    middle = pg.xp.mean(x, axis=1, keepdims=True)
    with pg.plate("machines", 4, dim=-2):
        mode = number(pg.sample("mode", pg.dist.Bernoulli(logits=pg.param("mode.logit", pg.xp.zeros(())) + middle)))
        pg.sample("drift", pg.dist.Normal(pg.param("drift.slope", pg.xp.asarray(0.2)) * middle, 0.4))
        with pg.plate("readings", 5, dim=-1):
            logit = pg.param("spoilt.logit", pg.xp.asarray(-1.0)) + 0.8 * x - 0.5 * mode
            pg.sample("spoilt", pg.dist.Bernoulli(logits=logit))


plan = infer.plan(model, guide, x, backend=BACKEND)
print(plan)

assert isinstance(plan["drift"].estimator, estimators.Pathwise)
assert isinstance(plan["mode"].estimator, estimators.Score)

# %% [markdown]
# A bit passes no gradient, so `mode` and `spoilt` get the score function with a learned baseline; the normal's
# gradient goes through its value. `depends` says whose log densities a site moves. Only these stand in its
# signal: a spoilt reading tells nothing about another reading.

# %%
print({site: sorted(plan[site].depends) for site in plan})

assert plan["spoilt"].depends == {"spoilt", "x"} and plan["spoilt"].summed_plates == frozenset()

# %% [markdown]
# ## Is it right, and is it good?
#
# `infer.check` is an audit of your own program. It compares the mean of many single-step gradients with a
# reference, and does the same for every other unbiased estimator that suits. Where all latents are binary or
# categorical and few, the reference is exact; here it is the score function on the whole cost, which uses
# nothing that could go wrong: no dependencies, no plates, no derivative of a value.
#
# The verdict says no more than the samples do. `agrees` leaves no room for a bias above 10 % of any parameter's
# gradient, and `report.ok` is then True. Where the samples cannot tell, it is None, and the verdict is `inconclusive`
# with the smallest bias that would have shown: here the reference is noisy too. More samples (`num_samples`,
# `max_samples`) see more.

# %%
report = infer.check(model, guide, x, backend=BACKEND, num_samples=SAMPLES, max_samples=MOST)
print(report)

assert report.ok is not False and all(not audit.biased for audit in report.audits)

# %% [markdown]
# The bound on |z| allows for the number of components compared. Variance alone does not say which is best: an
# estimator that runs the program twice must halve it to be worth its cost. Here are both in one picture; along
# a dotted line the product is the same.

# %%
audits = sorted((a for a in report.audits if a.name != "chosen"), key=lambda a: (a.cost, a.variance))
figure = Figure(figsize=(6.4, 4.2), layout="constrained")
axes, beside = figure.subplots(), {}
for audit in audits:
    axes.scatter(audit.cost, audit.variance, s=30, color="C0")
    height = max(audit.variance, 1.13 * beside.get(audit.cost, 0.0))  # labels of one column stay apart
    axes.text(1.04 * audit.cost, height, audit.name, fontsize=8, va="center")
    beside[audit.cost] = height
runs = np.array([0.8, 1.8 * audits[-1].cost])
low, high = min(a.variance for a in audits), max(a.variance for a in audits)
for product in np.geomspace(0.5 * low, 2 * high * runs[1], 8):
    axes.plot(runs, product / runs, ":", color="0.7", lw=0.8, zorder=0)
axes.set(xscale="log", yscale="log", xlabel="runs of the program per step", ylabel="variance of the gradient")
axes.set(xlim=runs, ylim=(0.6 * low, 1.7 * high))
axes.set_xticks(sorted(beside), [str(cost) for cost in sorted(beside)])
heights = [h for h in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if 0.6 * low < h < 1.7 * high]
axes.set_yticks(heights, [str(h) for h in heights])
axes.minorticks_off()
Path("out").mkdir(exist_ok=True)
figure.savefig("out/variance_against_cost.png", dpi=150)

# %% [markdown]
# ## Let it be measured
#
# `measure=True` tries each wherever it suits, and the mixture of what did best at each site, and keeps the least product
# of variance and runs of the whole step. A long `fit` does the same on its own, when it is worth it: a tenth of its runs at
# the most.

# %%
measured = infer.plan(model, guide, x, backend=BACKEND, measure=True)
print(measured)

assert measured["mode"].reason.startswith("measured") and measured["mode"].variance is not None

# %% [markdown]
# ## Ask for one
#
# What you ask for stays, if it is right. What would be wrong is refused, with the site's name and the reason.

# %%
asked = infer.plan(model, guide, x, backend=BACKEND, estimators={"mode": estimators.Enumerate()})
print(asked["mode"].estimator, "-", asked["mode"].reason)

for wrong in ({"mode": estimators.Pathwise()}, {"drift": estimators.DisArm()}):
    try:
        infer.plan(model, guide, x, backend=BACKEND, estimators=wrong)
    except pg.ProgramError as error:
        print(error)
    else:
        raise AssertionError("a wrong estimator was accepted")

# %% [markdown]
# ## A jump
#
# The same normal behind a comparison: its pathwise gradient would be zero almost everywhere, and wrong. The
# plan sees the comparison and names the line.


# %%
def jumping(x):
    drift = pg.sample("drift", pg.dist.Normal(0.0, 1.0))
    with pg.plate("readings", len(x)):
        pg.sample("x", pg.dist.Normal(pg.xp.where(drift > 0.3, 1.0, -1.0), 0.8), obs=x)


def towards(x):
    pg.sample("drift", pg.dist.Normal(pg.param("loc", pg.xp.zeros(())), 0.7))


jump = infer.plan(jumping, towards, x[0], backend=BACKEND)
print(jump)

assert isinstance(jump["drift"].estimator, estimators.Score) and "which_gradient.py" in jump["drift"].reason

# %% [markdown]
# ## Or leave the site out of the guide
#
# A finite latent that the guide does not name is summed out exactly, chains and plates included. Then it needs no
# gradient at all.


# %%
def without_spoilt(x):
    middle = pg.xp.mean(x, axis=1, keepdims=True)
    with pg.plate("machines", 4, dim=-2):
        pg.sample("mode", pg.dist.Bernoulli(logits=pg.param("mode.logit", pg.xp.zeros(())) + middle))
        pg.sample("drift", pg.dist.Normal(pg.param("drift.slope", pg.xp.asarray(0.2)) * middle, 0.4))


shorter = infer.plan(model, without_spoilt, x, backend=BACKEND)
print(shorter)
losses = {
    name: infer.fit(model, q, x, steps=200 if SMOKE else 1000, learning_rate=0.02, backend=BACKEND).losses[-50:].mean()
    for name, q in (("proposed", guide), ("summed out", without_spoilt))
}
print(losses)

assert "summed out exactly" in str(shorter) and losses["summed out"] < losses["proposed"]
