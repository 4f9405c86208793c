"""The interaction penalty in several forms, for the other scripts to compare.

Each form takes a problem and returns the value of the penalty and its gradients with
respect to the codes and the decoder.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from sklearn_ccx._engine._settings import LossStrengths
from sklearn_ccx._engine._sparse_codes import SparseCodes
from sklearn_ccx._engine.losses import neuron_losses
from sklearn_ccx._engine.neurons import NONLINEARITIES, FrozenMLP

Form = Callable[["Problem"], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Shapes:
    batch: int = 256
    features: int = 1536
    sites: int = 17
    width: int = 768
    mlps: int = 4
    neurons: int = 3072
    k: int = 20


@dataclass(frozen=True)
class Problem:
    codes_BM: Tensor
    W_dec_MF: Tensor
    x_BF: Tensor
    mlps: list[FrozenMLP]

    @property
    def largest_k(self) -> int:
        """Active features of the sample with the most."""
        return int((self.codes_BM > 0).sum(dim=1).max())

    def __str__(self) -> str:
        n_active = int((self.codes_BM > 0).sum())
        n_samples, n_features = self.codes_BM.shape
        width, n_neurons = self.mlps[0].W_in_DN.shape
        return (
            f"{n_samples} samples, {n_features} features, "
            f"{self.W_dec_MF.shape[1] // width} sites of width {width}, "
            f"{len(self.mlps)} MLPs of {n_neurons} neurons,\n"
            f"{n_active / n_samples:g} features active on average and "
            f"{self.largest_k} at most; {torch.get_num_threads()} thread(s), float32"
        )


def parse_problem(
    parser: argparse.ArgumentParser, default: Shapes = Shapes()
) -> tuple[argparse.Namespace, Shapes]:
    """Add the options that describe a problem; parse all and set the threads."""
    for name, size in vars(default).items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--codes", choices=["batchtopk", "topk"], default="batchtopk")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options, Shapes(**{name: getattr(options, name) for name in vars(default)})


def random_problem(shapes: Shapes, codes: str = "batchtopk") -> Problem:
    """Gaussian weights, and codes that keep the largest of Gaussian pre-activations.

    "batchtopk" keeps those of the whole batch, as the estimators do by default, so
    that samples differ in how many they have; "topk" keeps k for each sample.
    """
    normal = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    pre_BM = normal(shapes.batch, shapes.features)
    if codes == "topk":
        least = pre_BM.topk(shapes.k, dim=1).values[:, -1:]
    else:
        least = pre_BM.flatten().topk(shapes.batch * shapes.k).values[-1]
    codes_BM = pre_BM * (pre_BM >= least)
    row_width = shapes.sites * shapes.width
    W_dec_MF = normal(shapes.features, row_width) / row_width**0.5
    mlps = []
    for index in range(shapes.mlps):
        W_in_DN = normal(shapes.width, shapes.neurons) / shapes.width**0.5
        W_out_NO = normal(shapes.neurons, shapes.width) / shapes.neurons**0.5
        mlps.append(
            FrozenMLP(
                site=index * shapes.sites // shapes.mlps,
                nonlinearity=NONLINEARITIES["gelu"],
                W_in_DN=W_in_DN,
                W_out_NO=W_out_NO,
                bias_N=normal(shapes.neurons) / 10,
                output_norm_N=W_out_NO.norm(dim=1),
                # The other forms leave out the Lipschitz constant of the bound.
                mass=NONLINEARITIES["gelu"].lipschitz,
            )
        )
    return Problem(
        codes_BM.requires_grad_(),
        W_dec_MF.requires_grad_(),
        normal(shapes.batch, row_width),
        mlps,
    )


def package(
    problem: Problem, kernels: str = "auto", lam_fidelity: float = 0.0
) -> tuple[Tensor, ...]:
    """The penalty as the estimators train on it."""
    os.environ["SKLEARN_CCX_KERNELS"] = kernels
    loss = neuron_losses(
        SparseCodes.from_dense(problem.codes_BM),
        problem.W_dec_MF,
        problem.x_BF,
        problem.mlps,
        LossStrengths(lam=1.0, lam_fidelity=lam_fidelity, n_dominant=1, aux_k=0),
    ).weighted
    return _with_gradients(loss, problem)


def textbook(problem: Problem) -> tuple[Tensor, ...]:
    """Autograd over all contributions, a tensor (blocks, batch, slots, neurons).

    Every sample has as many slots as the one with the most active features. The slots
    come before the neurons, so that gathering them copies whole rows.
    """
    codes_BS, features_BS = problem.codes_BM.topk(problem.largest_k, dim=1)
    M_LMN = torch.stack([mlp.neuron_inputs(problem.W_dec_MF) for mlp in problem.mlps])
    norm_LN = torch.stack([mlp.output_norm_N for mlp in problem.mlps])
    p_LBSN = codes_BS.unsqueeze(-1) * M_LMN[:, features_BS]
    magnitude_LBSN = p_LBSN.abs()
    others_LBN = magnitude_LBSN.sum(dim=2) - magnitude_LBSN.max(dim=2).values
    bound_LB = torch.einsum("lbn,ln->lb", others_LBN, norm_LN)
    return _with_gradients(bound_LB.mean(dim=1).sum(), problem)


def textbook_by_block(problem: Problem) -> tuple[Tensor, ...]:
    """The textbook form of one MLP after the other, gradients included."""
    totals = (
        torch.zeros(()),
        *map(torch.zeros_like, (problem.codes_BM, problem.W_dec_MF)),
    )
    for mlp in problem.mlps:
        parts = textbook(replace(problem, mlps=[mlp]))
        for total, part in zip(totals, parts, strict=True):
            total += part
    return totals


def _with_gradients(loss: Tensor, problem: Problem) -> tuple[Tensor, ...]:
    gradients = torch.autograd.grad(loss, (problem.codes_BM, problem.W_dec_MF))
    return loss.detach(), *gradients


FORMS: dict[str, Form] = {
    "numba": partial(package, kernels="numba"),
    "torch": partial(package, kernels="torch"),
    "textbook": textbook,
    "textbook, by block": textbook_by_block,
    "numba, with fidelity": partial(package, kernels="numba", lam_fidelity=1.0),
    "torch, with fidelity": partial(package, kernels="torch", lam_fidelity=1.0),
}
