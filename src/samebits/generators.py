"""Random numbers: one generator for each purpose, so that a further draw in one place moves no other."""

import hashlib

import torch


def derived_seed(seed: int, purpose: str) -> int:
    """Return the 63-bit seed that `seed` stands for where numbers are drawn for `purpose`."""
    digest = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str) -> torch.Generator:
    """Return the CPU generator for `purpose` (initialization, order, split, ...)."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose))
