"""Probe Parity: prove that a probe trained with HuggingFace still works when vLLM serves it."""

__version__ = "0.1.0"
