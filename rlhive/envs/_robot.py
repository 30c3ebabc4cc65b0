"""RoboHive's simulated robot, without its Python loop per sensor and per actuator: the same numbers, bit for bit.

RoboHive treats every joint on its own, several NumPy calls on a single number each; together that is a tenth of a
kitchen's step. Here a device is one array. Where a robot is anything but a plain simulated one (hardware, sensor
noise, no configuration), RoboHive's own code runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class _Device:
    """One entry of RoboHive's robot configuration, as arrays.

    Attributes:
        name: Of the device.
        config: RoboHive's own dictionary; the last readings are kept in it, as RoboHive does.
        sensors: Indices into the simulator's sensor data.
        low: Least reading of each sensor.
        high: Greatest reading of each sensor.
        targets: Where readings go back into the simulator: "qpos" or "qvel", which sensors, which addresses.
    """

    name: str
    config: dict[str, Any]
    sensors: np.ndarray
    low: np.ndarray
    high: np.ndarray
    targets: tuple[tuple[str, np.ndarray, np.ndarray], ...]

    @classmethod
    def of(cls, name: str, config: dict[str, Any]) -> "_Device":
        sensors = config["sensor"]
        kinds = [sensor["data_type"] for sensor in sensors]
        addresses = np.array([int(sensor["data_id"]) for sensor in sensors], np.intp)
        chosen = {kind: np.flatnonzero([other == kind for other in kinds]) for kind in dict.fromkeys(kinds)}
        return cls(
            name=name,
            config=config,
            sensors=np.array([int(sensor["sim_id"]) for sensor in sensors], np.intp),
            low=np.array([sensor["range"][0] for sensor in sensors], np.float64),
            high=np.array([sensor["range"][1] for sensor in sensors], np.float64),
            targets=tuple((kind, which, addresses[which]) for kind, which in chosen.items()),
        )


@dataclass(frozen=True)
class _Actuators:
    """The actuators of all devices, in RoboHive's order, as arrays."""

    controls: np.ndarray
    qpos: np.ndarray
    position: tuple[np.ndarray, np.ndarray]
    velocity: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, actuators: list[Mapping[str, Any]]) -> "_Actuators":
        def bounds(key: str) -> tuple[np.ndarray, np.ndarray]:
            return tuple(np.array([actuator[key][side] for actuator in actuators], np.float64) for side in (0, 1))

        return cls(
            controls=np.array([int(actuator["sim_id"]) for actuator in actuators], np.intp),
            qpos=np.array([int(actuator["data_id"]) for actuator in actuators], np.intp),
            position=bounds("pos_range"),
            velocity=bounds("vel_range"),
        )


def vectorise(robot: Any) -> None:
    """Replace three methods of a RoboHive robot by ones that treat all joints at once; a no-op where they do not fit.

    Args:
        robot: ``robohive.robot.robot.Robot``, configured. Its readings, controls and caches stay the same bit for bit.
    """
    config = robot.robot_config
    # Numbers that are no longer scalars would be rounded at another place under NumPy 2.
    if robot.is_hardware or "default_robot" in config or robot._act_mode not in ("pos", "vel"):
        return
    actuators = [actuator for device in config.values() for actuator in device["actuator"]]
    names = [int(actuator["sim_id"]) for actuator in actuators]
    if len(set(names)) != len(names) or any(actuator["data_type"] != "qpos" for actuator in actuators):
        return
    devices = [_Device.of(name, device) for name, device in config.items()]
    if actuators:
        robot.process_actuator = _actuator_processor(robot, _Actuators.of(actuators), robot.process_actuator)
    robot.get_sensors = _sensor_reader(robot, devices, robot.get_sensors)
    robot.sensor2sim = _sensor_writer(robot, devices, robot.sensor2sim)


def _sensor_reader(robot: Any, devices: list[_Device], original: Callable) -> Callable:
    data = robot.sim.data

    def get_sensors(noise_scale: float | None = None, random_generator: Any = None) -> dict[str, Any]:
        if noise_scale if noise_scale is not None else robot._noise_scale:
            return original(noise_scale, random_generator)
        readings = {"time": data.time}
        values = data.sensordata
        for device in devices:
            reading = values[device.sensors].clip(device.low, device.high)
            readings[device.name] = device.config["sensor_data"] = reading
            device.config["sensor_time"] = readings["time"]
        robot._sensor_cache.append(readings)
        return readings

    return get_sensors


def _sensor_writer(robot: Any, devices: list[_Device], original: Callable) -> Callable:
    def sensor2sim(sensor: Mapping[str, Any], sim: Any) -> None:
        if robot._noise_scale:
            original(sensor, sim)
            return
        data = sim.data
        data.time = sensor["time"]
        for device in devices:
            for kind, which, addresses in device.targets:
                getattr(data, kind)[addresses] = sensor[device.name][which]
        sim.forward()

    return sensor2sim


def _actuator_processor(robot: Any, actuators: _Actuators, original: Callable) -> Callable:
    data, moves = robot.sim.data, robot._act_mode == "vel"
    (lowest, highest), (slowest, fastest) = actuators.position, actuators.velocity
    low, high = actuators.velocity if moves else actuators.position
    middle, span = (high + low) / 2.0, high - low

    def process_actuator(
        controls: np.ndarray,
        step_duration: float,
        normalized: bool = True,
        position_limits: bool = True,
        velocity_limits: bool = True,
        out_space: str = "sim",
    ) -> np.ndarray:
        if out_space != "sim":
            return original(controls, step_duration, normalized, position_limits, velocity_limits, out_space)
        control = controls[actuators.controls].astype(np.float64)
        if normalized:
            control = middle + control * span / 2.0
        here = data.qpos[actuators.qpos]
        if moves:
            control = here + control * step_duration
        elif velocity_limits:
            control = here + ((control - here) / step_duration).clip(slowest, fastest) * step_duration
        if position_limits:
            control = control.clip(lowest, highest)
        processed = controls.copy()
        processed[actuators.controls] = control
        return processed

    return process_actuator
