"""LeRobotDataset with pictures as PNG inside Parquet instead of video."""

from benchmarks.peers import lerobot


class Peer(lerobot.Peer):
    """As ``lerobot``, in the other layout."""

    picture = "image"
