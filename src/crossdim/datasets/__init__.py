"""Everything becomes a manifest: JSONL of paths, labels, patients and splits; what builds one, and what checks it."""
