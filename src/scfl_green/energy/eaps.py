"""EAPS, the score that ranks methods."""

# What transferring a gigabyte takes is not known to three digits: kWh per GB of fixed networks, beside the value that a
# run counts by (carbon.network_kwh_per_gb). Low: what one more adds to a network that is running anyway, by the power
# model (Malmodin 2020, "The power consumption of mobile and fixed network data services"; Mytton, Lundén and Malmodin
# 2024, J. Industrial Ecology 28:966). High: averages over all traffic some years ago, half of what Aslan et al. 2018
# (J. Industrial Ecology 22:785) give for 2015.
LOW_NETWORK_KWH_PER_GB, HIGH_NETWORK_KWH_PER_GB = 1e-4, 0.03


def eaps(weighted_f1: float, emissions_kg: float) -> float | None:
    """Energy-adjusted performance score: weighted F1 per kg of CO2 equivalents (as the published paper defines it).

    None if emissions are zero, where the ratio is undefined.
    """
    return weighted_f1 / emissions_kg if emissions_kg > 0 else None
