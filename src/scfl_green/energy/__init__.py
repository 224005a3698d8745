"""The costs of training and transfer: energy meter, ledger, floating-point operations and EAPS."""
