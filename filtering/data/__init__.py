"""Where samples come from and how they are named: WebDataset shards, Hugging Face datasets, folders."""
