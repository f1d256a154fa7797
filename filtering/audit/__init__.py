"""Offline audits of a dataset: scores per shard, a keep-list made of them, and clean shards."""
