"""What people look at: pictures, and reports as one page, Markdown or JSON (no torch)."""
