"""Chest X-ray rewards in verl's own GRPO trainer; the only package here that imports verl.

A file is a command, a folder is machinery.
"""
