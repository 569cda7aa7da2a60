"""Packaging of keras_gamma. Tool settings are in pyproject.toml."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "keras_gamma" / "_version.py").read_text(encoding="utf-8")
).group(1)

# The library runs on any one of these; none is required, as in Keras itself.
TENSORFLOW = ["tensorflow>=2.18"]
JAX = ["jax"]
TORCH = ["torch"]
PLOT = ["matplotlib"]
CV = ["keras-cv==0.9.0"]
HUB = ["keras-hub>=0.32"]
EXAMPLES = [
    *TENSORFLOW,
    *CV,
    *PLOT,
    "absl-py",
    "importlib_resources",  # tfds 4.9.10 imports it, and does not say so
    "pillow",
    "scikit-learn",
    "scipy",
    "tensorboard",
    "tensorflow-datasets>=4.9.10",
]
# Models that benchmarks/walk_models.py walks. Pinned: the rows name the versions.
# segmentation-models-3D 1.1.1 and kgcnn 4.0.2 are walked, too, if installed with --no-deps:
# one wants keras 3.3.3, the other a dozen packages of chemistry.
ZOO = [
    *TENSORFLOW,
    *CV,
    *HUB,
    "aeon==1.6.0",
    "bayesflow==2.0.12",
    "classification-models-3D==1.1.0",
    "keras-cv-attention-models==1.4.3",
    "keras-tcn==3.5.7",
    "keras-unet-collection==0.1.13",
    "kgcnn==4.0.2",
    "kimm==0.2.5",
    "medicai==0.0.4",
    "opencv-python-headless",  # vit-keras imports it, and does not say so
    "psutil",
    "segmentation-models-3D==1.1.1",
    "vit-keras==0.2.0",
]
DOCS = ["mkdocs-material", "mkdocstrings[python]"]
TEST = [
    *EXAMPLES,
    *TENSORFLOW,
    *CV,
    *HUB,
    *DOCS,
    *JAX,
    "hypothesis",
    "axe-core-python",
    "import-linter",
    "ipykernel",
    "mypy",
    "nbclient",
    "nox[uv]",
    "pre-commit",
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
    package_data={"": ["py.typed", "*.pyi", "*.css", "*.js"]},
    python_requires=">=3.10",
    install_requires=["absl-py", "keras>=3.8", "lazy_loader", "numpy", "rich"],
    extras_require={
        "tensorflow": TENSORFLOW,
        "jax": JAX,
        "torch": TORCH,
        "examples": EXAMPLES,
        "hub": HUB,
        "cv": CV,
        "plot": PLOT,
        "docs": DOCS,
        "test": TEST,
        "zoo": ZOO,
    },
    entry_points={"console_scripts": ["keras_gamma = keras_gamma.cli:run"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
