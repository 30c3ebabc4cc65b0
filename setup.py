"""Package metadata. The settings of pytest, ruff, mypy and import-linter are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "rlhive/__init__.py").read_text(encoding="utf-8"), re.MULTILINE)[
    1
]

# `make matrix` tests the oldest and the newest of these on each Python; docs/install.md says what was seen to pass.
DATA = [
    "torch>=2.14,<2.16",  # torchrl 0.14.1's C++ extension, for prioritized sampling, loads on both
    "torchrl==0.14.1",  # storages, samplers and losses are subclassed and compared with here, release by release
    "tensordict>=0.14.3,<0.15",  # the series that torchrl 0.14.1 was built with
    "numpy>=1.26,<3",  # Python 3.13 takes 2.1 or newer, the first with wheels for it
    "pyarrow>=24,<27",  # datasets 5 asks for 24; from 26 on it refuses to import beside numpy 1 (numpy<2: pyarrow<26)
    "datasets>=5.2,<6",  # reads the versions that RLHive writes; older ones need another pyarrow
    "huggingface_hub>=2.4,<3",  # 2.x moved to httpx2 and dropped upload_large_folder
    "packaging>=24.2",  # the first with SPDX licence ids
    "pillow>=10",  # pictures are stored as PNG
    "pyyaml>=6",
    "scipy>=1.11",
    "filelock>=3.12",  # locks of dead processes do not block
    "loky>=3.4",  # worker processes that need no __main__ guard in the user's script and survive between calls
    "tqdm>=4.66",
    "typer>=0.20.1",  # older ones answer a usage error with status 1 beside the click that they allow
    "rich>=13",
]

# What robohive 0.7.0 declares, without robohive itself: its h5py==3.7.0 pin has no wheel for Python 3.11, so
# `rlhive setup` installs robohive==0.7.0 without dependencies on top of these. They have wheels for Python 3.11 and
# 3.12.
ROBOHIVE = [
    "numpy>=1.26,<2",  # beside numpy 2, mujoco 3.1.3 takes the first element of small arrays for all: decision 026
    "pyarrow>=24,<26",  # from 26 on it refuses to import beside numpy 1
    "mujoco==3.1.3",  # robohive's pin: newer releases reject its kitchen XML; no wheel for Python 3.13
    "dm-control==1.0.16",  # robohive's pin, and the one that goes with mujoco 3.1.3
    "gymnasium==0.29.1",  # robohive's pin: from 1.0 on, its four Adroit tasks fail at reset
    "h5py>=3.8",  # replaces robohive's h5py==3.7.0; any newer one serves
    "absl-py",
    "click",
    "ffmpeg",
    "flatten-dict",
    "GitPython",
    "matplotlib",
    "packaging",  # imported by robohive, which does not declare it
    "pink-noise-rl",
    "pip>=24.1",  # `rlhive setup` downloads with it and reads its raw progress
    "sk-video",
    "termcolor",
]

TRAIN = [
    "hydra-core>=1.3,<1.4",  # the configurations are written for 1.3, as TorchRL's are
    "matplotlib",
]

FORMATS = [
    "h5py>=3.8",  # the files of RoboHive's logger, Minari and D4RL
    "av>=18",  # LeRobot's videos; the oldest that was tested
    "google-crc32c>=1.6",  # checksums of TFRecord files
    "numcodecs>=0.16",  # Blosc, in which Diffusion Policy's zarr is compressed; the oldest that was tested
    "protobuf>=5",  # the messages in them; builds a message class from its description
]

PIXELS = ["torchvision>=0.29,<0.30"]  # the series of torch 2.14; TorchRL's Resize and R3M transforms ask for it

RELEASE = ["mlcroissant>=1.1,<2"]  # 1.1 is the first that reads Croissant 1.1; validates what `rlhive release` writes

S3 = [
    "s3fs>=2025.3"
]  # stores at s3://, with conditional writes; it asks for the fsspec of its own number, and datasets limits that

RAY = ["ray[data]>=2.60,<3"]  # the one that was tested; its public API changes with warnings of several releases

RERUN = ["rerun-sdk>=0.23"]  # the first with the columns that are sent; its releases for numpy 1 end with 0.23

LOGGERS = {  # experiment loggers that `rlhive train logger=…` writes to through TorchRL
    "tensorboard": ["tensorboard"],
    "wandb": ["wandb"],
    "mlflow": ["mlflow"],
}

DOCS = [  # the documentation site; why these: docs/decisions/039-documentation-site.md
    "furo",
    "myst-parser",
    "sphinx>=8",
]

DEV = [
    "hypothesis",
    "import-linter",
    "mypy",
    "pip",  # tests install packages of their own with it
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "markdown-it-py",  # reads the datasheets in the tests
    "playwright",  # drives the system's Chromium in the tests of the viewer; downloads no browser
    "types-PyYAML",  # types of what ships none, for mypy
    "types-tqdm",
    "tensorboard",  # what its logger wrote is read back
    *RERUN,  # a recording for its viewer is read back
    *RAY,  # a cluster of two nodes on this machine
    *S3,  # against moto, an S3 on the loopback interface
    "moto[s3]>=5.1",
    "flask",  # with flask-cors, what moto's server needs without its other services
    "flask-cors",
    "duckdb",  # it, pandas and Polars read the versions in the tests
    "pandas",
    "polars",
]

setup(
    name="rlhive",
    version=VERSION,
    description="Offline robot learning with RoboHive: record, version, publish and train from TorchRL replay buffers",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="the RLHive authors",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["offline reinforcement learning", "robot learning", "datasets", "replay buffer", "RoboHive", "TorchRL"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["rlhive", "rlhive.*"]),
    package_data={
        "rlhive": ["py.typed"],
        "rlhive.data.versions": ["*.json"],
        "rlhive.envs": ["*.json"],
        "rlhive.viewer": ["page/*"],
        "rlhive.sim_algos": ["conf/**/*.yaml", "conf/*.yaml"],
    },
    install_requires=DATA,
    extras_require={
        "robohive": ROBOHIVE,
        "train": TRAIN,
        "pixels": PIXELS,
        "formats": FORMATS,
        "release": RELEASE,
        "ray": RAY,
        "rerun": RERUN,
        "s3": S3,
        "docs": DOCS,
        "dev": DEV,
        **LOGGERS,
    },
    entry_points={"console_scripts": ["rlhive = rlhive.cli:main"]},
)
