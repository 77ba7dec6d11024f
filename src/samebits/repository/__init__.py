"""All that speaks to git and DVC."""
