"""The distilled network: its definition, its training, its export and its shipped weights."""
