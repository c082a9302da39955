"""Glue between chest X-ray rewards and verl's own GRPO trainer. The only package here that imports verl."""
