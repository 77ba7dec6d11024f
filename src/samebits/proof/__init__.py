"""`samebits verify`: run a result once more, and compare it bit for bit with its record."""
