"""The comparison of MuJoCo versions: MJCF that another version reads, and steps with and without contacts."""

import numpy as np
import pytest

mujoco = pytest.importorskip("mujoco")

BALL = """
<mujoco>
  <worldbody>
    <geom type="plane" size="1 1 1"/>
    <body pos="0 0 0.1"><freejoint/><geom size="0.1"/></body>
  </worldbody>
</mujoco>
"""


def test_mjcf_gets_absolute_folders_and_the_words_of_mujoco_4(tmp_path):
    from benchmarks.mujoco_versions import portable

    mjcf = (
        '<mujoco><compiler angle="radian" meshdir="meshes/"/>'
        '<option timestep="0.002" apirate="200" mpr_iterations="9"/>'
    )
    assert portable(mjcf, tmp_path) == (
        f'<mujoco><compiler texturedir="{tmp_path}/" angle="radian" meshdir="{tmp_path}/meshes/"/>'
        '<option timestep="0.002" ccd_iterations="9"/>'
    )


def test_contacts_can_be_left_out():
    from benchmarks.mujoco_versions import run

    model = mujoco.MjModel.from_xml_string(BALL)
    start = np.append(mujoco.MjData(model).qpos, np.zeros(model.nv))
    for contacts, lowest in ((False, -5.0), (True, 0.09), (False, -5.0)):
        positions, _ = run(model, start, np.zeros((50, 0)), 10, contacts=contacts)
        assert positions.shape == (50, 7)
        assert lowest < positions[-1, 2] < lowest + 0.5
