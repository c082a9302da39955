"""Hydra configs; each is laid over one of verl's own. Hydra wants a package here."""
