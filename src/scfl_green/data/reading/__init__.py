"""Reads the cells of h5ad files and checks them."""
