# The locked packages as an image, so that they are not installed in the paid time of a machine:
#
#     docker build --target machine --tag NAME:torch-2.13.0-cuda12.6 .     for rented GPUs
#     docker build --build-arg BASE=python:3.11-slim --tag NAME:torch-2.13.0-cpu .     without a GPU
#     docker build --build-arg PACKAGES="NAME==1.0" .     with more packages (docs/clouds.md)
#
# Vast.ai logs in as root, so its image is the first stage. Everywhere else the study runs as a user.
ARG BASE=pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime
FROM ${BASE} AS machine
# Where pip finds the CPU build of torch; without it pip installs the one of the package registry.
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS

RUN for program in rsync sshd git; do command -v $program || lacks=$program; done; \
    [ -z "${lacks:-}" ] || timeout -k 10 600 sh -c \
        'until apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy \
             --no-install-recommends -o DPkg::Lock::Timeout=120 rsync openssh-server git; \
         do sleep 10; done'

WORKDIR /opt/lock
COPY requirements.txt requirements-torch.txt requirements-torch-cpu.txt requirements-build.txt ./
COPY tools/install.sh tools/
# Debian's Python cannot put a pip into a virtual environment, so the one of the image is used there.
RUN python3 -m venv --system-site-packages --without-pip /opt/snakemake && \
    sh tools/install.sh /opt/snakemake/bin/python --quiet --no-cache-dir

FROM machine
ARG PACKAGES
RUN [ -z "${PACKAGES:-}" ] || /opt/snakemake/bin/python -m pip install --no-cache-dir $PACKAGES
RUN useradd --create-home ablation
WORKDIR /study
COPY --chown=ablation:ablation . ./
RUN chown ablation:ablation . && sh tools/install.sh /opt/snakemake/bin/python --quiet --no-cache-dir
ENV PATH=/opt/snakemake/bin:$PATH
USER ablation
CMD ["snakemake", "--cores", "all"]
