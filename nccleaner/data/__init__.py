"""Shards in, pairs and rejects out; the features of both; trusted pairs and planted noise."""
