"""A search: proposals, trials, and the confirmation of the winner on fresh seeds."""
