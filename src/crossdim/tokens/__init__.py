"""From tensors to tokens: patch grids and position codes."""
