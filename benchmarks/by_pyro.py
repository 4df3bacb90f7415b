"""Pyro's own SVI: Trace_ELBO for the VAE, TraceGraph_ELBO with neural baselines for the belief net."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from by_torch import Net
from pyro.infer import SVI, Trace_ELBO, TraceGraph_ELBO
from torch.nn import functional
from workloads import BASELINE_UNITS, LEARNING_RATE, Workload, batches


class VAE:
    """Model and guide with their networks."""

    def __init__(self, workload: Workload, seed: int) -> None:
        self.net = Net(workload, seed)

    def model(self, x: Any) -> None:
        """p(z) p(x | z)."""
        net = pyro.module("net", self.net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(20), torch.ones(20)).to_event(1))
            logits = net("decoder.1", functional.softplus(net("decoder.0", z)))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Any) -> None:
        """q(z | x)."""
        net = pyro.module("net", self.net)
        hidden = functional.softplus(net("encoder.0", x))
        with pyro.plate("data", len(x)):
            scale = functional.softplus(net("encoder.scale", hidden))
            pyro.sample("z", dist.Normal(net("encoder.loc", hidden), scale).to_event(1))


class Column(torch.nn.Sequential):
    """A baseline network whose output has the shape of the cost, (rows,)."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(200, BASELINE_UNITS), torch.nn.Tanh(), torch.nn.Linear(BASELINE_UNITS, 1))

    def forward(self, features: Any) -> Any:
        """Shape (rows, 200) to (rows,)."""
        return super().forward(features)[..., 0]


class BeliefNet:
    """Model and guide with their networks and baselines."""

    def __init__(self, workload: Workload, seed: int) -> None:
        self.net, self.baselines = Net(workload, seed), torch.nn.ModuleList([Column(), Column()])

    def model(self, x: Any) -> None:
        """p(h2) p(h1 | h2) p(x | h1)."""
        net = pyro.module("net", self.net)
        with pyro.plate("data", len(x)):
            h2 = pyro.sample("h2", dist.Bernoulli(logits=net.top_bias).to_event(1))
            h1 = pyro.sample("h1", dist.Bernoulli(logits=net("decoder.1", 2 * h2 - 1)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=net("decoder.0", 2 * h1 - 1)).to_event(1), obs=x)

    def guide(self, x: Any) -> None:
        """q(h1 | x) q(h2 | h1)."""
        net, baselines = pyro.module("net", self.net), pyro.module("baselines", self.baselines)
        values = x
        with pyro.plate("data", len(x)):
            for layer, baseline in enumerate(baselines):
                logits = net(f"encoder.{layer}", values)
                options = {"nn_baseline": baseline, "nn_baseline_input": logits.detach()}
                site = dist.Bernoulli(logits=logits).to_event(1)
                values = 2 * pyro.sample(f"h{layer + 1}", site, infer={"baseline": options}) - 1


class Contender:
    """SVI without validation, from new weights in each round; see `step_time.Contender`."""

    def __init__(self, workload: Workload, x: Any, seed: int) -> None:
        self._workload, self._x, self._seed = workload, torch.tensor(x), seed

    def run(self, warm: int, steps: int) -> tuple[float, float, float]:
        """(seconds before the first timed step, seconds per step, loss per row in nats)."""
        begin = perf_counter()
        pyro.clear_param_store()
        pyro.set_rng_seed(self._seed)
        batch = self._workload.batch
        with pyro.validation_enabled(False):
            program = (VAE if self._workload.name == "vae" else BeliefNet)(self._workload, self._seed)
            elbo = Trace_ELBO() if self._workload.name == "vae" else TraceGraph_ELBO()
            svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": LEARNING_RATE}), elbo)
            order, found, start = batches(len(self._x), batch, self._seed), [], begin
            for step in range(warm + steps):
                if step == warm:
                    start = perf_counter()
                found.append(svi.step(self._x[next(order)]))
            return start - begin, (perf_counter() - start) / steps, sum(found[warm:]) / steps / batch
