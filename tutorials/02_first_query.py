# %% [markdown]
# # A first query
#
# A model of a table that answers any conditional: p(any columns given any others). The table here is small
# and made from a known joint distribution, so that every answer can be held against the truth. Values are
# missing, as in most tables.
#
# There is no guide and no latent: the order-agnostic NADE is one network that was trained on every order in
# which the columns can be predicted from one another. `PPL_GEN_SMOKE=1` makes a shorter run.

# %%
import os

import numpy as np
import pandas as pd

from ppl_gen import data, infer, models

SMOKE = os.environ.get("PPL_GEN_SMOKE") == "1"
STEPS = 700 if SMOKE else 3000
CLOSE = 0.10 if SMOKE else 0.06  # allowed error of a probability

# %% [markdown]
# ## A table with a known joint
#
# Season moves rain; rain moves the umbrella and how one travels; both move how late one is.

# %%
LEVELS = {
    "season": ["autumn", "spring", "summer", "winter"],
    "rain": [False, True],
    "umbrella": [False, True],
    "travel": ["bike", "bus", "walk"],
    "late": [0, 5, 10, 20],  # minutes
}
season = np.array([0.25, 0.25, 0.25, 0.25])
rain = np.array([[0.4, 0.6], [0.6, 0.4], [0.85, 0.15], [0.5, 0.5]])  # [season, rain]
umbrella = np.array([[0.9, 0.1], [0.25, 0.75]])  # [rain, umbrella]
travel = np.array(
    [
        [[0.5, 0.2, 0.3], [0.15, 0.7, 0.15]],
        [[0.5, 0.2, 0.3], [0.2, 0.6, 0.2]],
        [[0.7, 0.1, 0.2], [0.3, 0.5, 0.2]],
        [[0.1, 0.6, 0.3], [0.05, 0.8, 0.15]],
    ]
)  # [season, rain, travel]
late = np.array(
    [
        [[0.7, 0.2, 0.08, 0.02], [0.4, 0.3, 0.2, 0.1], [0.6, 0.3, 0.08, 0.02]],
        [[0.4, 0.3, 0.2, 0.1], [0.2, 0.2, 0.3, 0.3], [0.4, 0.3, 0.2, 0.1]],
    ]
)  # [rain, travel, late]
truth = np.einsum("s,sr,ru,srt,rtl->srutl", season, rain, umbrella, travel, late)
NAMES = list(LEVELS)


def draw(num_rows, seed):
    """Rows of the joint, shape (num_rows, 5), as codes."""
    flat = np.random.default_rng(seed).choice(truth.size, num_rows, p=truth.ravel())
    return np.stack(np.unravel_index(flat, truth.shape), axis=1)


def as_frame(codes):
    """Codes as a table of values."""
    columns = {name: np.array(LEVELS[name])[column] for name, column in zip(NAMES, codes.T, strict=True)}
    return pd.DataFrame(columns)


train_codes, test_codes = draw(10000, seed=0), draw(1000, seed=1)
train, test = as_frame(train_codes), as_frame(test_codes)
missing = np.random.default_rng(2).random(train.shape) < 0.15
train = train.astype(object).mask(missing, None)
print(train.head(), f"\n{missing.mean():.0%} of the values are missing")

# %% [markdown]
# ## Fit
#
# `Schema.of` reads names, kinds and levels off the table; None, NaN and pandas' NA are missing values. What
# is missing is neither an input nor a target, so no value is made up.

# %%
schema = data.Schema.of(train)
print(schema, schema.names, schema.cardinalities)
model = models.OrderAgnosticNADE(schema, hidden=(64,), data=train)
fit = infer.fit(model, data=train, steps=STEPS, batch_size=500, learning_rate=3e-3)
print(fit)

assert schema.names == tuple(NAMES)
assert len(fit.plan) == 0  # nothing latent, nothing to choose

# %% [markdown]
# Every order of the columns gives an exact likelihood; `log_prob` is that of the even mixture over `orders`
# of them. It is held against the truth on new rows.

# %%
found = fit.log_prob(test, orders=16)
true_log_prob = np.log(truth[tuple(test_codes.T)])
gap = true_log_prob - found.value
print(f"model {found.mean()}\ntruth {true_log_prob.mean():.4f} nats")
print(f"gap {gap.mean():.4f} ± {gap.std() / 1000**0.5:.4f} nats")

assert found.kind == "exact"
assert gap.mean() < (0.05 if SMOKE else 0.03)

# %% [markdown]
# ## Any given any
#
# `query(of, given)` is the conditional distribution as an object. Nothing is trained for it, and no
# direction is special: from cause to effect, from effect to cause, several at once.


# %%
def known(of, given):
    """True p(of | given) for one column: shape (levels,)."""
    where = tuple(LEVELS[n].index(given[n]) if n in given else slice(None) for n in NAMES)
    left = [n for n in NAMES if n not in given]
    table = truth[where].sum(axis=tuple(i for i, n in enumerate(left) if n != of))
    return table / table.sum()


questions = [
    (["late"], {}),
    (["umbrella"], {"rain": True}),
    (["season", "rain"], {"umbrella": True}),
    (["rain"], {"late": 20, "travel": "bus"}),
    (["travel", "late"], {"season": "winter", "umbrella": False}),
]
worst = 0.0
for of, given in questions:
    answer = fit.query(of, given=given).marginals()
    for name in of:
        right = known(name, given)
        worst = max(worst, np.abs(answer[name][0] - right).max())
        print(f"p({name} | {given})\n  model {answer[name][0].round(3)}\n  truth {right.round(3)}")
print(f"largest error of a probability: {worst:.3f}")

assert worst < CLOSE

# %% [markdown]
# Marginals are one view. `sample` draws all asked columns together, `log_prob` gives their joint density,
# `mode` the most probable values, `mean` expectations of numbers. The density adds up to one over all
# values: it is a distribution, not a set of separate classifiers.

# %%
query = fit.query(["travel", "late"], given={"rain": True})
draws = query.sample(4000)
frequency = (draws["travel"] == "bus").mean()
probability = query.marginals()["travel"][0, LEVELS["travel"].index("bus")]
every = pd.DataFrame([(t, m) for t in LEVELS["travel"] for m in LEVELS["late"]], columns=["travel", "late"])
total = np.exp(query.log_prob(every).value).sum()
print(
    draws.head(3),
    f"\nbus: {frequency:.3f} of the draws, probability {probability:.3f}; the density adds up to {total:.6f}",
)
print("most probable together:", query.mode().iloc[0].to_dict())
minutes = fit.query(["late"], given={"rain": True}).mean()
print(f"expected delay in the rain: {minutes['late'].iloc[0]:.1f} minutes")

assert abs(frequency - probability) < 4 * np.sqrt(probability * (1 - probability) / 4000)  # 4 standard errors
assert abs(total - 1) < 1e-4

# %% [markdown]
# ## Many rows, each with its own gaps
#
# A frame as `given` asks for each row at once, and each may lack other values. Without `of`, all that a row
# lacks is asked for. Here every hole of the training table is filled with one draw from p(missing | seen).

# %%
rows = train[missing.any(axis=1)].head(200)
filled = fit.query(given=rows).sample(1).droplevel("sample")
seen = rows.notna()
print(rows.head(3), filled.head(3), sep="\n")

assert filled.notna().all(axis=None)
assert all((filled[name][seen[name]] == rows[name][seen[name]]).all() for name in NAMES)

# %% [markdown]
# ## How sure is it?
#
# The network is trained on all orders but nothing forces them to agree. `.info` names the orders that were
# used (columns of the schema, the given ones first), their weights, and by how much log p differs between
# them: the spread, in nats. A small spread is a sign, not a proof, that the answer is right; the answers
# themselves are exact for the mixture of the orders listed.

# %%
query = fit.query(["season", "rain"], given={"umbrella": True, "late": 10}, orders=6)
query.log_prob({"season": "winter", "rain": True})
info = query.info
for key in ("kind", "orders", "weights", "spread"):
    print(f"{key}: {info[key]}")

assert info["kind"] == "exact"
assert {tuple(order[:2]) for order in np.sort(info["orders"][:, :2], axis=1).tolist()} == {(2, 4)}
assert info["spread"].shape == (1,) and info["spread"][0] < 0.5
np.testing.assert_allclose(info["weights"].sum(axis=1), 1.0, rtol=1e-5)

# %% [markdown]
# A wrong question is refused with the reason.

# %%
try:
    fit.query(["rain"], given={"season": "monsoon"})
except ValueError as error:
    refusal = str(error)
    print(refusal)

assert "monsoon" in refusal
