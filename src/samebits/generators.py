"""Random numbers: one generator for each purpose, so that a new draw in one place changes no other."""

import hashlib

import torch


def derived_seed(seed: int, purpose: str) -> int:
    """Derive from `seed` the 63-bit seed for drawing numbers for `purpose`."""
    digest = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str) -> torch.Generator:
    """Return the CPU generator for `purpose` (initialization, order, split, ...)."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose))
