"""Person re-identification in JAX: five papers, one training loop, one evaluator."""

__version__ = "0.1.0"
