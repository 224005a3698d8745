"""From files of counts to batches of features."""
