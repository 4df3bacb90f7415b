"""Loops written by hand in torch: eager, Adam in one fused kernel."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from workloads import BASELINE_DECAY, BASELINE_UNITS, LEARNING_RATE, Workload, batches


class Net(torch.nn.Module):
    """The affine maps of a workload, each called by its name."""

    def __init__(self, workload: Workload, seed: int) -> None:
        super().__init__()
        first = workload.initial(seed)
        for name, inputs, outputs in workload.layers:
            layer = torch.nn.Linear(inputs, outputs)
            layer.weight.data = torch.tensor(first[f"{name}.weight"].T.copy())
            layer.bias.data = torch.tensor(first[f"{name}.bias"])
            self.add_module(name.replace(".", "_"), layer)
        if workload.name == "belief_net":
            self.top_bias = torch.nn.Parameter(torch.zeros(200))

    def forward(self, name: str, inputs: Tensor) -> Tensor:
        """The map of this name."""
        return self.get_submodule(name.replace(".", "_"))(inputs)


class Baseline(torch.nn.Module):
    """What `ppl_gen.estimators.Learned` computes: a network in units of the signal's running mean and spread."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.first = torch.nn.Linear(num_features, BASELINE_UNITS)
        self.second = torch.nn.Linear(BASELINE_UNITS, 1)
        for parameter in (self.first.bias, self.second.weight, self.second.bias):
            torch.nn.init.zeros_(parameter)
        torch.nn.init.normal_(self.first.weight, std=num_features**-0.5)
        self.mean = self.square = self.mass = torch.zeros(())

    def advantage(self, signal: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """(signal minus baseline, loss of the baseline); the running averages move on."""
        mass = torch.where(self.mass > 0, self.mass, 1.0)
        mean, variance = self.mean / mass, self.square / mass - (self.mean / mass) ** 2
        spread = torch.sqrt(torch.where(variance > 1e-8, variance, 1.0))
        output = self.second(torch.tanh(self.first(features)))[..., 0]
        new = (signal.mean(), (signal * signal).mean(), torch.ones(()))
        old = (self.mean, self.square, self.mass)
        self.mean, self.square, self.mass = (
            BASELINE_DECAY * a + (1 - BASELINE_DECAY) * b for a, b in zip(old, new, strict=True)
        )
        error = (signal - mean) / spread - output
        return signal - mean - spread * output.detach(), (error * error).mean()


def bits(logits: Tensor, values: Tensor) -> Tensor:
    """Log-probability of the bits of each row, shape (rows,)."""
    return -functional.binary_cross_entropy_with_logits(logits.expand_as(values), values, reduction="none").sum(-1)


def vae(net: Net, x: Tensor, baselines: Any) -> tuple[Tensor, Tensor]:
    """(surrogate, minus the bound in nats per row)."""
    hidden = functional.softplus(net("encoder.0", x))
    loc, scale = net("encoder.loc", hidden), functional.softplus(net("encoder.scale", hidden))
    noise = torch.randn_like(loc)
    z = loc + scale * noise
    log_prior_ratio = (-0.5 * z**2 + 0.5 * noise**2 + scale.log()).sum(-1)  # log p(z) - log q(z | x)
    bound = bits(net("decoder.1", functional.softplus(net("decoder.0", z))), x) + log_prior_ratio
    loss = -bound.mean()
    return loss, loss.detach()


def belief_net(net: Net, x: Tensor, baselines: list[Baseline]) -> tuple[Tensor, Tensor]:
    """(surrogate, minus the bound in nats per row); each layer's signal holds only what the layer moves."""
    logits1 = net("encoder.0", x)
    h1 = torch.bernoulli(torch.sigmoid(logits1.detach()))
    logits2 = net("encoder.1", 2 * h1 - 1)
    h2 = torch.bernoulli(torch.sigmoid(logits2.detach()))
    log_q1, log_q2 = bits(logits1, h1), bits(logits2, h2)
    log_x, log_h1 = bits(net("decoder.0", 2 * h1 - 1), x), bits(net("decoder.1", 2 * h2 - 1), h1)
    log_h2 = bits(net.top_bias, h2)
    upper = (log_h1 + log_h2 - log_q2).detach()
    total = (log_x + log_h1 + log_h2 - log_q1 - log_q2).detach()
    gap1, loss1 = baselines[0].advantage(total, logits1.detach())
    gap2, loss2 = baselines[1].advantage(upper, logits2.detach())
    surrogate = -(log_x + log_h1 + log_h2 + log_q1 * gap1 + log_q2 * gap2).mean()
    return surrogate + loss1 + loss2, -total.mean()


LOSSES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"vae": vae, "belief_net": belief_net}


class Contender:
    """The loop, from new weights in each round; see `step_time.Contender`."""

    def __init__(self, workload: Workload, x: Any, seed: int) -> None:
        self._workload, self._x, self._seed = workload, torch.tensor(x), seed

    def run(self, warm: int, steps: int) -> tuple[float, float, float]:
        """(seconds before the first timed step, seconds per step, loss per row in nats)."""
        begin = perf_counter()
        torch.manual_seed(self._seed)
        net, loss = Net(self._workload, self._seed), LOSSES[self._workload.name]
        baselines = [Baseline(200), Baseline(200)] if self._workload.name == "belief_net" else []
        parameters = [p for module in (net, *baselines) for p in module.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)
        order, found, start = batches(len(self._x), self._workload.batch, self._seed), [], begin
        for step in range(warm + steps):
            if step == warm:
                start = perf_counter()
            surrogate, value = loss(net, self._x[next(order)], baselines)
            optimizer.zero_grad()
            surrogate.backward()
            optimizer.step()
            found.append(value.item())
        return start - begin, (perf_counter() - start) / steps, sum(found[warm:]) / steps
