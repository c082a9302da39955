"""The demo's films and its model: architecture, supervised training, and the checkpoint that comes with the package."""
