"""Throughput of an audit, and an audit of a model that copies."""
