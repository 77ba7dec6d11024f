"""A learning rate that falls in a straight line."""


def factor(step: int, num_steps: int, steps_per_epoch: int) -> float:
    """Return the share of the learning rate after `step` of `num_steps` steps: from 1 to 0."""
    return 1 - step / num_steps
