"""What the dependency tracker sees of a torch program: which sources, whether smoothly, what escapes."""

from __future__ import annotations

import copy
import inspect
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack, handle_torch_function, has_torch_function_unary
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.checkpoint import checkpoint

from ppl_gen.backends.torch import operators
from ppl_gen.backends.torch.graph import Tracker

ACTIVATIONS = [
    *[
        nn.ReLU,
        nn.LeakyReLU,
        nn.ELU,
        nn.SELU,
        nn.CELU,
        nn.GELU,
        nn.SiLU,
        nn.Mish,
        nn.Softplus,
        nn.ReLU6,
        nn.PReLU,
    ],
    *[nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softshrink, nn.Softsign, nn.Tanhshrink, nn.LogSigmoid],
    *[nn.Sigmoid, nn.Tanh, nn.RReLU],
]


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


class Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, grad):
        return None


def sources():
    return {
        "z": torch.tensor([1.3, -0.6, 0.4]),
        "w": torch.tensor([0.2, 0.7, -1.1]),
        "k": torch.tensor(1),
    }


def follow(function, needs_grad=False):
    """Runs `function(**sources)` plain, then followed: its reach ("z!": through a jump) and the tracker."""
    names = inspect.signature(function).parameters
    values = {name: value for name, value in sources().items() if name in names}
    torch.manual_seed(0)
    plain = function(**{n: v.clone().requires_grad_(needs_grad and n != "k") for n, v in values.items()})
    torch.manual_seed(0)
    with Tracker() as tracker:
        marked = {n: tracker.source(n, v.requires_grad_(needs_grad and n != "k")) for n, v in values.items()}
        followed = function(**marked)
        reach = tracker.reach(followed)
    for mine, theirs in zip(_flat(followed), _flat(plain), strict=True):
        assert torch.equal(mine, theirs), "the tracker changed the result"
    return {name + "!" * bool(path.jump) for name, path in reach.items()}, tracker


def _flat(value):
    if isinstance(value, torch.Tensor):
        return [value.detach()]
    return [tensor for item in value for tensor in _flat(item)] if isinstance(value, (list, tuple)) else []


def seeded(module):
    torch.manual_seed(1)
    return module()


def write(target, index, value):
    target[index] = value
    return target


def write_through_a_view(z):
    b = torch.zeros(2, 3)
    b.view(6)[1:4].copy_(z)
    return b.T.sum()


def read_an_older_view(z):
    b = torch.zeros(3)
    view = b[1:]
    b.add_(z)
    return view


def write_detached(z):
    b = torch.zeros(3)
    b.detach().copy_(z)
    return b


def write_without_gradients(z):
    b = torch.zeros(3)
    with torch.no_grad():
        b.copy_(z)
    return b


def write_into_a_row(k, w):
    b = torch.zeros(2, 3)
    b[k].copy_(w)
    return b


def nearest(z):
    grid = z[:2].view(1, 1, 1, 2)
    return F.grid_sample(torch.ones(1, 1, 2, 2), grid, "nearest", align_corners=False)


def normalize_twice(z):
    layer = nn.BatchNorm1d(3)
    return layer(layer(torch.eye(3) * z))


def set_data(z):
    leaf = nn.Parameter(torch.zeros(3))
    leaf.data = z
    return leaf * 2


def without_gradients(z):
    with torch.no_grad():
        return z * 2


def inference(z):
    with torch.inference_mode():
        return F.linear(z, torch.ones(2, 3)).clone()


def write_result(z):
    b = torch.zeros(3)
    torch.exp(z, out=b)
    return b


def batch_statistics(z):
    layer = nn.BatchNorm1d(3)
    layer(torch.eye(3) * z)
    return layer.running_mean


SMOOTH = {
    "arithmetic": (lambda z, w: z * w + 1, {"z", "w"}),
    "one of two": (lambda z, w: (z + w, w)[1], {"w"}),
    "linear": (lambda z: F.linear(z, torch.ones(2, 3)), {"z"}),
    "einsum": (lambda z, w: torch.einsum("i,j->ij", z, w), {"z", "w"}),
    "stack and split": (lambda z, w: torch.stack([z, w]).chunk(3, 1), {"z", "w"}),
    "kinks": (lambda z, w: z.abs().clamp(0.1, 1).maximum(w) + F.huber_loss(z, w), {"z", "w"}),
    "reductions": (
        lambda z: (z.max(), z.min(0).values, z.median(), z.norm(), z.std(), z.logsumexp(0)),
        {"z"},
    ),
    "order statistics": (
        lambda z: (z.sort().values, z.topk(2).values, z.quantile(0.3), z.cummax(0).values),
        {"z"},
    ),
    "where, data": (lambda z, w: torch.where(torch.tensor([True, False, True]), z, w), {"z", "w"}),
    "gather, data": (lambda z: (z[torch.tensor([0, 2])], z.gather(0, torch.tensor([1]))), {"z"}),
    "embedding, weight": (lambda z: F.embedding(torch.tensor([0, 2]), z[:, None]), {"z"}),
    "shape only": (lambda z: (torch.zeros_like(z), torch.rand_like(z), z.new_full((2,), 3.0)), set()),
    "len and shape": (lambda z: torch.ones(len(z) + z.shape[0]), set()),
    "in place": (lambda z: write(torch.zeros(3), 1, z[0]).sum(), {"z"}),
    "in place, through views": (write_through_a_view, {"z"}),
    "in place, seen by an older view": (read_an_older_view, {"z"}),
    "in place, list operators": (lambda z, w: torch._foreach_add([z], [w]), {"z", "w"}),
    "linear algebra": (
        lambda z: torch.linalg.cholesky(torch.diag(z.exp())),
        {"z"},
    ),
    "cosine": (lambda z, w: F.cosine_similarity(z, w, 0), {"z", "w"}),
    "relu by its other name": (lambda z: F.threshold(z, 0.0, 0.0), {"z"}),
    "vmap": (lambda z, w: torch.vmap(lambda a, b: (a * b).exp(), (0, None))(z, w), {"z", "w"}),
    "vmap of grad": (lambda z: torch.vmap(torch.func.grad(lambda a: a**3))(z), {"z"}),
    "compiled": (lambda z: torch.compile(lambda a: a.exp() * 2, backend="eager")(z), {"z"}),
    "batch norm": (lambda z: nn.BatchNorm1d(3)(torch.eye(3) * z), {"z"}),
    "the same batch norm twice": (normalize_twice, {"z"}),
    "layer norm": (lambda z: nn.LayerNorm(3)(z), {"z"}),
    "dropout": (lambda z: nn.Dropout(0.5)(z), {"z"}),
    "gru": (lambda z, w: seeded(lambda: nn.GRUCell(3, 3))(z[None], w[None]), {"z", "w"}),
    "lstm": (lambda z: seeded(lambda: nn.LSTM(3, 2))(z[None, None])[0], {"z"}),
    "attention": (lambda z: seeded(lambda: nn.MultiheadAttention(3, 1))(*[z[None, None]] * 3)[0], {"z"}),
    "convolution, pooling": (lambda z: F.max_pool1d(seeded(lambda: nn.Conv1d(1, 2, 2))(z[None]), 2), {"z"}),
    "upsampling": (lambda z: F.interpolate(z[None, None], scale_factor=2.0, mode="linear"), {"z"}),
    "normal": (lambda z: dist.Normal(z, z.exp(), validate_args=True).to_event(1).base_dist.loc, {"z"}),
    "categorical": (lambda z: dist.Categorical(logits=z, validate_args=True).probs, {"z"}),
    "mvn": (lambda z: dist.MultivariateNormal(z, torch.diag(z.exp()), validate_args=True).scale_tril, {"z"}),
    "mixture": (
        lambda z, w: (
            dist.MixtureSameFamily(
                dist.Categorical(logits=z, validate_args=True),
                dist.Normal(w, 1.0, validate_args=True),
                validate_args=True,
            ).mean
        ),
        {"z", "w"},
    ),
    "density": (lambda z, w: dist.Normal(z, 1.0, validate_args=True).log_prob(w), {"z", "w"}),
    "draws": (lambda z: (dist.Gamma(z.exp(), 1.0).rsample(), dist.StudentT(3.0, z, 1.0).rsample()), {"z"}),
    "constraint": (lambda z: dist.transforms.StickBreakingTransform()(z), {"z"}),
} | {kind.__name__: (lambda z, kind=kind: nn.Sequential(kind(), nn.Linear(3, 2))(z), {"z"}) for kind in ACTIVATIONS}

JUMPS = {
    "comparison": (lambda z, w: (z > 0).float() * w, {"z!", "w"}),
    "where, condition": (lambda z, w: torch.where(z > 0, w, 0.0), {"z!", "w"}),
    "masked fill": (lambda z, w: w.masked_fill(z > 0, 0.0), {"z!", "w"}),
    "cast to integer": (lambda z: z.long().float(), {"z!"}),
    "argmax": (lambda z: F.one_hot(z.argmax(), 3), {"z!"}),
    "sort, indices": (lambda z, w: w[z.sort().indices], {"z!", "w"}),
    "topk, indices": (lambda z, w: w.index_select(0, z.topk(1).indices), {"z!", "w"}),
    "max, indices": (lambda z, w: w.gather(0, z.max(0).indices[None]), {"z!", "w"}),
    "scatter, index": (lambda z, w: torch.zeros(3).scatter(0, z.argsort(), w), {"z!", "w"}),
    "embedding, index": (lambda k, w: F.embedding(k, w[:, None]), {"k!", "w"}),
    "a 0-d index": (lambda k, w: w[k], {"k!", "w"}),
    "a 0-d index among others": (lambda k, w: (w[None][:, k], w[None][..., k]), {"k!", "w"}),
    "a 0-d index of a constant": (lambda k: torch.arange(6.0).view(2, 3)[k, 1:], {"k!"}),
    "a 0-d index, written": (lambda k, w: write(torch.zeros(2, 3), (0, k), w[0]), {"k!", "w"}),
    "a 0-d index, a number written": (lambda k: write(torch.zeros(3), k, 1.0), {"k!"}),
    "the logarithm of a determinant": (lambda z: torch.logdet(torch.diag(z.exp())), {"z!"}),
    "a view by index, written": (write_into_a_row, {"k!", "w"}),
    "nearest neighbour": (nearest, {"z!"}),
    "counting norm": (lambda z: z.norm(0), {"z!"}),
    "division rounded": (lambda z: torch.div(z, 0.3, rounding_mode="floor"), {"z!"}),
    "draw without gradient": (lambda z: torch.bernoulli(z.sigmoid()), {"z!"}),
    "straight-through": (lambda z: F.gumbel_softmax(z, hard=True), {"z!"}),
    "detach": (lambda z, w: z.detach() + w, {"z!", "w"}),
    "detach, spelled otherwise": (lambda z: torch.detach(z), {"z!"}),
    "detach in place": (lambda z: (z * 2).detach_(), {"z!"}),
    "data": (lambda z: z.data * 2, {"z!"}),
    "data of another": (set_data, {"z!"}),
    "parameter of a value": (lambda z: nn.Parameter(z) * 2, {"z!"}),
    "deep copy": (lambda z: copy.deepcopy(z) * 2, {"z!"}),
    "no_grad": (without_gradients, {"z!"}),
    "inference_mode": (inference, {"z!"}),
    "out=": (write_result, {"z!"}),
    "written through a detached alias": (write_detached, {"z!"}),
    "written under no_grad": (write_without_gradients, {"z!"}),
    "running statistics": (batch_statistics, {"z!"}),
    "vmap of detach": (lambda z: torch.vmap(lambda a: a.detach() * 2)(z), {"z!"}),
    "vmap of an index": (lambda z, w: torch.vmap(lambda i: w[i])(z.argsort()), {"z!", "w"}),
    "autograd.Function": (lambda z: Double.apply(z), {"z!"}),
    "autograd.Function, identity": (lambda z: Identity.apply(z), {"z!"}),
    "linspace": (lambda z: torch.linspace(z[0], 2.0, 3), {"z!"}),
    "no derivative": (lambda z: torch.special.bessel_j0(z), {"z!"}),
} | {
    name: (lambda z, name=name: getattr(torch, name)(z), {"z!"})
    for name in ["floor", "ceil", "round", "trunc", "sign", "sgn", "frac", "angle"]
} | {
    name: (lambda z, name=name: getattr(torch, name)(z, torch.ones(3)), {"z!"})
    for name in ["fmod", "remainder", "heaviside", "floor_divide", "atan2", "copysign", "eq"]
} | {"hardshrink": (F.hardshrink, {"z!"})}  # fmt: skip


@pytest.mark.parametrize("needs_grad", [False, True])
@pytest.mark.parametrize("name", [*SMOOTH, *JUMPS])
def test_reach(name, needs_grad):
    if needs_grad and name == "out=":
        pytest.skip("torch refuses it")
    function, expected = (SMOOTH | JUMPS)[name]
    if name == "hardshrink":
        function = lambda z: F.hardshrink(z)  # noqa: E731
    reach, tracker = follow(function, needs_grad)
    assert reach == expected
    assert tracker.escapes == []


def branch(k, z):
    return torch.ones(1) if k > 0 else z


def loop(k):
    total = torch.zeros(())
    for _ in range(int(k)):
        total = total + 1
    return total


def numpy_round_trip(z):
    return torch.from_numpy(np.exp(z.numpy()))


def memory_shared_with_numpy_before(z):
    b = torch.zeros(3)
    array = b.numpy()
    b.copy_(z)
    return torch.tensor(float(array[0]))


def memory_of_a_numpy_array(z):
    array = np.zeros(3, np.float32)
    torch.from_numpy(array).copy_(z)
    return torch.tensor(float(array[0]))


def memory_shared_by_dlpack(z):
    b = torch.zeros(3)
    array = np.from_dlpack(b)
    b.copy_(z)
    return torch.tensor(float(array[0]))


class InNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(np.exp(x.numpy()))


ESCAPES = {
    "item": (lambda k: torch.full((1,), k.item()), "k"),
    "float": (lambda z: torch.full((1,), float(z[0])), "z"),
    "index of a list": (lambda k: torch.ones([2, 3][k]), "k"),
    "math": (lambda z: torch.full((1,), math.exp(z[0])), "z"),
    "complex": (lambda z: torch.full((1,), complex(z[0]).real), "z"),
    "branch": (branch, "k"),
    "loop": (loop, "k"),
    "size": (lambda k: torch.zeros(k), "k"),
    "slice": (lambda k, z: torch.ones(3)[k:], "k"),
    "slice and index": (lambda k: torch.ones(3, 3)[k, k:], "k"),
    "tolist": (lambda z: torch.full((1,), z.tolist()[0]), "z"),
    "numpy": (numpy_round_trip, "z"),
    "asarray": (lambda z: torch.full((1,), float(np.asarray(z)[0])), "z"),
    "numpy copy": (lambda z: torch.full((1,), float(np.array([*z])[0])), "z"),
    "dlpack": (lambda z: torch.full((1,), float(np.from_dlpack(z)[0])), "z"),
    "memory shared with numpy": (memory_shared_with_numpy_before, "z"),
    "memory of a numpy array": (memory_of_a_numpy_array, "z"),
    "memory shared by dlpack": (memory_shared_by_dlpack, "z"),
    "storage": (lambda z: torch.full((1,), z.untyped_storage()[0]), "z"),
    "list of numbers": (lambda z: torch.tensor([z[0], z[1]]), "z"),
    "legacy constructor": (lambda z: torch.FloatTensor([z[0]]), "z"),
    "classes of one_hot": (lambda k: F.one_hot(k), "k"),
    "equal": (lambda z, w: torch.ones(1 + torch.equal(z, w)), "zw"),
    "allclose": (lambda z, w: torch.ones(1 + torch.allclose(z, w)), "zw"),
    "contains": (lambda z: torch.ones(1 + (0.4 in z)), "z"),
    "format of a number": (lambda z: torch.ones(len(f"{z[0]:.2f}")), "z"),
    "shape of a mask": (lambda z, w: torch.ones(len(w[z > 0])), "z"),
    "shape of masked_select": (lambda z, w: torch.ones(len(w.masked_select(z > 0))), "z"),
    "shape of nonzero": (lambda z: torch.ones(len(z.relu().nonzero())), "z"),
    "shape of unique": (lambda z: torch.ones(len(z.unique())), "z"),
    "a user's check": (lambda z: torch.ones(1) if (z < 9).all() else torch.zeros(1), "z"),
    "numpy in a Function": (lambda z: InNumpy.apply(z), "z"),
    "float of a distribution": (lambda z: torch.full((1,), float(dist.Normal(z, 1.0).mean[0])), "z"),
}


@pytest.mark.parametrize("name", ESCAPES)
def test_an_escape_reaches_all_that_comes_after(name):
    function, expected = ESCAPES[name]
    reach, tracker = follow(function)
    assert frozenset().union(*(labels for labels, _ in tracker.escapes)) == set(expected)
    assert {label + "!" for label in expected} <= reach
    assert {*tracker.reach(torch.ones(1))} == set(expected)
    assert all(path.jump for path in tracker.reach(torch.ones(1)).values())


def test_reach_before_an_escape_is_not_widened():
    with Tracker() as tracker:
        z = tracker.source("z", torch.ones(()))
        assert tracker.reach(torch.ones(1)) == {}
        bool(z)
        assert tracker.reach(torch.ones(1)).keys() == {"z"}


def test_printing_is_no_escape(capsys):
    _, tracker = follow(lambda z: print(z, repr(z), f"{z}"))
    assert tracker.escapes == []
    assert capsys.readouterr().out


def test_validation_is_no_escape_but_still_raises():
    def program(z, w):
        prior = dist.Uniform(z - 3, z + 3, validate_args=True)
        cat = dist.Categorical(logits=w, validate_args=True)
        tril = dist.LKJCholesky(3, z[0].exp(), validate_args=True)
        return prior.low, cat.logits, tril.concentration, dist.Beta(w.exp(), 1.0, validate_args=True).mean

    reach, tracker = follow(program)
    assert reach == {"z", "w"} and tracker.escapes == []
    with pytest.raises(ValueError, match="scale"), Tracker() as tracker:
        dist.Normal(0.0, tracker.source("z", torch.tensor(-1.0)), validate_args=True)


@pytest.mark.filterwarnings("ignore:`torch.jit.script. is deprecated:DeprecationWarning")
def test_torchscript_is_followed_at_every_call():
    @torch.jit.script
    def program(x, y):
        return x.exp() * y.detach(), y * y

    def reach(needs_grad=True):
        with Tracker() as tracker:
            z, w = (tracker.source(name, sources()[name].requires_grad_(needs_grad)) for name in "zw")
            return [{n: bool(p.jump) for n, p in tracker.reach(y).items()} for y in program(z, w)]

    assert reach(False) == [{"z": False, "w": True}, {"w": False}]
    for _ in range(3):
        assert reach() == [{"z": False, "w": True}, {"w": False}]
    for _ in range(3):  # has torch replace it by an optimised graph, which runs on detached tensors
        program(*(sources()[name].requires_grad_() for name in "zw"))
    assert [mine.keys() for mine in reach()] == [{"z", "w"}, {"w"}]


@pytest.mark.filterwarnings("ignore:`torch.jit.script. is deprecated:DeprecationWarning")
def test_a_branch_in_torchscript_escapes():
    @torch.jit.script
    def program(x):
        return torch.ones(1) if bool(x.sum() > 0) else torch.zeros(1)

    reach, tracker = follow(lambda z: program(z))
    assert reach == {"z!"} and tracker.escapes


@pytest.mark.parametrize(("reentrant", "expected"), [(False, {"z"}), (True, {"z!"})])
def test_checkpoint(reentrant, expected):
    """The reentrant kind is an autograd.Function: suspected, never missed."""
    assert follow(lambda z: checkpoint(torch.exp, z, use_reentrant=reentrant), True)[0] == expected


def test_cond_is_opaque_and_works_afterwards():
    def program(z):
        return torch.cond(z.sum() > 0, lambda a: a * 2, lambda a: a + 1, (z,))

    # torch's compiler, once at work, switches checks off
    with pyro.settings.context(validate_distributions_torch=True):
        assert follow(program)[0] == {"z!"}
        assert torch.equal(program(torch.ones(3)), 2 * torch.ones(3))


def test_a_detach_inside_an_overridable_function_is_seen():
    def hidden(x):
        if has_torch_function_unary(x):
            return handle_torch_function(hidden, (x,), x)
        return x.detach() * 2

    assert follow(lambda z: hidden(z))[0] == {"z!"}


def test_a_gradient_lost_unseen_is_a_jump_all_the_same(monkeypatch):
    monkeypatch.setattr(operators, "STEPS", frozenset())
    assert follow(lambda z: torch.linspace(z[0], 2.0, 3) * 2, True)[0] == {"z!"}


def test_gradients_inside_the_program():
    def smooth(z):
        return torch.autograd.grad((z.exp() + z**3).sum(), z, create_graph=True)[0]

    def stopped(z):
        return torch.autograd.grad((z**3).sum(), z)[0]

    assert follow(smooth, True)[0] == {"z"}
    assert follow(stopped, True)[0] == {"z!"}


def test_a_module_is_followed_through_its_own_parameters():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with Tracker() as tracker:
        for name, leaf in net.named_parameters():
            assert tracker.source(name, leaf) is leaf
        hidden = net[0](torch.ones(3))
        assert tracker.reach(hidden).keys() == {"0.weight", "0.bias"}
        reach = tracker.reach({"out": [net[2](hidden)]}, 3.0)
    assert reach.keys() == {name for name, _ in net.named_parameters()}
    assert not any(path.jump for path in reach.values())


def test_a_custom_operator_is_opaque():
    @torch.library.custom_op("ppl_gen_tests::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(2 * x.numpy())

    assert follow(lambda z: twice(z))[0] == {"z!"}


def test_a_value_marked_again_carries_only_its_new_name():
    with Tracker() as tracker:
        w = tracker.source("w", torch.ones(3))
        drawn = dist.Gamma(w, 1.0).rsample()
        z = tracker.source("z", drawn)
        assert tracker.reach(z).keys() == {"z"}
        assert tracker.reach(drawn).keys() == {"w"}
        assert tracker.reach(z * 2).keys() == {"z"}
        buffer = torch.zeros(3).copy_(w)
        assert tracker.reach(tracker.source("b", buffer)).keys() == {"b"}
        assert tracker.source("z", z) is z


def test_a_jump_and_an_escape_name_the_line_that_did_it():
    def program(z):
        y = torch.where(z > 0, 1.0, 2.0)
        return y, z[0].item()

    with Tracker() as tracker:
        program(tracker.source("z", torch.ones(3)))
        line = program.__code__.co_firstlineno + 1
        assert tracker.escapes == [(frozenset("z"), f"test_graph_torch.py:{line + 1}: Tensor.item")]
    with Tracker() as tracker:
        z = tracker.source("z", torch.ones(3))
        assert tracker.reach(program(z)[0])["z"].jump == f"test_graph_torch.py:{line}: gt"


def test_the_line_is_the_users_also_inside_pyro():
    def program(z):
        return dist.Normal(0.0, 1.0).expand([3]).icdf(z.sigmoid()), dist.LogNormal(z, 1.0).sample()

    with Tracker() as tracker:
        smooth, drawn = program(tracker.source("z", torch.ones(3)))
        assert tracker.reach(smooth)["z"].jump is None
        line = program.__code__.co_firstlineno + 1
        assert f"test_graph_torch.py:{line}: " in str(tracker.reach(drawn)["z"].jump)


DRAWS = [
    lambda z: dist.Bernoulli(logits=z),
    lambda z: dist.Categorical(logits=z),
    lambda z: dist.OneHotCategorical(logits=z),
    lambda z: dist.Multinomial(4, logits=z),
    lambda z: dist.Binomial(4, logits=z),
    lambda z: dist.Poisson(z.exp()),
    lambda z: dist.Geometric(logits=z),
    lambda z: dist.NegativeBinomial(4.0, logits=z),
    lambda z: dist.Normal(z, 1.0),
    lambda z: dist.Gamma(z.exp(), 1.0),
    lambda z: dist.Beta(z.exp(), 1.0),
    lambda z: dist.Dirichlet(z.exp()),
    lambda z: dist.VonMises(z, 1.0),
    lambda z: dist.Uniform(z, z + 1),
    lambda z: dist.StudentT(3.0, z, 1.0),
    lambda z: dist.LKJCholesky(3, z[0].exp()),
    lambda z: dist.MultivariateNormal(z, torch.eye(3)),
    lambda z: dist.LogNormal(z, 1.0),
    lambda z: dist.ZeroInflatedPoisson(z.exp(), gate=torch.tensor(0.3)),
    lambda z: dist.RelaxedOneHotCategorical(torch.tensor(0.5), logits=z),
    lambda z: dist.MixtureSameFamily(dist.Categorical(logits=z), dist.Normal(z, 1.0)),
]


@pytest.mark.parametrize("family", DRAWS)
def test_drawing_and_scoring_a_value_is_no_escape(family):
    def program(z):
        prior = family(z)
        value = prior(torch.Size())
        return prior._validate_sample(value), value

    reach, tracker = follow(program)
    assert reach <= {"z", "z!"} and reach
    assert tracker.escapes == []


@pytest.mark.parametrize("error", [None, ValueError])
def test_no_mode_is_left_behind(error):
    before = _get_current_function_mode_stack(), _get_current_dispatch_mode_stack()
    optimised = torch._C._get_graph_executor_optimize()
    try:
        with Tracker() as tracker:
            z = tracker.source("z", torch.ones(3))
            if error:
                torch.vmap(lambda a: z.exp().reshape(7))(z)
                raise error
    except (ValueError, RuntimeError):
        pass
    assert (_get_current_function_mode_stack(), _get_current_dispatch_mode_stack()) == before
    assert torch._C._get_graph_executor_optimize() == optimised
    z.exp()
    assert tracker.reach(z.exp()) == {}


def test_gradients_are_what_they_are_without_the_tracker():
    def gradient(tracker):
        torch.manual_seed(0)
        net, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1)), torch.ones(3)
        if tracker:
            with tracker:
                for name, leaf in net.named_parameters():
                    tracker.source(name, leaf)
                loss = net(x).sum()
        else:
            loss = net(x).sum()
        loss.backward()
        return [leaf.grad for leaf in net.parameters()]

    assert all(map(torch.equal, gradient(Tracker()), gradient(None)))
