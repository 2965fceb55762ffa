# The command line of seg3d. From this folder:
#
#   docker build --tag seg3d .
#   docker run --rm --gpus all --ipc=host --user "$(id -u):$(id -g)" --volume "$PWD:/work" \
#       seg3d train medical_ct --data Task09_Spleen
#
# docs/installation.md says what the options are for. The full image and not the slim one: Triton
# wants a C compiler.
FROM python:3.11

WORKDIR /tmp/seg3d
COPY constraints.txt hatch_build.py LICENSE pyproject.toml README.md ./
COPY configs configs
COPY data/brain data/brain
COPY seg3d seg3d
RUN pip install --no-cache-dir --constraint constraints.txt ".[itk,dicom]" \
    && rm -r /tmp/seg3d

# Whoever runs it may write there; libraries keep what they compile in it.
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["seg3d"]
