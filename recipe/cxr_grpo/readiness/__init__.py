"""What a run needs of its machine, model, data and rewards, looked at before anything is queued."""
