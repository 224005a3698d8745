"""EAPS, the score that methods are ranked by."""


def eaps(weighted_f1: float, emissions_kg: float) -> float | None:
    """Energy-adjusted performance score: weighted F1 per kilogram of CO2 equivalents (the study's definition).

    ``None`` where nothing was emitted or measured, since the ratio does not exist there.
    """
    return weighted_f1 / emissions_kg if emissions_kg > 0 else None
