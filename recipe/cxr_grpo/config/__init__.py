"""Hydra configs, each merged over one of verl's own. Hydra needs this folder to be a package."""
