"""How a model is fitted: minibatches, the loop, its schedule and devices (torch only, no AnnData)."""
