"""What is fitted: likelihoods, priors, networks and the count VAE (torch only, no AnnData)."""
