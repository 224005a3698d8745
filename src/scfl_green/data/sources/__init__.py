"""Where files come from: this machine, this package, a download, a simulator."""
