"""What the README's tables are made with: each prints Markdown."""
