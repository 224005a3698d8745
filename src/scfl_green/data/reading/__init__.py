"""The cells of h5ad files, checked as they are read."""
