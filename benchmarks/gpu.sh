#!/usr/bin/env bash
# What must be seen on a GPU, in one call of at most ten minutes: the tests that need one, the speed
# of extraction, training and scoring, and a whole fit on noisy Flickr8k. One table comes last.
#
#     NCC_DATA=data benchmarks/gpu.sh                    # 6,000 images, one caption and five
#     CUDA_VISIBLE_DEVICES= benchmarks/gpu.sh --quick    # the same on a CPU, to try it out
#
# Needs the packages that nccleaner's core needs, pytest, beartype, and Flickr8k in $NCC_DATA;
# neither nccleaner installed nor FAISS. $PYTHON names another Python. Arguments go to gpu.py.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH="$PWD:$PWD/cli:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONDONTWRITEBYTECODE=1

"$python" -c 'import sys, torch; print("Python", sys.version.split()[0], "torch", torch.__version__,
    torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")'

# Tests that need a GPU ask whether there is one; pytest's own settings want plugins that may lack.
mapfile -t files < <(grep -rl 'cuda.is_available' tests --include='test_*.py' | sort)
echo "GPU tests are in ${files[*]}"
tests=failed
if "$python" -m pytest -q -rs -c /dev/null --rootdir . --import-mode=importlib \
  -p no:cacheprovider "${files[@]}"; then
  tests=passed
fi
"$python" benchmarks/gpu.py --tests "$tests" "$@"
