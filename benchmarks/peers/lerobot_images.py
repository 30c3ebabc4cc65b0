"""LeRobotDataset with pictures as PNG inside Parquet instead of video."""

from benchmarks.peers import lerobot


class Peer(lerobot.Peer):
    """Adapter of LeRobotDataset that stores pictures as images."""

    picture = "image"
