#!/usr/bin/env bash
# On a machine with a network, in the root of a checkout: bash tools/device/prepare.sh [--data small|full|none]
#
# Puts into .device/ what a GPU machine without a network lacks beside torch, prints what there is to copy, and fails where that is over 64 MiB:
#   site.tar.xz  av, msgspec, pyzmq and zstandard for cp312, in the versions of constraints.txt, stripped
#   native/      our compiled kernels (x86-64; device.sh builds them if they do not load)
#   meta/        the package's own metadata, from which the daemon reads its version
#   data/        clips and training images of $DATA, a folder with video/ and camvid/ (unset: none); small: JPEGs of
#                quality 75, for throughput only
# --data full: also the original training and validation images, in .device-data/, for the stage fulltrain.
set -euo pipefail
data=small
[ "${1:-}" = --data ] && data=$2
[ -f pyproject.toml ] && [ -d streamseg ] || { echo "run it in the root of a checkout of streamseg"; exit 1; }
cache=${WHEELS:-${XDG_CACHE_HOME:-$HOME/.cache}/streamseg-device}
[ "$data" = none ] || [ -n "${DATA:-}" ] || {
  [ "$data" != full ] || { echo "--data full needs DATA, a folder with camvid/train and camvid/val"; exit 1; }
  echo "DATA is not set: no clips and no training images"; data=none
}
shared=${DATA:-}
python=${PYTHON:-python3}
[ -x .venv/bin/python ] && python=${PYTHON:-.venv/bin/python}  # has OpenCV, for the small images
mkdir -p .device "$cache/wheels"

# 1. Packages. Of our dependencies, images with torch usually lack these four.
pins=()
for name in av msgspec pyzmq zstandard; do
  pins+=("$(grep -E "^$name==" constraints.txt)")
done
key=$(printf '%s\n' "${pins[@]}" cp312 2 | sha256sum | cut -c1-16)
archive=$cache/site-$key.tar.xz
if [ ! -f "$archive" ]; then
  tags=(); for tag in manylinux_2_{28,27,26,24,17,31,34}_x86_64 manylinux2014_x86_64 manylinux1_x86_64; do tags+=(--platform "$tag"); done
  for pin in "${pins[@]}"; do  # one at a time: each may want another tag
    python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${tags[@]}" \
      -d "$cache/wheels" "$pin" 2> >(grep -v '^WARNING' >&2)
  done
  work=$(mktemp -d)
  for pin in "${pins[@]}"; do
    wheel=$(ls "$cache/wheels/${pin%%==*}-${pin##*==}"-*.whl | head -1)
    python3 -m zipfile -e "$wheel" "$work"
  done
  find "$work" -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.c' -o -name '*.h' \) -delete
  command -v strip >/dev/null && find "$work" -type f -name '*.so*' -exec strip --strip-unneeded {} + 2>/dev/null || true
  python3 - "$work" "$archive.part" <<'PYTHON'
import sys, tarfile
with tarfile.open(sys.argv[2], "w:xz", preset=6) as archive:
    archive.add(sys.argv[1], ".")
PYTHON
  mv "$archive.part" "$archive"
  rm -rf "$work"
fi
cp "$archive" .device/site.tar.xz

# 2. Our kernels, and the metadata that an installed package would have.
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml | head -1)
mkdir -p .device/native ".device/meta/streamseg-$version.dist-info"
printf 'Metadata-Version: 2.1\nName: streamseg\nVersion: %s\n' "$version" >".device/meta/streamseg-$version.dist-info/METADATA"
sources=$(cat CMakeLists.txt $(git ls-files 'streamseg/*.cpp' 'streamseg/*.h') | sha256sum | cut -c1-16)
if [ "$(uname -m)" = x86_64 ] && command -v cmake >/dev/null && command -v g++ >/dev/null; then
  if [ ! -f "$cache/native-$sources/_crf.so" ]; then
    cmake -S . -B "$cache/build-$sources" -DCMAKE_BUILD_TYPE=Release >/dev/null
    nice -n 15 cmake --build "$cache/build-$sources" -j2 >/dev/null
    mkdir -p "$cache/native-$sources" && cp "$cache/build-$sources"/*.so "$cache/native-$sources/"
    strip --strip-unneeded "$cache/native-$sources"/*.so 2>/dev/null || true
    rm -rf "$cache/build-$sources"
  fi
  cp "$cache/native-$sources"/*.so .device/native/
else
  echo "no cmake or g++ for x86-64: device.sh builds the kernels, in half a minute"
fi

# 3. Clips and training images.
rm -rf .device/data .device-data
if [ "$data" != none ]; then
  mkdir -p .device/data
  cp "$shared"/video/camvid_0016E5_15hz.mp4 "$shared"/video/car-detection.mp4 .device/data/ || echo "no clips: demo: is used"
  if $python -c 'import cv2' 2>/dev/null; then
    $python - "$shared/camvid/train" .device/data/train <<'PYTHON'
import shutil, sys
from pathlib import Path
import cv2
source, target = map(Path, sys.argv[1:])
for kind in ("images", "labels"):
    (target / kind).mkdir(parents=True)
for image in sorted((source / "images").iterdir()):
    cv2.imwrite(str(target / "images" / f"{image.stem}.jpg"), cv2.imread(str(image)), [cv2.IMWRITE_JPEG_QUALITY, 75])
    shutil.copyfile(source / "labels" / f"{image.stem}.png", target / "labels" / f"{image.stem}.png")
PYTHON
  else
    echo "no OpenCV (PYTHON=… names a python that has it): no training images"
  fi
  if [ "$data" = full ]; then
    mkdir .device-data && cp -r --no-preserve=mode "$shared/camvid/train" "$shared/camvid/val" .device-data/
  fi
fi
# 4. What travels.
python3 tools/device/travels.py
echo "copy the tree with .device/ to the GPU machine; there, in its root: bash tools/device/device.sh"
