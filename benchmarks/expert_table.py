"""Measure the scripted experts and write docs/experts.md: ``python benchmarks/expert_table.py``.

The success rates are measured by rlhive.rollouts on the evaluation seeds, on which no expert was tuned. ``--only``
measures the named environments and keeps the other rows of the table; ``--levels`` does the same for columns.
"""

import argparse
import json
import time
from pathlib import Path

from rlhive.envs._references import read_expert_rows
from rlhive.rollouts._evaluate import Evaluation, evaluate, resolve_task

RESULTS = Path(__file__).parent / "results" / "expert_table.json"
PAGE = Path(__file__).parents[1] / "docs" / "experts.md"

KITCHEN = [
    f"FK1_{task}Random-v4"
    for task in (
        *(f"Knob{number}{way}" for number in (1, 2, 3, 4) for way in ("On", "Off")),
        *("LightOn", "LightOff", "SdoorOpen", "SdoorClose", "LdoorOpen", "LdoorClose", "RdoorOpen", "RdoorClose"),
        *("MicroOpen", "MicroClose", "Stove1Kettle", "Stove4Kettle"),
    )
]
FRANKA = [f"franka_{what}_{way}-v3" for what in ("slide", "micro") for way in ("open", "close", "random")]
#: Kitchens with several goals, named after their tasks: their environment id alone names none of the goals.
SEQUENCES = ["kitchen_sequence2", "kitchen_sequence4"]
LEVELS = ["expert", "medium", "random"]
OTHERS = [
    "rpFrankaRobotiqPoseRandom-v0",
    "myoElbowPose1D6MRandom-v0",
    "myoFingerPoseRandom-v0",
    "myoHandReachRandom-v0",
]
TABLETOP = ["FrankaReachRandom-v0", "FrankaPushRandom-v0", "FrankaPickPlaceRandom-v0"]

HEAD = """# The scripted experts

An episode counts as solved if the task was solved after any of its steps. The interval is the 95 % Wilson interval. The
seeds are the evaluation seeds, from 1 000 000 on, on which no expert was tuned. `python benchmarks/expert_table.py`
measures the table. The CPU time is that of a whole episode of the expert: planning, acting and simulating.
`python -m rlhive.envs.experts ENV_ID` tunes an expert again.

A dash marks a task without a scripted expert, whose random policy is available, or one that is still to be measured.
The franka_*_random tasks draw start and goal at random: within their tolerances, 28 % (slide) and 44 % (microwave) of
the episodes are solved at the start.

Reasons for low success rates and for missing tasks:

- The left door has no expert. The distance from the shoulder to its handle is 1.01 m on average and 0.95 m to the
  handle's lower end; the edge of an open door is as far away. In 40 000 sampled postures, the point between the fingers
  was never farther than 0.95 m from the shoulder. Most of the robot's start positions are too far away.
- Moving the kettle to the first burner fails if no drawn grasp has a way to the goal; the arm then stands still.
- Closing the kitchen's microwave. The free edge of its open door is at the limit of the arm's reach. In failed episodes
  the fingers push the door farther open on their way around that edge, and close without a contact.
- Kitchens with several goals (docs/tasks.md). The arm backs out of an object along its approach before the next expert
  begins. Opening the microwave first always fails, since the hand stays inside the handle; kettles rarely work after
  another object. Both are left out.
- The pose of the Franka arm with a Robotiq gripper is drawn without regard to collisions and to the time that it takes.
- Myo. Muscles only pull, and some span several joints: in failed episodes the joints come to rest beside the pose. The
  elbow starts at random and random actions pass most angles: the return tells random from expert, the success does not.
  The hand's reach ends when the fingertips are far from their targets after two steps (0.04 s).
- Picking. Each object consists of three random intersecting shapes. In failed episodes, none of the nine rehearsed ways
  to grasp it brings it to the target within 50 steps.

| environment | solved | 95 % interval | expert, medium, random return | medium solves | CPU s/episode | strategy |
|---|---|---|---|---|---|---|
"""


def measure(env_name: str, levels: list[str], *, episodes: int, others: int) -> dict:
    """Return the measured columns of some levels of an environment."""
    results = {}
    for level in levels:
        started = time.process_time()
        count = episodes if level == "expert" else others
        results[level] = summarise(evaluate(level, env_name, num_episodes=count, num_workers=1, progress=False))
        if level == "expert":
            results["cpu_s"] = round((time.process_time() - started) / count, 3)
    return results


def read_results() -> dict:
    """Return the results that were measured so far."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def summarise(evaluation: Evaluation) -> dict:
    """Return the numbers of an evaluation that the table shows."""
    return {
        "episodes": evaluation.num_episodes,
        "successes": evaluation.successes,
        "interval": [round(bound, 3) for bound in evaluation.success_interval],
        "return_mean": round(evaluation.return_mean, 1),
    }


def strategy(row: dict) -> str:
    """Return the name of a row's strategy; rlhive/envs/experts/_experts.py explains the names."""
    if "strategy" in row:
        return row["strategy"]
    expert = row["expert"]
    if expert.get("hold") is not None:
        return "grasp"
    return "hook" if expert["grip"] > 0.01 else "push"


def line(env_name: str, results: dict) -> str:
    """Return one row of the page."""
    if env_name not in results:
        return f"| {env_name} | - | - | - | - | - | - |"
    result = results[env_name]
    expert, medium, random = (result[level] for level in ("expert", "medium", "random"))
    low, high = expert["interval"]
    name = strategy(read_expert_rows()[resolve_task(env_name).env_name])
    returns = ", ".join(f"{level['return_mean']:g}" for level in (expert, medium, random))
    return (
        f"| {env_name} | {expert['successes']} of {expert['episodes']} | {low:.2f} to {high:.2f} | {returns} "
        f"| {medium['successes']} of {medium['episodes']} | {result['cpu_s']:.2f} | {name} |"
    )


def main() -> None:
    """Measure the experts, store the numbers as JSON, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--episodes", type=int, default=100, help="episodes of the expert")
    parser.add_argument("--others", type=int, default=100, help="episodes of the medium and of the random policy")
    parser.add_argument("--only", nargs="*", help="environment ids or tasks; default: all with an expert")
    parser.add_argument("--levels", nargs="*", default=LEVELS, choices=LEVELS, help="levels to measure")
    arguments = parser.parse_args()
    names = [*KITCHEN, *SEQUENCES, *FRANKA, *TABLETOP, *OTHERS]
    measurable = [name for name in names if name in read_expert_rows() or name in SEQUENCES]
    for env_name in arguments.only if arguments.only is not None else measurable:
        result = measure(env_name, arguments.levels, episodes=arguments.episodes, others=arguments.others)
        # Read again: another process may have measured other tasks in the meantime.
        results = read_results()
        results[env_name] = results.get(env_name, {}) | result
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    results = read_results()
    PAGE.write_text(HEAD + "\n".join(line(name, results) for name in names) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
