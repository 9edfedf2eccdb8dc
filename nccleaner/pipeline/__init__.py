"""Composes the stages into commands; the only package that reads the configuration.

workspace   where everything is in a run directory, and what `run.json` says
backbones   the configured encoders, loaded when something must be encoded
extraction  shards → parts of the feature cache
labelled    trusted file → trusted pairs with their features
drawing     parts → which pairs are in the pool
pool        parts and trusted pairs → the tables that training sees
device      the same where the networks are
fitting     tables → trained networks and judges, by way of
  looking        what frozen features say before training
  training       the training as configured; `snapshots` of it, from which it goes on
  reconstructing, finetuning, pixels    what is off by default
  calibrating    trained networks → judges
scored      networks and judges → the scores of a shard
embedding   kept pairs → embeddings, for `export`
engines     shards → their results, here or, by `ray_engine`, `ray_pool`, `ray_actor`, on a cluster
fit, score, purge, search, export, evaluate, corrupt    the commands
results     what they give back; `reporter` hears of their progress
"""
