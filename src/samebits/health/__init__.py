"""`samebits check`: whether a clone is healthy, and the remedy for each thing that is wrong."""
