"""The largest positive numbers of several processes, without gathering them all."""

import torch
from torch import Tensor

from .._processes import Processes


def not_below(pre: Tensor, threshold: float | Tensor) -> Tensor:
    """Positions above the threshold, and those of NaN."""
    return (pre <= threshold).logical_not_().nonzero().squeeze(1)


def largest_together(
    pre: Tensor, n_own: int, n_kept: int, floor: float, processes: Processes
) -> tuple[Tensor, Tensor]:
    """Positions of this process's among the ``n_kept`` largest positive numbers of all.

    The last number that is kept lies between the least and the largest of those that
    the processes would keep last if each kept ``n_own`` alone. Of numbers in random
    order few lie there, and only those are gathered. Of equal numbers those of the
    first processes are kept. NaN counts as the largest.

    Parameters
    ----------
    pre : Tensor of shape (A,)
        The numbers of this process.
    n_own : int
        Its part of ``n_kept``, of which the parts are the sum; 0 if it has no numbers.
    n_kept : int
        How many to keep, fewer if fewer are positive.
    floor : float
        Below it no number is looked at unless too few are above.
    processes : Processes
        Those that take part.

    Returns
    -------
    positions : Tensor of shape (K,), int64
        What this process keeps.
    smallest : Tensor
        The smallest number that is kept by any process, infinite if none is.
    """
    positions, values = _above(pre, floor)
    if floor > 0 and len(values) < n_own:
        floor = 0.0
        positions, values = _above(pre, floor)
    lowest, highest = _range_of_last(values, n_own, processes)
    if floor > 0 and lowest <= floor:
        positions, values = _above(pre, 0.0)
    is_above = values > highest
    in_question = (values >= lowest) & ~is_above
    n_above, n_in_question = is_above.sum(), in_question.sum()
    counts_W2 = processes.gather(torch.stack([n_above, n_in_question])).cpu()
    n_wanted = n_kept - int(counts_W2[:, 0].sum())
    n_rivals, n_sent = int(counts_W2[:, 1].sum()), int(counts_W2[:, 1].max())
    n_sent = min(n_sent, n_wanted)

    sent = values.new_zeros(n_sent)
    own = values[in_question].topk(min(n_sent, int(n_in_question))).values
    sent[: len(own)] = own
    sent_WS = processes.gather(sent)
    rivals = sent_WS[sent_WS > 0]
    if n_rivals <= n_wanted:
        smallest = rivals.min() if n_rivals else rivals.new_tensor(torch.inf)
        return positions[is_above | in_question], smallest
    last = rivals.topk(n_wanted).values.min()
    # Of those equal to the last, each process keeps what the ones before it leave.
    n_left = n_wanted - (rivals > last).sum()
    n_before = (sent_WS[: processes.rank] == last).sum()
    tied = positions[values == last]
    n_tied = int((n_left - n_before).clamp(0, len(tied)))
    return torch.cat([positions[values > last], tied[:n_tied]]), last


def _above(pre: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Positions above a floor that is not negative, and their numbers."""
    positions = not_below(pre, floor)
    return positions, pre[positions].nan_to_num(nan=torch.inf, posinf=torch.inf)


def _range_of_last(
    values: Tensor, n_own: int, processes: Processes
) -> tuple[float, float]:
    """Between which numbers the last one lies that is kept."""
    ends = values.new_full((2,), -torch.inf)
    if n_own:
        is_enough = len(values) >= n_own
        last = values.topk(n_own).values.min() if is_enough else values.new_zeros(())
        ends = torch.stack([-last, last])
    minus_lowest, highest = processes.largest(ends).tolist()
    # If no process has so many positive ones, all of them are in question.
    return -minus_lowest, highest if highest > 0 else torch.inf
