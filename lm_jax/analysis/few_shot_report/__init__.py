"""The report of `lm-jax evaluate`."""
