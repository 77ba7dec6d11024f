"""samebits: a reproducible image-classification pipeline. The same commit gives the same bits."""

import os

# OpenMP reads it when torch is imported. Threads that wait then leave the cores to others.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
