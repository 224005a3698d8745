"""Single-cell classifiers, trained centrally and federatedly, ranked by accuracy per kilogram of CO2."""

__version__ = "0.1.0"
