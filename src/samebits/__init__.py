"""samebits: a reproducible image-classification pipeline. The same commit gives the same bits."""
