"""What turns features into outputs and losses."""
