"""``python -m ablate.equivalences``: which cells of a grid take the same step, before any is paid for."""
