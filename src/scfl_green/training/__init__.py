"""The job: fits, validates and tests one model on one dataset, whatever the regime."""
