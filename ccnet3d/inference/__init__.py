"""Inference on videos."""
