"""Retrieval and detection metrics: arrays in, numbers out."""
