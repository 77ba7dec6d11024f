"""Random numbers: one generator for each purpose, so that a new draw in one place changes no other."""

import hashlib

import torch


def derived_seed(seed: int, purpose: str) -> int:
    """Derive from `seed` the 63-bit seed for drawing numbers for `purpose`."""
    digest = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def global_generator(device: torch.device) -> torch.Generator:
    """Return the generator from which a network on `device` draws, as dropout does."""
    return torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator


def generator(seed: int, purpose: str) -> torch.Generator:
    """Return the CPU generator for `purpose` (initialization, order, split, ...)."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose))
