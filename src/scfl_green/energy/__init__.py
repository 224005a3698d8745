"""What training and transfer cost: the meter, its ledger, floating-point operations, EAPS."""
