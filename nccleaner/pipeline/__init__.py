"""Composes the stages into commands; the only package that reads the configuration.

workspace   where everything is in a run directory, and what `run.json` says
backbones   the configured encoders, loaded when something must be encoded
extraction  shards → parts of the feature cache
pool        parts and trusted file → the tables that training sees
fitting     tables → trained networks and judges
fit, score, purge, search, evaluate, corrupt    the commands
"""
