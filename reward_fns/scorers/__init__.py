"""The models behind the neural rewards, and the weight files they need."""
