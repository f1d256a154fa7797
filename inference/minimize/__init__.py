"""Embeddings that no longer regurgitate."""
