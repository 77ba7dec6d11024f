"""A learning rate that falls along half a cosine (Loshchilov and Hutter 2016, arXiv 1608.03983), after a linear warm-up."""

import math

from samebits.quantities import CountOrZero


def factor(step: int, num_steps: int, steps_per_epoch: int, *, warmup_num_epochs: CountOrZero = 0) -> float:
    """Return the share of the learning rate after `step` of `num_steps` steps: up to 1 in the warm-up, then down to 0."""
    num_warmup_steps = warmup_num_epochs * steps_per_epoch
    if step < num_warmup_steps:
        return (step + 1) / (num_warmup_steps + 1)
    progress = (step - num_warmup_steps) / (num_steps - num_warmup_steps)
    return (1 + math.cos(math.pi * progress)) / 2
