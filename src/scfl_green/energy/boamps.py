"""A run's energy in the form of BoAmps, Boavizta's standard for reports of the energy of AI tasks."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from codecarbon.output_methods.boamps import BoAmpsAlgorithm, BoAmpsDataset, BoAmpsHeader, BoAmpsMeasure, BoAmpsTask
from codecarbon.output_methods.boamps.mapper import map_emissions_to_boamps

from scfl_green.energy.meter import EnergyMeter

BILLION = 1e9


def boamps(meter: EnergyMeter, record: Mapping[str, Any]) -> dict[str, Any]:
    """``boamps.json`` of a finished run with its record: energy of training as CodeCarbon measured it and the ledger
    shared it out, and of transfer as a measure of its own; no site, path or account is named.

    https://github.com/Boavizta/BoAmps/tree/main/model
    """
    emissions = replace(meter.emissions(), run_id=record["fingerprint"])
    environment = {"power_source_carbon_intensity": record["carbon_intensity_kg_per_kwh"] * 1e3}
    report = map_emissions_to_boamps(
        emissions, _task(record), BoAmpsHeader(report_status="final"), environment_overrides=environment
    )
    assert report.measures is not None
    assert report.environment is not None
    (training,) = report.measures
    # CodeCarbon's figures are those of the whole process, preparation and tests included.
    training.power_consumption, training.measurement_duration = record["energy_kwh"], record["seconds_fit"]
    training.average_utilization_cpu = training.average_utilization_gpu = training.measurement_date_time = None
    report.environment.latitude = report.environment.longitude = None
    method = f"bytes x {meter.network_kwh_per_gb:g} kWh/GB"
    report.measures.append(BoAmpsMeasure(measurement_method=method, power_consumption=record["transfer_kwh"]))
    return report.to_dict()


def _task(record: Mapping[str, Any]) -> BoAmpsTask:
    algorithm = BoAmpsAlgorithm(
        training_type="supervisedLearning",
        algorithm_type="neural network",
        algorithm_name=record["model"],
        parameters_number=record["parameters"] / BILLION,
        framework="pytorch",
        framework_version=record["versions"]["torch"],
        epochs_number=record["epochs"],
        quantization="fp32" if record["precision"] == "32-true" else record["precision"],
    )
    cells = BoAmpsDataset(
        data_usage="input",
        data_type="tabular",
        data_quantity=record["cells_train"],
        shape=f"({record['cells_train']}, {record['genes']})",
    )
    return BoAmpsTask(
        task_stage="finetuning" if record["regime"] == "finetune" else "training",
        task_family="tabular classification",
        algorithms=[algorithm],
        dataset=[cells],
        measured_accuracy=record["accuracy"],
        task_description=f"cell types of single cells, {record['regime']}",
    )
