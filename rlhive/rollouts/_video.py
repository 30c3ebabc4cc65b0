"""Videos of evaluated episodes: one MP4 file per episode, at the control rate of the environment."""

from dataclasses import dataclass
from pathlib import Path

from torchrl.envs import EnvBase

from rlhive.data.formats import require_av, write_video
from rlhive.envs import open_camera
from rlhive.errors import InvalidOptionError, SimulationDivergedError, StoreNotWritableError
from rlhive.rollouts._rollout import DivergedRollout, Policy, rollout_episode
from rlhive.rollouts._scoring import EpisodeResult


@dataclass(frozen=True)
class VideoOptions:
    """Which episodes are filmed, and how.

    Attributes:
        folder: Folder of the videos.
        camera: Name of the camera; None for the environment's first one.
    """

    folder: Path
    camera: str | None

    def path(self, seed: int) -> Path:
        """Return the file of an episode."""
        return self.folder / f"seed-{seed}.mp4"

    def discard_partial(self) -> None:
        """Delete what killed worker processes left of videos."""
        for file in self.folder.glob(".seed-*.mp4.partial"):
            file.unlink(missing_ok=True)


def prepare_videos(video_dir: str | Path, num_videos: int, camera: str | None) -> VideoOptions:
    """Check the options of videos and create their folder, before the first episode.

    Raises:
        InvalidOptionError: ``num_videos`` is below 1.
        MissingExtraError: PyAV is not installed.
        StoreNotWritableError: The folder cannot be created.
    """
    if num_videos < 1:
        msg = f"num_videos: expected at least 1, got {num_videos}. Leave video_dir out for none."
        raise InvalidOptionError(msg)
    require_av()
    folder = Path(video_dir).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"No videos can be written to {folder}: expected a folder, got {error.strerror}. Choose another one."
        raise StoreNotWritableError(msg) from error
    return VideoOptions(folder, camera)


def film_episode(env: EnvBase, policy: Policy, *, seed: int, video: VideoOptions) -> EpisodeResult | DivergedRollout:
    """Run one episode as :func:`score_episode` does, with the same result, and write its video.

    A diverged episode's video ends with the last valid state.
    """
    with open_camera(env, video.camera) as camera, write_video(video.path(seed), fps=camera.fps) as append:
        try:
            rollout = rollout_episode(env, policy, seed=seed, on_state=lambda: append(camera.draw()))
        except SimulationDivergedError as error:
            return DivergedRollout(seed=seed, step=error.step, reason=str(error))
    return rollout.episode_return, rollout.success
