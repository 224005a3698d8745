"""EAPS, the score that ranks methods."""


def eaps(weighted_f1: float, emissions_kg: float) -> float | None:
    """Energy-adjusted performance score: weighted F1 per kg of CO2 equivalents (as the published paper defines it).

    None if emissions are zero, where the ratio is undefined.
    """
    return weighted_f1 / emissions_kg if emissions_kg > 0 else None
