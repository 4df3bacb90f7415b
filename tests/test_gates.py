"""Elements of a plate that meet behind a closed gate, with a weight of zero or in another batch still share their signal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppl_gen import infer
from ppl_gen.errors import ProgramError

Y = torch.tensor([1.8, 0.2, -0.5])
LOGITS = torch.tensor([0.3, -0.4, 0.2])
SEEDS = range(10)


def guide(y: Tensor, *rest: Tensor) -> None:
    pyro.sample("s", dist.Bernoulli(logits=pyro.param("ls", torch.tensor(0.1))))
    with pyro.plate("d", 3):
        pyro.sample("z", dist.Bernoulli(logits=pyro.param("l", LOGITS)))


def model_of(mean: Callable[..., Tensor]) -> Callable[..., None]:
    def model(y: Tensor, *rest: Tensor) -> None:
        s = pyro.sample("s", dist.Bernoulli(0.5))
        with pyro.plate("d", 3):
            z = pyro.sample("z", dist.Bernoulli(0.4))
            pyro.sample("x", dist.Normal(2 * mean(s, z, *rest), 0.6), obs=y)

    return model


def weight(name: str) -> Tensor:
    return pyro.param(name, torch.tensor(0.0))


HIDDEN: dict[str, Callable[..., Tensor]] = {
    "a gate of a latent": lambda s, z: torch.where(s > 0.5, z.mean(), z),
    "a product with a latent": lambda s, z: z + s * z.sum(),
    "a weight that starts at zero": lambda s, z: z + weight("a") * z.sum(),
    "a shift by a latent": lambda s, z: z[(torch.arange(3) + s.long()) % 3],
    "a power of zero": lambda s, z: z + (z.roll(1) + 1) ** weight("a"),
    "rows that a latent chooses": lambda s, z: torch.stack([z, z.flip(0)])[s.long()],
    "a mask by position": lambda s, z: z.masked_fill((s > 0.5) & (torch.arange(3) > z.sum()), 0.0),
    "a branch of the host": lambda s, z: z.mean() if s > 0.5 else z,
    "written into a copy": lambda s, z: z.clone().index_put_((torch.tensor([0]),), s * z[2]),
}
APART: dict[str, Callable[..., Tensor]] = {
    "a gate outside": lambda s, z: torch.where(s > 0.5, z, 0.5 * z),
    "a weight that starts at zero": lambda s, z: z + weight("a") * z,
    "a table by its own value": lambda s, z: torch.tensor([0.2, 0.7])[z.long()] + s,
    "a branch of the host": lambda s, z: z if s > 0.5 else 1 - z,
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_one_run_hides_is_summed_over(name: str) -> None:
    for seed in SEEDS if "latent" in name else (0,):
        assert infer.plan(model_of(HIDDEN[name]), guide, Y, seed=seed)["z"].summed_plates == {"d"}


@pytest.mark.parametrize("name", APART)
def test_elements_that_never_meet_keep_their_own_signal(name: str) -> None:
    assert infer.plan(model_of(APART[name]), guide, Y)["z"].summed_plates == frozenset()


def test_a_weight_among_the_data_may_change_from_batch_to_batch() -> None:
    model = model_of(lambda s, z, a: z + a * z.mean())
    assert infer.plan(model, guide, (Y, torch.tensor(0.0)))["z"].summed_plates == {"d"}


def test_rows_that_data_choose_may_be_others_in_another_batch() -> None:
    model = model_of(lambda s, z, place: z[place])
    assert infer.plan(model, guide, (Y, torch.arange(3)))["z"].summed_plates == {"d"}


def _exact(params: dict[str, float | Sequence[float]], mean: Callable[..., Tensor]) -> dict[str, np.ndarray]:
    """The gradient of minus the ELBO by enumeration, in double precision."""
    leaves = {n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in params.items()}
    total = torch.zeros((), dtype=torch.float64)
    for number in range(16):
        bits = torch.tensor([float(number >> place & 1) for place in range(4)], dtype=torch.float64)
        s, z = bits[0], bits[1:]
        log_q = dist.Bernoulli(logits=leaves["ls"]).log_prob(s) + dist.Bernoulli(logits=leaves["l"]).log_prob(z).sum()
        log_p = dist.Bernoulli(0.5).log_prob(s) + dist.Bernoulli(0.4).log_prob(z).sum()
        log_p = log_p + dist.Normal(2 * mean(s, z), 0.6).log_prob(Y.double()).sum()
        total = total + log_q.exp() * (log_q - log_p)
    total.backward()
    return {name: leaf.grad.numpy() for name, leaf in leaves.items() if leaf.grad is not None}


@pytest.mark.parametrize("seed", [1, 5])
def test_a_gate_gives_the_exact_gradient(seed: int) -> None:
    """Four z-scores below 4.5 in two tests: a false alarm in 6e-5; the standard errors are below 0.2."""
    mean = HIDDEN["a gate of a latent"]
    expected = _exact({"ls": 0.1, "l": LOGITS.tolist()}, mean)
    assert expected["l"] == pytest.approx([-0.010, 0.917, 1.479], abs=2e-3)
    draws = infer.gradient(model_of(mean), guide, Y, num_samples=800, seed=seed)
    for name, value in expected.items():
        error = draws[name].std(0) / np.sqrt(800)
        assert np.all(np.abs(draws[name].mean(0) - value) < 4.5 * error) and np.all(error < 0.2)


def test_no_likelihood_is_summed_out_element_by_element_where_elements_meet() -> None:
    """Left to the model, the latents cannot be summed out side by side, whatever the seed."""

    def model(y: Tensor) -> None:
        w = pyro.param("w", torch.tensor(2.0))
        s = pyro.sample("s", dist.Bernoulli(0.5))
        with pyro.plate("d", 3):
            z = pyro.sample("z", dist.Bernoulli(0.4))
            pyro.sample("x", dist.Normal(w * torch.where(s > 0.5, z.mean(), z), 0.6), obs=y)

    def nothing(y: Tensor) -> None:
        pass

    for seed in range(4):
        with pytest.raises(ProgramError, match="'z'"):
            infer.plan(model, nothing, Y, seed=seed)


@pytest.mark.parametrize("several", [False, True])
def test_only_the_latent_that_mixes_is_blamed(several: bool) -> None:
    def model(y: Tensor) -> None:
        with pyro.plate("d", 3):
            z, v = (pyro.sample(name, dist.Bernoulli(0.4)) for name in ("z", "v"))
            pyro.sample("x", dist.Normal(z.mean() + (v.mean() if several else v), 0.6), obs=y)

    def proposal(y: Tensor) -> None:
        with pyro.plate("d", 3):
            for name in ("z", "v"):
                pyro.sample(name, dist.Bernoulli(logits=pyro.param(f"l{name}", LOGITS)))

    plan = infer.plan(model, proposal, Y)
    assert plan["z"].summed_plates == {"d"}
    assert plan["v"].summed_plates == ({"d"} if several else frozenset())
