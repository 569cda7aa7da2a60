"""Packaging of keras_gamma. Tool settings are in pyproject.toml."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "keras_gamma" / "_version.py").read_text(encoding="utf-8")
).group(1)

EXAMPLES = [
    "absl-py",
    "importlib_resources",  # tfds 4.9.10 imports it, and does not say so
    "keras-cv==0.9.0",
    "matplotlib",
    "pillow",
    "scikit-learn",
    "scipy",
    "tensorboard",
    "tensorflow-datasets>=4.9.10",
]
HUB = ["keras-hub>=0.32"]
TEST = [
    *EXAMPLES,
    *HUB,
    "hypothesis",
    "import-linter",
    "jax",
    "mypy",
    "pytest",
    "pytest-xdist",
    "ruff",
]

setuptools.setup(
    name="keras_gamma",
    version=VERSION,
    description="Which normalization scales γ to regularize, found from a model's residual graph",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["keras_gamma", "keras_gamma.*"]),
    package_data={"": ["py.typed", "*.pyi"]},
    python_requires=">=3.11",
    install_requires=["absl-py", "keras>=3.14", "lazy_loader", "numpy", "rich", "tensorflow>=2.20"],
    extras_require={
        "examples": EXAMPLES,
        "hub": HUB,
        "plot": ["matplotlib"],
        "cv": ["keras-cv==0.9.0"],
        "test": TEST,
    },
    entry_points={"console_scripts": ["keras_gamma = keras_gamma.cli:run"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
