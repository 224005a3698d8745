"""Sources of h5ad files: this machine, this package, a download, a simulation."""
