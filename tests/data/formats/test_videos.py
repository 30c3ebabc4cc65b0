"""Videos: frames by time, and files that are no videos but name others."""

import av
import numpy as np
import pytest

from rlhive.data.formats._videos import decode_video_frames, write_video
from rlhive.errors import SchemaMismatchError

FPS, COUNT, SIZE = 10, 12, 32
#: Extension → container of PyAV and codec.
HEALTHY = {"mp4": ("mp4", "mpeg4"), "mov": ("mov", "mpeg4"), "mkv": ("matroska", "ffv1"), "webm": ("matroska", "ffv1")}


def encode(path, container, codec):
    with av.open(path, "w", format=container) as file:
        stream = file.add_stream(codec, rate=FPS)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for row in range(COUNT):
            frame = av.VideoFrame.from_ndarray(np.full((SIZE, SIZE, 3), 20 * row, np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


@pytest.mark.parametrize("extension", HEALTHY)
def test_frames_are_found_by_time(extension, tmp_path):
    path = encode(tmp_path / f"video.{extension}", *HEALTHY[extension])

    frames = decode_video_frames(path, start_s=0.5, count=4, fps=FPS)

    assert frames.shape == (4, SIZE, SIZE, 3)
    assert np.abs(frames.mean(axis=(1, 2, 3)) - 20 * np.arange(5, 9)).max() < 4


def test_frames_at_other_times_are_refused(tmp_path):
    path = encode(tmp_path / "video.mp4", "mp4", "mpeg4")
    decode_video_frames(path, start_s=0.0, count=COUNT, fps=FPS, is_whole=True)
    with pytest.raises(SchemaMismatchError, match=r"mp4, episode 3, frame 1: expected it at 0\.333 s, got 0\.100"):
        decode_video_frames(path, start_s=0.0, count=4, fps=3, context="episode 3")
    with pytest.raises(SchemaMismatchError, match="episode 3: expected 4 frames, got more"):
        decode_video_frames(path, start_s=0.0, count=4, fps=FPS, context="episode 3", is_whole=True)
    with pytest.raises(SchemaMismatchError, match=r"episode 3: expected 4 frames from 1\.000 s on, got 2"):
        decode_video_frames(path, start_s=1.0, count=4, fps=FPS, context="episode 3")


def test_a_frame_that_cannot_be_decoded_is_named(tmp_path):
    path = encode(tmp_path / "video.mkv", "matroska", "ffv1")
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    content = path.read_bytes()
    at = content.index(bytes(packets[6]))
    path.write_bytes(content[:at] + bytes([0xFF] * packets[6].size) + content[at + packets[6].size :])
    with pytest.raises(SchemaMismatchError, match=r"video\.mkv, episode 3, frame 6: expected a readable video"):
        decode_video_frames(path, start_s=0.0, count=COUNT, fps=FPS, context="episode 3")


def playlists(target):
    yield f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1.0,\n{target}\n#EXT-X-ENDLIST\n"
    yield f"ffconcat version 1.0\nfile {target}\n"
    yield f"file '{target}'\n"
    yield f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=control:{target}\n"
    yield f'<?xml version="1.0"?><MPD><Period><BaseURL>{target}</BaseURL></Period></MPD>'
    yield f"[playlist]\nFile1={target}\n"
    yield f"[Reference]\nRef1={target}\n"
    yield f"RTSPtext {target}\n"


@pytest.mark.parametrize("name", ["video.mp4", "video.m3u8", "video.ffconcat", "video.sdp", "video.mpd"])
def test_a_playlist_is_no_video(name, tmp_path):
    for target in (encode(tmp_path / "private.mp4", "mp4", "mpeg4"), "http://127.0.0.1:9/beacon.ts"):
        for content in playlists(target):
            (tmp_path / name).write_text(content)
            with pytest.raises(SchemaMismatchError, match="expected an MP4, QuickTime, Matroska or WebM video, got"):
                decode_video_frames(tmp_path / name, start_s=0.0, count=1, fps=FPS)


def test_other_containers_are_refused(tmp_path):
    path = encode(tmp_path / "video.mp4", "mpegts", "mpeg2video")

    with pytest.raises(SchemaMismatchError, match="got a file that begins with b'G"):
        decode_video_frames(path, start_s=0.0, count=1, fps=FPS)


@pytest.mark.parametrize("codecs", [None, set()], ids=["any", "without_x264"])
def test_a_written_video_is_read_again(codecs, tmp_path, monkeypatch):
    if codecs is not None:
        monkeypatch.setattr(av, "codecs_available", codecs)
    path = tmp_path / "video.mp4"
    with write_video(path, fps=12.5) as append:
        for row in range(COUNT):
            append(np.full((33, 48, 3), 20 * row, np.uint8))

    frames = decode_video_frames(path, start_s=0.16, count=4, fps=12.5)

    assert frames.shape == (4, 32, 48, 3)
    assert np.abs(frames.mean(axis=(1, 2, 3)) - 20 * np.arange(2, 6)).max() < 4
    assert [file.name for file in tmp_path.iterdir()] == ["video.mp4"]


def fail_while_writing(path):
    with write_video(path, fps=10) as append:
        append(np.zeros((16, 16, 3), np.uint8))
        raise ArithmeticError


def test_an_error_while_writing_keeps_the_older_video(tmp_path):
    (tmp_path / "video.mp4").write_bytes(b"older")
    with pytest.raises(ArithmeticError):
        fail_while_writing(tmp_path / "video.mp4")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"older"]
