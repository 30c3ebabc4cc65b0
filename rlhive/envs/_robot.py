"""Vectorized methods for RoboHive's simulated robot, without a Python loop over joints; same results bit for bit.

RoboHive processes every joint with several NumPy calls on a single number, which takes a tenth of a kitchen's step.
Here each device is one array. RoboHive's own code runs for all other robots: hardware, sensor noise, no configuration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class _Device:
    """A device of RoboHive's robot configuration, with its sensors as arrays.

    Attributes:
        name: Name of the device.
        config: RoboHive's own dictionary of the device, in which RoboHive keeps the last readings.
        sensors: Indices into the simulator's sensor data.
        low: Smallest reading of each sensor.
        high: Largest reading of each sensor.
        targets: Destinations of the readings in the simulator: "qpos" or "qvel", indices of the sensors, addresses.
    """

    name: str
    config: dict[str, Any]
    sensors: np.ndarray
    low: np.ndarray
    high: np.ndarray
    targets: tuple[tuple[str, np.ndarray, np.ndarray], ...]

    @classmethod
    def from_config(cls, name: str, config: dict[str, Any]) -> "_Device":
        sensors = config["sensor"]
        kinds = [sensor["data_type"] for sensor in sensors]
        addresses = np.array([int(sensor["data_id"]) for sensor in sensors], np.intp)
        indices = {kind: np.flatnonzero([other == kind for other in kinds]) for kind in dict.fromkeys(kinds)}
        return cls(
            name=name,
            config=config,
            sensors=np.array([int(sensor["sim_id"]) for sensor in sensors], np.intp),
            low=np.array([sensor["range"][0] for sensor in sensors], np.float64),
            high=np.array([sensor["range"][1] for sensor in sensors], np.float64),
            targets=tuple((kind, index, addresses[index]) for kind, index in indices.items()),
        )


@dataclass(frozen=True)
class _Actuators:
    """The actuators of all devices as arrays, in RoboHive's order.

    Attributes:
        controls: Indices into the simulator's controls.
        qpos: Address of each actuator's joint in qpos.
        position: Smallest and largest position of each actuator.
        velocity: Smallest and largest velocity of each actuator.
    """

    controls: np.ndarray
    qpos: np.ndarray
    position: tuple[np.ndarray, np.ndarray]
    velocity: tuple[np.ndarray, np.ndarray]

    @classmethod
    def from_config(cls, actuators: list[Mapping[str, Any]]) -> "_Actuators":
        def bounds(key: str) -> tuple[np.ndarray, np.ndarray]:
            low, high = (np.array([actuator[key][side] for actuator in actuators], np.float64) for side in (0, 1))
            return low, high

        return cls(
            controls=np.array([int(actuator["sim_id"]) for actuator in actuators], np.intp),
            qpos=np.array([int(actuator["data_id"]) for actuator in actuators], np.intp),
            position=bounds("pos_range"),
            velocity=bounds("vel_range"),
        )


def vectorize_robot(robot: Any) -> None:
    """Replace three methods of a RoboHive robot by vectorized ones; leave a robot that they do not support unchanged.

    Args:
        robot: A configured ``robohive.robot.robot.Robot``. Its readings, controls and caches stay bit-identical.
    """
    config = robot.robot_config
    # Under NumPy 2, arrays would be rounded at another place than RoboHive's scalars.
    if robot.is_hardware or "default_robot" in config or robot._act_mode not in ("pos", "vel"):
        return
    actuators = [actuator for device in config.values() for actuator in device["actuator"]]
    indices = [int(actuator["sim_id"]) for actuator in actuators]
    if len(set(indices)) != len(indices) or any(actuator["data_type"] != "qpos" for actuator in actuators):
        return
    devices = [_Device.from_config(name, device) for name, device in config.items()]
    if actuators:
        robot.process_actuator = _vectorized_process_actuator(
            robot, _Actuators.from_config(actuators), robot.process_actuator
        )
    robot.get_sensors = _vectorized_get_sensors(robot, devices, robot.get_sensors)
    robot.sensor2sim = _vectorized_sensor2sim(robot, devices, robot.sensor2sim)


def _vectorized_get_sensors(robot: Any, devices: list[_Device], original: Callable[..., Any]) -> Callable[..., Any]:
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


def _vectorized_sensor2sim(robot: Any, devices: list[_Device], original: Callable[..., Any]) -> Callable[..., Any]:
    def sensor2sim(sensor: Mapping[str, Any], sim: Any) -> None:
        if robot._noise_scale:
            original(sensor, sim)
            return
        data = sim.data
        data.time = sensor["time"]
        for device in devices:
            for kind, index, addresses in device.targets:
                getattr(data, kind)[addresses] = sensor[device.name][index]
        sim.forward()

    return sensor2sim


def _vectorized_process_actuator(robot: Any, actuators: _Actuators, original: Callable[..., Any]) -> Callable[..., Any]:
    data = robot.sim.data
    is_velocity_mode = robot._act_mode == "vel"
    lowest, highest = actuators.position
    slowest, fastest = actuators.velocity
    low, high = actuators.velocity if is_velocity_mode else actuators.position
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
        position = data.qpos[actuators.qpos]
        if is_velocity_mode:
            control = position + control * step_duration
        elif velocity_limits:
            control = position + ((control - position) / step_duration).clip(slowest, fastest) * step_duration
        if position_limits:
            control = control.clip(lowest, highest)
        processed = controls.copy()
        processed[actuators.controls] = control
        return processed

    return process_actuator
