"""Fourteen model-guide pairs of Pyro's examples, in our own words and small sizes, as plain Pyro programs.

They have the structure of the pairs that Lee, Rival and Yang, "Smoothness Analysis for Probabilistic Programs with
Application to Optimised Variational Inference" (POPL 2023), analysed. Networks are built anew by each builder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import nn
from torch.nn import functional as F

Triple = tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]
ROWS = 4


def bits(*shape: int) -> Any:
    """Zeros and ones in turn."""
    return (torch.arange(torch.Size(shape).numel()) % 3 == 0).float().reshape(shape)


def net(*widths: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with activations between them."""
    layers: list[nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(before, after), act()]
    return nn.Sequential(*layers[:-1])


def learned(name: str, *shape: int, positive: bool = False) -> Any:
    """A parameter."""
    start = 0.3 + 0.1 * torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    return pyro.param(name, start, constraint=constraints.positive if positive else constraints.real)


# -- air: attend, infer, repeat ----------------------------------------

SIDE, WINDOW = 6, 3


def theta(where: Any) -> Any:
    """Scale and two shifts -> the matrix of an affine map, (rows, 2, 3)."""
    zero = torch.zeros_like(where[:, 0])
    first = torch.stack([where[:, 0], zero, where[:, 1]], -1)
    return torch.stack([first, torch.stack([zero, where[:, 0], where[:, 2]], -1)], 1)


def placed(where: Any, image: Any, side: int) -> Any:
    """An image read through the affine map of `where`, (rows, side, side)."""
    grid = F.affine_grid(theta(where), [len(image), 1, side, side], align_corners=False)
    return F.grid_sample(image[:, None], grid, align_corners=False)[:, 0]


def inverse(where: Any) -> Any:
    """The map that undoes it: one over the scale."""
    return torch.cat([torch.ones_like(where[:, :1]), -where[:, 1:]], 1) / where[:, :1]


def air() -> Triple:
    decode, encode = net(2, 5, WINDOW**2), net(WINDOW**2, 5, 4)
    cell, predict = nn.LSTMCell(SIDE**2 + 3 + 2 + 1, 6), net(6, 5, 7)

    def model(x: Any) -> None:
        pyro.module("decode", decode)
        with pyro.plate("data", len(x)):
            canvas, present = torch.zeros_like(x), torch.ones(len(x), 1)
            for t in range(2):
                present = pyro.sample(f"z_pres_{t}", dist.Bernoulli(0.4 * present).to_event(1))
                prior = dist.Normal(torch.tensor([2.0, 0.0, 0.0]).expand(len(x), 3), 0.3)
                where = pyro.sample(f"z_where_{t}", prior.mask(present).to_event(1))
                blank = dist.Normal(torch.zeros(len(x), 2), 1.0)
                what = pyro.sample(f"z_what_{t}", blank.mask(present).to_event(1))
                glimpse = torch.sigmoid(decode(what)).reshape(-1, WINDOW, WINDOW)
                canvas = canvas + placed(where, glimpse, SIDE) * present[:, :, None]
            pyro.sample("x", dist.Normal(canvas, 0.3).to_event(2), obs=x)

    def guide(x: Any) -> None:
        for name, module in (("encode", encode), ("cell", cell), ("predict", predict)):
            pyro.module(name, module)
        h, c = learned("h_init", 6).expand(len(x), -1), learned("c_init", 6).expand(len(x), -1)
        where, what = learned("z_where_init", 3).expand(len(x), -1), learned("z_what_init", 2).expand(len(x), -1)
        present = torch.ones(len(x), 1)
        with pyro.plate("data", len(x)):
            for t in range(2):
                h, c = cell(torch.cat([x.flatten(1), where, what, present], 1), (h, c))
                out = predict(h)
                chance = torch.sigmoid(out[:, :1]) * present
                present = pyro.sample(f"z_pres_{t}", dist.Bernoulli(chance).to_event(1))
                near = dist.Normal(out[:, 1:4] + torch.tensor([2.0, 0.0, 0.0]), F.softplus(out[:, 4:7]))
                where = pyro.sample(f"z_where_{t}", near.mask(present).to_event(1))
                code = encode(placed(inverse(where), x, WINDOW).flatten(1))
                inside = dist.Normal(code[:, :2], F.softplus(code[:, 2:]))
                what = pyro.sample(f"z_what_{t}", inside.mask(present).to_event(1))

    return model, guide, (bits(ROWS, SIDE, SIDE),)


# -- br: a regression ----------------------------------------


def br() -> Triple:
    def model(africa: Any, rugged: Any, gdp: Any) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 10.0))
        b_a, b_r, b_ar = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in ("bA", "bR", "bAR"))
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        with pyro.plate("data", len(gdp)):
            pyro.sample("x", dist.Normal(a + b_a * africa + b_r * rugged + b_ar * africa * rugged, sigma), obs=gdp)

    def guide(africa: Any, rugged: Any, gdp: Any) -> None:
        pyro.sample("a", dist.Normal(learned("a_loc"), learned("a_scale", positive=True)))
        loc, scale = learned("weights_loc", 3), learned("weights_scale", 3, positive=True)
        for i, name in enumerate(("bA", "bR", "bAR")):
            pyro.sample(name, dist.Normal(loc[i], scale[i]))
        # on (0, 10), as the prior; a normal would end outside, where there is no density
        onto = [dist.transforms.SigmoidTransform(), dist.transforms.AffineTransform(0.0, 10.0)]
        pyro.sample("sigma", dist.TransformedDistribution(dist.Normal(learned("sigma_loc"), 0.05), onto))

    return model, guide, (bits(5), torch.linspace(0.0, 2.0, 5), torch.linspace(-1.0, 1.0, 5))


# -- csis: a proposal for one latent ----------------------------------------


def csis() -> Triple:
    first = net(2, 10, 20, 10, 5, 2)

    def model(x1: Any, x2: Any) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 10.0))
        pyro.sample("x1", dist.Normal(z, 3.0), obs=x1)
        pyro.sample("x2", dist.Normal(z, 1.5), obs=x2)

    def guide(x1: Any, x2: Any) -> None:
        pyro.module("first", first)
        out = first(torch.stack([x1, x2]))
        pyro.sample("z", dist.Normal(out[0], out[1].exp()))

    return model, guide, (torch.tensor(1.3), torch.tensor(-0.4))


# -- dmm: a deep Markov model ----------------------------------------


def dmm() -> Triple:
    emit, gate, proposed = net(2, 5, 5, 6), net(2, 5, 2), net(2, 5, 2)
    sig, to_loc, rnn = nn.Linear(2, 2), nn.Linear(2, 2), nn.RNN(6, 4, nonlinearity="relu", batch_first=True)
    hidden, c_loc, c_scale = nn.Linear(2, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def model(x: Any, mask: Any) -> None:
        for name, module in (("emit", emit), ("gate", gate), ("proposed", proposed), ("sig", sig), ("loc", to_loc)):
            pyro.module(name, module)
        z = learned("start", 2).expand(len(x), 2)
        with pyro.plate("data", len(x)):
            for t in range(x.shape[1]):
                open_, mean = torch.sigmoid(gate(z)), proposed(z)
                loc, scale = (1 - open_) * to_loc(z) + open_ * mean, F.softplus(sig(F.relu(mean)))
                with poutine.mask(mask=mask[:, t]):
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, scale).to_event(1))
                    pyro.sample(f"x_{t}", dist.Bernoulli(torch.sigmoid(emit(z))).to_event(1), obs=x[:, t])

    def guide(x: Any, mask: Any) -> None:
        for name, module in (("rnn", rnn), ("hidden", hidden), ("c_loc", c_loc), ("c_scale", c_scale)):
            pyro.module(name, module)
        read = torch.flip(rnn(torch.flip(x, (1,)))[0], (1,))
        z = learned("start_q", 2).expand(len(x), 2)
        with pyro.plate("data", len(x)):
            for t in range(x.shape[1]):
                h = 0.5 * (torch.tanh(hidden(z)) + read[:, t])
                with poutine.mask(mask=mask[:, t]):
                    z = pyro.sample(f"z_{t}", dist.Normal(c_loc(h), F.softplus(c_scale(h))).to_event(1))

    return model, guide, (bits(ROWS, 3, 6), torch.arange(3) < torch.tensor([[3], [2], [3], [1]]))


# -- lda: topics ----------------------------------------


def lda() -> Triple:
    topics, vocabulary, length = 2, 5, 3
    predictor = nn.Sequential(net(vocabulary, 4, 4, topics, act=nn.Sigmoid), nn.Softmax(-1))

    def model(words: Any) -> None:
        with pyro.plate("topics", topics):
            weights = pyro.sample("topic_weights", dist.Gamma(1.0 / topics, 1.0))
            per_topic = pyro.sample("topic_words", dist.Dirichlet(torch.ones(vocabulary) / vocabulary))
        with pyro.plate("documents", words.shape[1]):
            mixture = pyro.sample("doc_topics", dist.Dirichlet(weights))
            with pyro.plate("words", length):
                topic = pyro.sample("word_topics", dist.Categorical(mixture), infer={"enumerate": "parallel"})
                pyro.sample("doc_words", dist.Categorical(per_topic[topic]), obs=words)

    def guide(words: Any) -> None:
        weights = learned("topic_weights_posterior", topics, positive=True)
        dirichlet = learned("topic_words_posterior", topics, vocabulary, positive=True)
        with pyro.plate("topics", topics):
            pyro.sample("topic_weights", dist.Gamma(weights, 1.0))
            pyro.sample("topic_words", dist.Dirichlet(dirichlet))
        pyro.module("predictor", predictor)
        counts = F.one_hot(words, vocabulary).float().sum(0)
        with pyro.plate("documents", words.shape[1]):
            pyro.sample("doc_topics", dist.Delta(predictor(counts), event_dim=1))

    return model, guide, (torch.tensor([[0, 1, 4], [2, 2, 3], [1, 0, 0]]),)


# -- sgdef: a sparse gamma deep exponential family ----------------------------------------


def sgdef() -> Triple:
    top, mid, bottom, width = 2, 3, 3, 4

    def model(x: Any) -> None:
        w = {}
        for name, shape in (("top", (top, mid)), ("mid", (mid, bottom)), ("bottom", (bottom, width))):
            w[name] = pyro.sample(f"w_{name}", dist.Gamma(torch.full(shape, 0.5), 0.3).to_event(2))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z_top", dist.Gamma(torch.full((top,), 0.5), 0.3).to_event(1))
            z = pyro.sample("z_mid", dist.Gamma(torch.full((mid,), 0.5), 0.5 / (z @ w["top"])).to_event(1))
            z = pyro.sample("z_bottom", dist.Gamma(torch.full((bottom,), 0.5), 0.5 / (z @ w["mid"])).to_event(1))
            pyro.sample("obs", dist.Poisson(z @ w["bottom"]).to_event(1), obs=x)

    def gamma(name: str, *shape: int) -> Any:
        alpha, mean = F.softplus(learned(f"log_alpha_{name}", *shape)), F.softplus(learned(f"log_mean_{name}", *shape))
        return dist.Gamma(alpha, alpha / mean)

    def guide(x: Any) -> None:
        for name, shape in (("top", (top, mid)), ("mid", (mid, bottom)), ("bottom", (bottom, width))):
            pyro.sample(f"w_{name}", gamma(f"w_q_{name}", *shape).to_event(2))
        with pyro.plate("data", len(x)):
            for name, size in (("top", top), ("mid", mid), ("bottom", bottom)):
                pyro.sample(f"z_{name}", gamma(f"z_q_{name}", len(x), size).to_event(1))

    return model, guide, (torch.arange(12.0).reshape(3, width) % 5,)


# -- vae, ssvae, cvae ----------------------------------------


def vae() -> Triple:
    decoder, encoder, outs = net(2, 5, 8, act=nn.Softplus), net(8, 5, act=nn.Softplus), nn.Linear(5, 4)

    def model(x: Any) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("latent", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("obs", dist.Bernoulli(torch.sigmoid(decoder(z))).to_event(1), obs=x)

    def guide(x: Any) -> None:
        pyro.module("encoder", encoder)
        pyro.module("outs", outs)
        out = outs(F.softplus(encoder(x)))
        with pyro.plate("data", len(x)):
            pyro.sample("latent", dist.Normal(out[:, :2], out[:, 2:].exp()).to_event(1))

    return model, guide, (bits(ROWS, 8),)


def ssvae() -> Triple:
    decoder = net(2 + 3, 6, 8, act=nn.Softplus)
    to_y, to_z = net(8, 6, 3, act=nn.Softplus), net(8 + 3, 6, 4, act=nn.Softplus)

    def model(x: Any) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(len(x), 3) / 3))
            pyro.sample("x", dist.Bernoulli(torch.sigmoid(decoder(torch.cat([z, y], -1)))).to_event(1), obs=x)

    def guide(x: Any) -> None:
        pyro.module("to_y", to_y)
        pyro.module("to_z", to_z)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(torch.softmax(to_y(x), -1)))
            out = to_z(torch.cat([x, y], -1))
            pyro.sample("z", dist.Normal(out[:, :2], out[:, 2:].exp()).to_event(1))

    return model, guide, (bits(ROWS, 8),)


def cvae() -> Triple:
    """A picture of which a part is seen; a first guess of the rest is the prior's input."""
    guess, prior, recognize, generate = net(4, 5, 8), net(12, 5, 4), net(12, 5, 4), net(2, 5, 8)

    def normal(out: Any) -> Any:
        return dist.Normal(out[:, :2], out[:, 2:].exp()).to_event(1)

    def model(seen: Any, whole: Any) -> None:
        for name, module in (("prior", prior), ("generate", generate)):
            pyro.module(name, module)
        with pyro.plate("data", len(seen)):
            first = torch.sigmoid(guess(seen)).detach()  # trained beforehand
            z = pyro.sample("z", normal(prior(torch.cat([seen, first], 1))))
            chance = torch.sigmoid(generate(z))[:, 4:]
            pyro.sample("y", dist.Bernoulli(chance).to_event(1), obs=whole[:, 4:])

    def guide(seen: Any, whole: Any) -> None:
        pyro.module("recognize", recognize)
        with pyro.plate("data", len(seen)):
            pyro.sample("z", normal(recognize(torch.cat([seen, whole], 1))))

    return model, guide, (bits(ROWS, 4), bits(ROWS, 8))


# -- spnor: a normal split by the sign of another ----------------------------------------


def spnor() -> Triple:
    def model(x: Any) -> None:
        z1 = pyro.sample("z1", dist.Normal(0.0, 5.0))
        z2 = pyro.sample("z2", dist.Normal(z1, 3.0))
        pyro.sample("x", dist.Normal(torch.where(z2 > 0, 1.0, -2.0), 1.0), obs=x)

    def guide(x: Any) -> None:
        pyro.sample("z1", dist.Normal(learned("theta1"), 1.0))
        pyro.sample("z2", dist.Normal(learned("theta2"), 1.0))

    return model, guide, (torch.tensor(0.7),)


# -- dpmm: a Dirichlet process mixture ----------------------------------------


def dpmm() -> Triple:
    parts = 3

    def model(x: Any) -> None:
        with pyro.plate("sticks", parts - 1):
            beta = pyro.sample("beta", dist.Beta(1.0, 1.1))
        with pyro.plate("components", parts):
            rate = pyro.sample("lambda", dist.Gamma(3.0, 0.05))
        left = F.pad((1 - beta).cumprod(-1), (1, 0), value=1.0)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(F.pad(beta, (0, 1), value=1.0) * left))
            pyro.sample("obs", dist.Poisson(rate[z]), obs=x)

    def guide(x: Any) -> None:
        kappa = learned("kappa", parts - 1, positive=True)
        tau_0, tau_1 = learned("tau_0", parts, positive=True), learned("tau_1", parts, positive=True)
        with pyro.plate("sticks", parts - 1):
            pyro.sample("beta", dist.Beta(torch.ones(parts - 1), kappa))
        with pyro.plate("components", parts):
            pyro.sample("lambda", dist.Gamma(tau_0, tau_1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(torch.softmax(learned("phi", len(x), parts), -1)))

    return model, guide, (torch.tensor([3.0, 0.0, 7.0, 2.0]),)


# -- scanvi: cells, some of which have a label ----------------------------------------


def normed(before: int, width: int, after: int) -> nn.Sequential:
    """Linear, batch normalization, ReLU, linear."""
    return nn.Sequential(nn.Linear(before, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, after))


def scanvi() -> Triple:
    genes, labels = 4, 2
    z2_decoder, x_decoder = normed(2 + labels, 5, 4), normed(2, 5, 2 * genes)
    z2l_encoder, z1_encoder, classifier = normed(genes, 5, 6), normed(2 + labels, 5, 4), normed(2, 5, labels)

    def halves(out: Any) -> tuple[Any, Any]:
        loc, scale = out.chunk(2, -1)
        return loc, F.softplus(scale) + 1e-3

    def model(x: Any) -> None:
        pyro.module("z2_decoder", z2_decoder)
        pyro.module("x_decoder", x_decoder)
        dispersion = 10 * learned("inverse_dispersion", genes, positive=True)
        with pyro.plate("batch", len(x)):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=torch.zeros(len(x), labels)))
            z2 = pyro.sample("z2", dist.Normal(*halves(z2_decoder(torch.cat([z1, y], -1)))).to_event(1))
            size = pyro.sample("l", dist.LogNormal(2.0 * torch.ones(len(x), 1), 0.5).to_event(1))
            gate, mean = x_decoder(z2).chunk(2, -1)
            logits = (size * torch.softmax(mean, -1) + 1e-6).log() - (dispersion + 1e-6).log()
            counts = dist.ZeroInflatedNegativeBinomial(gate_logits=gate, total_count=dispersion, logits=logits)
            pyro.sample("x", counts.to_event(1), obs=x)

    def guide(x: Any) -> None:
        for name, module in (("z2l_encoder", z2l_encoder), ("z1_encoder", z1_encoder), ("classifier", classifier)):
            pyro.module(name, module)
        with pyro.plate("batch", len(x)):
            out = z2l_encoder(torch.log(1 + x))
            z2 = pyro.sample("z2", dist.Normal(*halves(out[:, :4])).to_event(1))
            loc, scale = halves(out[:, 4:])
            pyro.sample("l", dist.LogNormal(loc, scale).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=classifier(z2)))
            pyro.sample("z1", dist.Normal(*halves(z1_encoder(torch.cat([z2, y], -1)))).to_event(1))

    return model, guide, (torch.arange(24.0).reshape(6, genes) % 7,)


# -- prodlda: topics by a logistic normal ----------------------------------------


def prodlda() -> Triple:
    words, topics = 5, 3
    beta, norm = nn.Linear(topics, words, bias=False), nn.BatchNorm1d(words, affine=False)
    encoder = nn.Sequential(net(words, 6, 6, act=nn.Softplus), nn.Softplus(), nn.Dropout(0.2))
    mu, log_var = nn.Linear(6, topics), nn.Linear(6, topics)

    def model(docs: Any) -> None:
        pyro.module("beta", beta)
        with pyro.plate("documents", len(docs)):
            log_theta = pyro.sample("logtheta", dist.Normal(torch.zeros(len(docs), topics), 1.0).to_event(1))
            chance = torch.softmax(norm(beta(torch.softmax(log_theta, -1))), -1)
            pyro.sample("obs", dist.Multinomial(int(docs.sum(-1).max()), chance), obs=docs)

    def guide(docs: Any) -> None:
        for name, module in (("encoder", encoder), ("mu", mu), ("log_var", log_var)):
            pyro.module(name, module)
        with pyro.plate("documents", len(docs)):
            h = encoder(docs)
            pyro.sample("logtheta", dist.Normal(mu(h), (0.5 * log_var(h)).exp()).to_event(1))

    return model, guide, (torch.tensor([[3.0, 1, 0, 2, 0], [0, 2, 2, 1, 1], [1, 1, 1, 1, 2], [0, 0, 4, 1, 1]]),)


# -- mhmm: a hidden Markov model with random effects ----------------------------------------


def mhmm() -> Triple:
    groups, individuals, steps, states = 2, 2, 3, 2

    def model(step: Any, angle: Any) -> None:
        concentration, rate = learned("step_concentration", states, positive=True), learned("step_rate", states)
        turn, loc = learned("angle_concentration", states, positive=True), learned("angle_loc", states)
        none = torch.sigmoid(learned("step_zi_param", states))
        gamma = learned("gamma", states, states)
        with pyro.plate("group", groups, dim=-1):
            eps_g = pyro.sample("eps_g", dist.Normal(torch.zeros(states, states), 1.0).to_event(2))
            y = torch.tensor(0)
            with pyro.plate("individual", individuals, dim=-2):
                eps_i = pyro.sample("eps_i", dist.Normal(torch.zeros(states, states), 1.0).to_event(2))
                moves = torch.softmax(gamma + eps_g + eps_i, -1)
                for t in pyro.markov(range(steps)):
                    chance = moves[..., 0, :] if t == 0 else following(moves, y)
                    y = pyro.sample(f"y_{t}", dist.Categorical(chance), infer={"enumerate": "parallel"})
                    walk = dist.Gamma(concentration[y], rate.exp()[y])
                    still = step[t] == 0
                    pyro.sample(f"step_zi_{t}", dist.Bernoulli(none[y]), obs=still.float())
                    with poutine.mask(mask=~still):
                        pyro.sample(f"step_{t}", walk, obs=step[t].clamp(min=1e-3))
                    pyro.sample(f"angle_{t}", dist.VonMises(loc[y], turn[y]), obs=angle[t])

    def following(moves: Any, y: Any) -> Any:
        """The row of the state before, (..., states)."""
        chosen = F.one_hot(y, states).float()
        return (chosen[..., :, None] * moves).sum(-2)

    def guide(step: Any, angle: Any) -> None:
        with pyro.plate("group", groups, dim=-1):
            own = learned("loc_group", groups, states, states), learned("scale_group", states, states, positive=True)
            pyro.sample("eps_g", dist.Normal(*own).to_event(2))
            with pyro.plate("individual", individuals, dim=-2):
                loc = learned("loc_individual", individuals, groups, states, states)
                scale = learned("scale_individual", states, states, positive=True)
                pyro.sample("eps_i", dist.Normal(loc, scale).to_event(2))

    shape = (steps, individuals, groups)
    return (
        model,
        guide,
        (bits(*shape) * 0 + (torch.arange(12.0).reshape(shape) % 4), torch.linspace(-1, 1, 12).reshape(shape)),
    )


PAIRS: dict[str, Callable[[], Triple]] = {
    pair.__name__: pair
    for pair in (air, br, csis, dmm, lda, sgdef, ssvae, vae, spnor, dpmm, cvae, scanvi, prodlda, mhmm)
}
