#!/usr/bin/env bash
# On the GPU machine, in the root of the checkout: bash tools/device/device.sh [STAGE...]
#
# Stages, the most useful first: facts engines tests crf pipeline density aoti knobs train.
# On demand: sanitize ncu fulltrain backends. With BUDGET_S of an hour, as in make gpu, backends comes last.
# Each has its own limit; $OUT/gpu.json, gpu.md and log.txt are written after each, so what is cut off loses only
# its own. BUDGET_S (480): no stage runs longer. DEVICE_DRY=1: a test of this script on a CPU. At the end a line
# for all that failed, was cut off or did not run, and exit code 1 if there is one; and a line for each stage that
# was left out, with what it wants.
set -uo pipefail
known="facts engines tests crf pipeline density aoti knobs train sanitize ncu fulltrain backends"
for one in "$@"; do
  case " $known " in *" $one "*) ;; *) echo "no such stage: $one; must be one of: $known"; exit 2 ;; esac
done
begun=$SECONDS
WORK=${WORK:-${TMPDIR:-/tmp}/streamseg-device}
PY=${PY:-python3} SITE=$WORK/site OUT=${OUT:-out/device} DEVICE_DRY=${DEVICE_DRY:-0}
[ "$DEVICE_DRY" = 1 ] && BUDGET_S=${BUDGET_S:-3600}  # of a CPU, which may be busy
BUDGET_S=${BUDGET_S:-480}
export PARTS=$WORK/parts PROBE_ENGINES=$WORK/engines XDG_CACHE_HOME=$WORK/cache
export TRITON_CACHE_DIR=$XDG_CACHE_HOME/triton TORCHINDUCTOR_CACHE_DIR=$XDG_CACHE_HOME/inductor
export OUT DEVICE_DRY PYTHONUNBUFFERED=1
export CARRIED=${CARRIED:-.device}
mkdir -p "$OUT" "$PARTS" "$PROBE_ENGINES" "$SITE" "$XDG_CACHE_HOME"
export PYTHONPATH=$PWD:$SITE PATH=$PATH:/usr/sbin:/sbin
[ $# -gt 0 ] && stages="$*" || stages="facts engines tests crf pipeline density aoti knobs train"
[ $# -eq 0 ] && [ "$BUDGET_S" -ge 3600 ] && [ "$DEVICE_DRY" = 0 ] && stages="$stages backends"
log=$OUT/log.txt
rm -f "$PARTS/failed.txt"
for stage in $stages; do rm -f "$PARTS/$stage.json" "$PARTS/$stage"-*; done
echo "== device.sh, $(date -u +%T), stages: $stages" | tee -a "$log"

# Packages that are missing: from the archive of prepare.sh, or from wheels. A dry run has them installed.
if ! $PY -c "import av, msgspec, zmq, zstandard" 2>/dev/null; then
  if [ -f "$CARRIED/site.tar.xz" ]; then
    $PY -c "import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter='fully_trusted')" \
      "$CARRIED/site.tar.xz" "$SITE" || exit 1
  elif ls "$CARRIED"/*.whl >/dev/null 2>&1; then
    $PY -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$SITE" "$CARRIED"/*.whl || exit 1
  else
    echo "no packages were carried: copy the folder $CARRIED as well" | tee -a "$log"; exit 1
  fi
  [ -d "$CARRIED/meta" ] && cp -r "$CARRIED"/meta/. "$SITE/"
fi
needed="av msgspec zmq zstandard click rich cv2 onnxruntime torch onnx pytest"
missing=$($PY -c "from importlib.util import find_spec as f; print(*(n for n in '$needed'.split() if not f(n)))")
[ -z "$missing" ] || { echo "packages are missing: $missing" | tee -a "$log"; exit 1; }

# Our compiled kernels: carried, else built here (half a minute of one core).
native_ok() { $PY -c "import sys; from streamseg import crf; sys.exit(not crf.native_available())" 2>>"$log"; }
if ! native_ok; then
  mkdir -p build && cp "$CARRIED"/native/*.so build/ 2>/dev/null
  if ! native_ok; then
    rm -f build/*.so
    (cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release && timeout 120 cmake --build build) >>"$log" 2>&1 ||
      echo "our kernels could not be built: what needs the CRF on the CPU fails" | tee -a "$log"
  fi
fi

# The driver's libraries where the loader does not find them; libcuda.so for linking (aoti).
for name in libcuda.so.1 libnvcuvid.so.1; do
  ldconfig -p 2>/dev/null | grep -q "$name" && continue
  found=$(find /usr/local/nvidia /usr/lib/x86_64-linux-gnu -name "$name" 2>/dev/null | head -1)
  [ -n "$found" ] && export LD_LIBRARY_PATH="$(dirname "$found")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
done
cuda=$(ldconfig -p 2>/dev/null | sed -n 's/.*libcuda\.so\.1 .*=> //p' | head -1)
[ -n "$cuda" ] || cuda=$(find /usr/local/nvidia /usr/lib -name libcuda.so.1 2>/dev/null | head -1)
if [ -n "$cuda" ]; then
  mkdir -p "$WORK/link" && ln -sf "$cuda" "$WORK/link/libcuda.so"
  export LIBRARY_PATH=$WORK/link${LIBRARY_PATH:+:$LIBRARY_PATH}
fi

no_gpu=$($PY -c "from streamseg.inference.backends.device import cuda_missing; print(cuda_missing() or '')" 2>>"$log")
[ "$DEVICE_DRY" = 1 ] && no_gpu=
[ -n "$no_gpu" ] && { echo "no GPU: $no_gpu" | tee -a "$log"; stages=facts; }
[ "$DEVICE_DRY" = 1 ] && export TRITON_INTERPRET=1 OMP_NUM_THREADS=1  # threads that wait for each other on a busy CPU
jobs=()
trap 'for job in "${jobs[@]}"; do kill "$job" 2>/dev/null; done' EXIT

if [ "$DEVICE_DRY" != 1 ]; then  # a run that is cut off leaves figures ten seconds old
  (while sleep 10; do $PY -m tools.device.probe collect; done) >/dev/null 2>&1 & jobs+=($!)
fi

[ -n "${CUDA_HOME:-}" ] || for folder in /usr/local/cuda /usr/local/cuda-1[3-9]*; do
  [ -f "$folder/include/cuda.h" ] && export CUDA_HOME=$folder && break
done

left() { echo $((BUDGET_S - (SECONDS - begun))); }
bounded() {  # LIMIT COMMAND...: at most this long, and no longer than there is left
  local limit=$1 rest; shift
  [ "$DEVICE_DRY" = 1 ] && limit=$((limit * 8))  # a CPU, which may be busy
  rest=$(left); [ "$rest" -lt "$limit" ] && limit=$rest
  [ "$limit" -lt 8 ] && { echo "no time left for: $*" | tee -a "$log" "$PARTS/failed.txt"; return 1; }
  STAGE_S=$limit timeout -k 5 "$limit" "$@" 2>&1 | grep --line-buffered -v -e Warning -e '^  warnings.warn' | tee -a "$log"
  local rc=${PIPESTATUS[0]}
  [ "$rc" -ne 0 ] && echo "exit code $rc after at most $limit s: $*" | tee -a "$log" "$PARTS/failed.txt"
  return 0
}
probe() { bounded "$1" $PY -m tools.device.probe "${@:2}"; }
suite() {  # NAME LIMIT PYTEST-ARGUMENTS...: in a process of its own, so that a broken CUDA context ends only it
  local name=$1 limit=$2; shift 2
  timeout -k 5 "$limit" $PY -m pytest -m gpu -q --tb=short -W default -p no:cacheprovider --maxfail=12 \
    --junitxml="$PARTS/tests-$name.xml" "$@" >"$PARTS/tests-$name.txt" 2>&1
}

wanted() { local one; for one in "$@"; do case " $stages " in *" $one "*) return 0 ;; esac; done; return 1; }
if wanted engines knobs pipeline; then  # on CPU cores, beside the first stages
  for name in deeplab-v1-largefov $([ "$DEVICE_DRY" = 1 ] || echo deeplab-v2-resnet101); do
    [ -f "$PROBE_ENGINES/$name.done" ] && continue
    $PY -m tools.device.probe prep $name >>"$PARTS/prep.txt" 2>&1 & jobs+=($!)
  done
fi

aoti_begun=
build_aoti() {  # on CPU cores, beside the tests
  [ -n "$aoti_begun" ] && return
  aoti_begun=1
  for name in camvid-slim $([ "$DEVICE_DRY" = 1 ] || echo deeplab-v1-largefov); do
    TORCHINDUCTOR_COMPILE_THREADS=5 $PY -m tools.device.probe aoti-build $name >>"$PARTS/aoti.txt" 2>&1 & jobs+=($!)
  done
}

for stage in $stages; do
  echo "== $stage, after $((SECONDS - begun)) s, $(left) s left" | tee -a "$log"
  case $stage in
    facts) probe 45 facts ;;
    engines) probe 90 engines ;;
    tests)
      limit=$(left); [ "$DEVICE_DRY" != 1 ] && [ "$limit" -gt 110 ] && limit=110
      wanted aoti && build_aoti
      if [ "$DEVICE_DRY" = 1 ]; then  # they are found; without a GPU each would be skipped
        suite all "$limit" tests/gpu --collect-only
      else
        suite crf "$limit" tests/gpu/test_crf_gpu.py & one=$!
        suite engine "$limit" tests/gpu/test_engine_gpu.py tests/gpu/test_engine_tensorrt.py -k "not aoti and not largefov" & two=$!
        suite route "$limit" tests/gpu/test_route_gpu.py & three=$!
        wait $one $two $three
      fi
      tail -n 4 "$PARTS"/tests-*.txt | tee -a "$log"
      cat "$PARTS"/tests-*.txt >"$OUT/tests.txt"
      $PY -m tools.device.probe tests | tee -a "$log" ;;
    crf)
      if wanted aoti && ! { [ -f "$PARTS/aoti-camvid-slim.txt" ] && [ -f "$PARTS/aoti-deeplab-v1-largefov.txt" ]; }; then
        echo "aoti is still being built beside it: times on the clock may be too long" | tee -a "$log"
      fi
      probe 75 crf ;;
    pipeline) probe 90 pipeline ;;
    density) probe 75 density ;;
    aoti) build_aoti; probe 100 aoti ;;
    knobs) probe 60 knobs ;;
    train) probe 75 train ;;
    fulltrain) probe 600 fulltrain ;;  # as many epochs as fit into what is left of BUDGET_S
    sanitize)  # finds bad accesses and races; about a minute each with torch
      for tool in memcheck racecheck; do
        SIDE=24 bounded 100 compute-sanitizer --error-exitcode 1 --tool $tool --kernel-name regex:'_splat|_blur|_slice|_update' \
          $PY -m tools.device.probe tiny-crf | tail -n 15
      done ;;
    ncu)
      SIDE=513 bounded 100 ncu --clock-control none -k regex:'_splat|_blur|_update' -c 6 --section SpeedOfLight \
        --section MemoryWorkloadAnalysis --section Occupancy $PY -m tools.device.probe tiny-crf >"$OUT/ncu.txt" 2>&1
      tail -n 60 "$OUT/ncu.txt" ;;
    backends) bounded 3600 $PY -m benchmarks.gpu --out "$OUT/backends" ;;  # builds plans: minutes each
  esac
  $PY -m tools.device.probe collect
done
cat "$PARTS"/prep.txt "$PARTS"/aoti.txt >>"$log" 2>/dev/null
[ "${QUIET:-0}" = 1 ] || head -c 11000 "$OUT/gpu.md"
echo "== done after $((SECONDS - begun)) s" | tee -a "$log"
$PY -m tools.device.probe verdict $stages 2>&1 | tee -a "$log"
exit "${PIPESTATUS[0]}"
