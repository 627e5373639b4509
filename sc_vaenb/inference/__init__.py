"""What is computed with a fitted model: arrays in, arrays out; one file for each function of `tl`, of its name."""
