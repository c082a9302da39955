"""The scoring engine: queues and batches for the neural rewards, in this process or in Ray Serve replicas."""

from reward_fns.calling import ask_deployment_with
from reward_fns.engine.remote import ask

ask_deployment_with(ask)
