"""Built-in models, one per file: objects that `infer.fit` takes as the model.

They may import everything else of the package, and no framework.
"""

from ppl_gen.models.belief_graph import BeliefGraph
from ppl_gen.models.bidirectional_helmholtz_machine import BidirectionalHelmholtzMachine
from ppl_gen.models.helmholtz_machine import HelmholtzMachine
from ppl_gen.models.order_agnostic_nade import OrderAgnosticNADE
from ppl_gen.models.sigmoid_belief_net import SigmoidBeliefNet
from ppl_gen.models.stochastic_layers import Binary, Categories, Gaussian, StochasticLayers
from ppl_gen.models.vae import VAE

__all__ = [
    "VAE",
    "BeliefGraph",
    "BidirectionalHelmholtzMachine",
    "Binary",
    "Categories",
    "Gaussian",
    "HelmholtzMachine",
    "OrderAgnosticNADE",
    "SigmoidBeliefNet",
    "StochasticLayers",
]
