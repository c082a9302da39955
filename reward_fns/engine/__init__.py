"""The scoring engine: queues and batches for the neural rewards, in this process or in Ray Serve replicas."""
