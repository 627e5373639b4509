"""Fit a model: the training loop, its schedule, devices, checkpoints (torch only, no AnnData)."""
