"""Turns the authors' checkpoints into ours, with a report of every key; nothing in a file is ever run."""
