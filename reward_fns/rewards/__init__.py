"""The built-in rewards, one file each; a file added here is found without being listed."""
