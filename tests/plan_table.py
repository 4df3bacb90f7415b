"""The plan each program must get, on both backends: plain Pyro text for torch, plain NumPyro text for JAX.

A statement that breaks differentiability carries a comment ``# jump: <row>``: the plan's reason must name it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as jdist
import pyro
import pyro.distributions as tdist
import torch
from numpyro.distributions import constraints as jconstraints
from pyro.distributions import constraints as tconstraints

from tests import smooth_ways

Triple = tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]
BACKENDS = ("torch", "jax")


@dataclass(frozen=True)
class Expect:
    """What one site must get; None means not checked.

    Attributes:
        estimator: class name.
        depends: the sites whose cost terms the signal contains, exactly.
        contains: sites whose cost terms the signal must contain at least.
        summed: the plates over which the signal sums because elements mix, exactly.
        jump: name in a ``# jump:`` comment on a line that the reason must name.
    """

    estimator: str
    depends: frozenset[str] | None = None
    contains: frozenset[str] = frozenset()
    summed: frozenset[str] | None = None
    jump: str | None = None


@dataclass(frozen=True)
class Row:
    name: str
    build: Callable[[str], Triple]
    sites: Mapping[str, Expect]
    backends: tuple[str, ...] = BACKENDS


def sites(*names: str) -> frozenset[str]:
    return frozenset(names)


def lines_of(jump: str) -> list[int]:
    """Line numbers, in this file, that carry ``# jump: <jump>``."""
    text = Path(__file__).read_text(encoding="utf-8").splitlines()
    return [number for number, line in enumerate(text, 1) if line.endswith(f"# jump: {jump}")]


@dataclass(frozen=True)
class Library:
    """What differs in name between a plain Pyro and a plain NumPyro text as short as these."""

    sample: Callable[..., Any]
    param: Callable[..., Any]
    plate: Callable[..., Any]
    dist: Any
    array: Callable[..., Any]
    positive: Any
    xp: Any


TORCH = Library(pyro.sample, pyro.param, pyro.plate, tdist, torch.tensor, tconstraints.positive, torch)
JAX = Library(numpyro.sample, numpyro.param, numpyro.plate, jdist, jnp.array, jconstraints.positive, jnp)


def library(backend: str) -> Library:
    return TORCH if backend == "torch" else JAX


def floats(values: Any) -> Any:
    """NumPyro's Bernoulli draws integers."""
    return values.float() if isinstance(values, torch.Tensor) else values.astype(jnp.float32)


def normal_toy(mean: Mapping[str, Callable[[Any], Any]]) -> Callable[[str], Triple]:
    """z ~ N(0, 1); x | z ~ N(mean(z), 1); guide z ~ N(loc, scale)."""

    def build(backend: str) -> Triple:
        lib = library(backend)

        def model(x):
            z = lib.sample("z", lib.dist.Normal(0.0, 1.0))
            lib.sample("x", lib.dist.Normal(mean[backend](z), 1.0), obs=x)

        def guide(x):
            scale = lib.param("scale", lib.array(0.5), constraint=lib.positive)
            lib.sample("z", lib.dist.Normal(lib.param("loc", lib.array(0.3)), scale))

        return model, guide, (lib.array(0.7),)

    return build


def torch_step(z):
    return torch.where(z > 0, 2.0, -1.0)  # jump: step


def jax_step(z):
    return jnp.where(z > 0, 2.0, -1.0)  # jump: step


def torch_floor(z):
    return torch.floor(z)  # jump: floor


def jax_floor(z):
    return jnp.floor(z)  # jump: floor


def torch_index(z):
    return torch.tensor([-1.0, 0.0, 1.0])[z.long().clamp(0, 2)]  # jump: integer index


def jax_index(z):
    return jnp.array([-1.0, 0.0, 1.0])[jnp.clip(z.astype(int), 0, 2)]  # jump: integer index


def torch_detached(z):
    return 2 * z.detach()  # jump: detached


def jax_detached(z):
    return 2 * jax.lax.stop_gradient(z)  # jump: detached


def torch_numpy(z):
    return torch.tensor(z.detach().numpy() * 2)


def jax_numpy(z):
    return jax.pure_callback(lambda v: np.asarray(v) * 2, jax.ShapeDtypeStruct(z.shape, z.dtype), z)


def branch(z):
    if z > 0:
        return 2.0
    return -1.0


def item(z):
    return 2 * z.item()


def torch_write(z):
    b = torch.zeros(3)
    b[1] = z
    return b.sum()


def jax_write(z):
    return jnp.zeros(3).at[1].set(z).sum()


def both(function: Callable[[Any], Any]) -> dict[str, Callable[[Any], Any]]:
    return {"torch": function, "jax": function}


def eight_schools(backend: str) -> Triple:
    lib = library(backend)

    def model(error, effect):
        mu = lib.sample("mu", lib.dist.Normal(0.0, 5.0))
        tau = lib.sample("tau", lib.dist.HalfCauchy(5.0))
        with lib.plate("schools", 8):
            eta = lib.sample("eta", lib.dist.Normal(0.0, 1.0))
            lib.sample("effect", lib.dist.Normal(mu + tau * eta, error), obs=effect)

    def guide(error, effect):
        lib.sample("mu", lib.dist.Normal(lib.param("m", lib.array(0.0)), 1.0))
        lib.sample("tau", lib.dist.LogNormal(lib.param("t", lib.array(0.0)), 1.0))
        with lib.plate("schools", 8):
            lib.sample("eta", lib.dist.Normal(lib.param("e", lib.xp.zeros(8)), 1.0))

    return model, guide, (lib.array(np.full(8, 10.0, np.float32)), lib.array(np.arange(8, dtype=np.float32)))


def vae(activation: Mapping[str, Callable[[Any], Any]]) -> Callable[[str], Triple]:
    def build(backend: str) -> Triple:
        lib = library(backend)
        rng = np.random.default_rng(0)
        first, second, back = (rng.standard_normal(s).astype(np.float32) for s in ((2, 4), (4, 6), (6, 2)))

        def model(x):
            w, v = lib.param("w", lib.array(first)), lib.param("v", lib.array(second))
            with lib.plate("data", 5):
                z = lib.sample("z", lib.dist.Normal(lib.xp.zeros(2), 1.0).to_event(1))
                logits = activation[backend](z @ w) @ v
                lib.sample("x", lib.dist.Bernoulli(logits=logits).to_event(1), obs=x)

        def guide(x):
            loc = activation[backend](x @ lib.param("u", lib.array(back)))
            with lib.plate("data", 5):
                lib.sample("z", lib.dist.Normal(loc, 0.5).to_event(1))

        return model, guide, (lib.array((rng.random((5, 6)) < 0.5).astype(np.float32)),)

    return build


def gamma_poisson(backend: str) -> Triple:
    lib = library(backend)

    def model(x):
        with lib.plate("rows", 4):
            rate = lib.sample("rate", lib.dist.Gamma(2.0, 1.0))
            lib.sample("x", lib.dist.Poisson(rate), obs=x)

    def guide(x):
        concentration = lib.param("concentration", 2 * lib.xp.ones(4), constraint=lib.positive)
        with lib.plate("rows", 4):
            lib.sample("rate", lib.dist.Gamma(concentration, 1.0))

    return model, guide, (lib.array([1.0, 0.0, 3.0, 2.0]),)


def scales(backend: str) -> Triple:
    lib = library(backend)
    transforms = lib.dist.transforms

    def model(x):
        tau = lib.sample("tau", lib.dist.HalfNormal(1.0))
        sigma = lib.sample("sigma", lib.dist.Uniform(0.0, 5.0))
        with lib.plate("data", 3):
            mu = lib.sample("mu", lib.dist.Normal(0.0, tau))
            lib.sample("x", lib.dist.Normal(mu, sigma), obs=x)

    def guide(x):
        lib.sample("tau", lib.dist.HalfNormal(lib.param("t", lib.array(1.0), constraint=lib.positive)))
        base = lib.dist.Normal(lib.param("s", lib.array(0.0)), 0.5)
        to_interval = [transforms.SigmoidTransform(), transforms.AffineTransform(0.0, 5.0)]
        lib.sample("sigma", lib.dist.TransformedDistribution(base, to_interval))
        with lib.plate("data", 3):
            lib.sample("mu", lib.dist.Normal(lib.param("m", lib.xp.zeros(3)), 0.5))

    return model, guide, (lib.array([0.5, -0.5, 1.0]),)


def moving_support_of_data(backend: str) -> Triple:
    lib = library(backend)

    def model(x):
        z = lib.sample("z", lib.dist.LogNormal(0.0, 2.0))
        with lib.plate("data", 3):
            lib.sample("x", lib.dist.Uniform(0.0, z), obs=x)

    def guide(x):
        lib.sample("z", lib.dist.LogNormal(lib.param("loc", lib.array(2.0)), 0.1))

    return model, guide, (lib.array([0.2, 0.5, 0.9]),)


def moving_own_support(backend: str) -> Triple:
    lib = library(backend)

    def model(x):
        z = lib.sample("z", lib.dist.Exponential(1.0))
        lib.sample("x", lib.dist.Normal(z, 1.0), obs=x)

    def guide(x):
        lib.sample("z", lib.dist.Uniform(0.0, lib.param("top", lib.array(2.0), constraint=lib.positive)))

    return model, guide, (lib.array(0.7),)


def drawn_index(backend: str) -> Triple:
    """k reaches x, not y, although both use the table m; `other` reaches y only."""
    lib = library(backend)

    def model(x, y):
        m = lib.param("m", lib.array([-1.0, 0.0, 1.0]))
        k = lib.sample("k", lib.dist.Categorical(lib.array([0.2, 0.3, 0.5])))
        other = lib.sample("other", lib.dist.Normal(0.0, 1.0))
        lib.sample("x", lib.dist.Normal(m[k], 1.0), obs=x)
        lib.sample("y", lib.dist.Normal(m[0] + other, 1.0), obs=y)

    def guide(x, y):
        lib.sample("other", lib.dist.Normal(lib.param("loc", lib.array(0.0)), 1.0))
        lib.sample("k", lib.dist.Categorical(logits=lib.param("logits", lib.xp.zeros(3))))

    return model, guide, (lib.array(0.7), lib.array(0.1))


def markov_chain(backend: str) -> Triple:
    """The guide is independent over time: each state's signal is its Markov blanket."""
    lib = library(backend)

    def model(x):
        z = lib.array(0)
        for t in range(4):
            stay = lib.array([[0.9, 0.1], [0.2, 0.8]])
            z = lib.sample(f"z{t}", lib.dist.Categorical(stay[z]))
            lib.sample(f"x{t}", lib.dist.Normal(lib.array([-1.0, 1.0])[z], 1.0), obs=x[t])

    def guide(x):
        logits = lib.param("logits", lib.xp.zeros((4, 2)))
        for t in range(4):
            lib.sample(f"z{t}", lib.dist.Categorical(logits=logits[t]))

    return model, guide, (lib.array([-1.0, 1.0, 1.0, -1.0]),)


def belief_net(backend: str) -> Triple:
    """Two layers inside a plate; the guide goes upwards."""
    lib = library(backend)

    def model(x):
        w = lib.param("w", lib.array(np.eye(3, dtype=np.float32)))
        with lib.plate("data", 4):
            top = lib.sample("top", lib.dist.Bernoulli(logits=lib.xp.zeros((4, 3))).to_event(1))
            h = lib.sample("h", lib.dist.Bernoulli(logits=floats(top) @ w).to_event(1))
            lib.sample("x", lib.dist.Bernoulli(logits=floats(h) @ w).to_event(1), obs=x)

    def guide(x):
        v = lib.param("v", lib.array(np.eye(3, dtype=np.float32)))
        with lib.plate("data", 4):
            h = lib.sample("h", lib.dist.Bernoulli(logits=x @ v).to_event(1))
            lib.sample("top", lib.dist.Bernoulli(logits=floats(h) @ v).to_event(1))

    return model, guide, (lib.array((np.arange(12).reshape(4, 3) % 2).astype(np.float32)),)


def bernoulli_rows(mean: Callable[[Any], Any], *, outside: bool = False) -> Callable[[str], Triple]:
    """z_i ~ Bernoulli in a plate of 4; x ~ N(mean(z), 1) in the plate, or once outside it."""

    def build(backend: str) -> Triple:
        lib = library(backend)

        def model(x):
            with lib.plate("data", 4):
                z = floats(lib.sample("z", lib.dist.Bernoulli(probs=0.3 * lib.xp.ones(4))))
                if not outside:
                    lib.sample("x", lib.dist.Normal(mean(z), 1.0), obs=x)
            if outside:
                lib.sample("x", lib.dist.Normal(mean(z), 1.0), obs=x[0])

        def guide(x):
            with lib.plate("data", 4):
                lib.sample("z", lib.dist.Bernoulli(logits=lib.param("logits", lib.xp.zeros(4))))

        return model, guide, (lib.array([0.7, 0.1, 2.0, 0.4]),)

    return build


def mixed_kinds(backend: str) -> Triple:
    """A discrete choice that a continuous latent of the guide depends on."""
    lib = library(backend)

    def model(x):
        c = lib.sample("c", lib.dist.Categorical(lib.array([0.4, 0.6])))
        z = lib.sample("z", lib.dist.Normal(lib.array([-1.0, 1.0])[c], 1.0))
        lib.sample("x", lib.dist.Normal(z, 1.0), obs=x)

    def guide(x):
        c = lib.sample("c", lib.dist.Categorical(logits=lib.param("logits", lib.xp.zeros(2))))
        lib.sample("z", lib.dist.Normal(lib.param("loc", lib.array([-0.5, 0.5]))[c], 1.0))

    return model, guide, (lib.array(0.7),)


def von_mises(backend: str) -> Triple:
    lib = library(backend)

    def model(x):
        angle = lib.sample("angle", lib.dist.VonMises(0.0, 1.0))
        lib.sample("x", lib.dist.Normal(lib.xp.cos(angle), 0.5), obs=x)

    def guide(x):
        concentration = lib.param("concentration", lib.array(2.0), constraint=lib.positive)
        lib.sample("angle", lib.dist.VonMises(lib.param("loc", lib.array(0.3)), concentration))

    return model, guide, (lib.array(0.7),)


ACTIVATIONS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "softplus": {"torch": torch.nn.Softplus(), "jax": jax.nn.softplus},
    "leaky ReLU": {"torch": torch.nn.LeakyReLU(), "jax": jax.nn.leaky_relu},
    "ReLU": {"torch": torch.nn.ReLU(), "jax": jax.nn.relu},
    "ELU": {"torch": torch.nn.ELU(), "jax": jax.nn.elu},
    "GELU": {"torch": torch.nn.GELU(), "jax": jax.nn.gelu},
    "SiLU": {"torch": torch.nn.SiLU(), "jax": jax.nn.silu},
    "tanh": {"torch": torch.nn.Tanh(), "jax": jnp.tanh},
}

PATHWISE = Expect("Pathwise")
Z_SCORE = Expect("Score", depends=sites("z", "x"))
ESCAPED = Expect("Score", contains=sites("z", "x"))


def by_backend(builders: Mapping[str, Callable[[], Triple]]) -> Callable[[str], Triple]:
    return lambda backend: builders[backend]()


# continuous, though a comparison, an index, a clamp or a derivative of its own stands on the way
SMOOTH_ROWS = (
    *(Row(name, normal_toy(means), {"z": PATHWISE}, tuple(means)) for name, means in smooth_ways.MEANS.items()),
    *(
        Row(name, by_backend(builders), dict.fromkeys(latents, PATHWISE), tuple(builders))
        for name, (builders, latents) in smooth_ways.PROGRAMS.items()
    ),
)

ROWS: tuple[Row, ...] = (
    *SMOOTH_ROWS,
    Row("eight schools", eight_schools, dict.fromkeys(("mu", "tau", "eta"), PATHWISE)),
    *(Row(f"VAE {name}", vae(functions), {"z": PATHWISE}) for name, functions in ACTIVATIONS.items()),
    Row("gamma-Poisson", gamma_poisson, {"rate": PATHWISE}),
    Row("HalfNormal and Uniform scales", scales, dict.fromkeys(("tau", "sigma", "mu"), PATHWISE)),
    Row(
        "step function",
        normal_toy({"torch": torch_step, "jax": jax_step}),
        {"z": Expect("Score", depends=sites("z", "x"), jump="step")},
    ),
    Row(
        "floor",
        normal_toy({"torch": torch_floor, "jax": jax_floor}),
        {"z": Expect("Score", depends=sites("z", "x"), jump="floor")},
    ),
    Row(
        "integer index of a Normal",
        normal_toy({"torch": torch_index, "jax": jax_index}),
        {"z": Expect("Score", depends=sites("z", "x"), jump="integer index")},
    ),
    Row(
        "detached",
        normal_toy({"torch": torch_detached, "jax": jax_detached}),
        {"z": Expect("Score", depends=sites("z", "x"), jump="detached")},
    ),
    Row("in-place write", normal_toy({"torch": torch_write, "jax": jax_write}), {"z": PATHWISE}),
    Row("NumPy round trip", normal_toy({"torch": torch_numpy, "jax": jax_numpy}), {"z": ESCAPED}),
    Row("Python branch on a latent", normal_toy(both(branch)), {"z": ESCAPED}),
    Row(".item()", normal_toy(both(item)), {"z": ESCAPED}),
    Row("support of data moved by a latent", moving_support_of_data, {"z": Z_SCORE}),
    Row("own support moved by a parameter", moving_own_support, {"z": PATHWISE}),
    Row(
        "drawn index",
        drawn_index,
        {"k": Expect("Score", depends=sites("k", "x")), "other": PATHWISE},
    ),
    Row(
        "Markov chain, independent guide",
        markov_chain,
        {
            "z0": Expect("Score", depends=sites("z0", "z1", "x0")),
            "z1": Expect("Score", depends=sites("z1", "z2", "x1")),
            "z3": Expect("Score", depends=sites("z3", "x3")),
        },
    ),
    Row(
        "belief net",
        belief_net,
        {
            "h": Expect("Score", depends=sites("h", "top", "x"), summed=sites()),
            "top": Expect("Score", depends=sites("h", "top"), summed=sites()),
        },
    ),
    Row(
        "rows apart",
        bernoulli_rows(lambda z: 2 * z),
        {"z": Expect("Score", depends=sites("z", "x"), summed=sites())},
    ),
    Row(
        "rows mixed inside their plate",
        bernoulli_rows(lambda z: 3 * (z - z.mean())),
        {"z": Expect("Score", depends=sites("z", "x"), summed=sites("data"))},
    ),
    Row(
        "rows shifted by one inside their plate",
        bernoulli_rows(lambda z: z[[1, 2, 3, 0]] if isinstance(z, torch.Tensor) else jnp.roll(z, -1)),
        {"z": Expect("Score", depends=sites("z", "x"), summed=sites("data"))},
    ),
    Row("latent summed over its plate", bernoulli_rows(lambda z: z.sum(), outside=True), {"z": Z_SCORE}),
    Row(
        "discrete choice before a continuous one",
        mixed_kinds,
        {"c": Expect("Score", depends=sites("c", "z", "x")), "z": PATHWISE},
    ),
    Row("VonMises concentration", von_mises, {"angle": Expect("Score", depends=sites("angle", "x"))}),
)
