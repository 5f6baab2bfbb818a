# The GPU stack with the versions that verl 0.9.1 was released with, as in the extra `gpu` of setup.py. CUDA must be the
# version of torch 2.11's own wheels (13.0), or flash-attn does not compile.
#
#   docker build -t divek_verl .
#   docker run --gpus all --shm-size 16g -v $PWD:/work -w /work divek_verl divek doctor
FROM nvidia/cuda:13.0.2-cudnn-devel-ubuntu24.04

ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential git ninja-build python3.12 python3.12-dev python3.12-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3.12 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

RUN pip install --upgrade pip "setuptools==77.0.3" wheel packaging
RUN pip install "torch==2.11.0" "torchvision==0.26.0" "vllm==0.24.0"
# Compiled for the torch above, which takes long if there is no prebuilt wheel.
RUN pip install --no-build-isolation "flash-attn==2.8.3"
RUN pip install "verl==0.9.1" "ray[default]==2.60.0" "transformers==5.9.0" "tensordict==0.10.0" "TransferQueue==0.1.11"

COPY setup.py pyproject.toml README.md LICENSE /src/
COPY divek_verl /src/divek_verl
RUN pip install --no-build-isolation "/src[gpu]"
COPY recipes /opt/divek_verl/recipes
COPY data_prep /opt/divek_verl/data_prep

CMD ["divek", "doctor"]
