// Small graphs of the last values, newest at the right.

export class Series {
  constructor(length = 120) {
    this.values = new Float32Array(length);
    this.count = 0;
  }

  add(value) {
    this.values[this.count++ % this.values.length] = value;
  }

  get last() {
    return this.count ? this.values[(this.count - 1) % this.values.length] : 0;
  }

  // Oldest first.
  *[Symbol.iterator]() {
    const n = Math.min(this.count, this.values.length);
    for (let i = this.count - n; i < this.count; i++) yield this.values[i % this.values.length];
  }
}

// One line, scaled to its own highest value.
export function drawLine(canvas, series, colour) {
  const context = fit(canvas);
  const values = [...series];
  const most = Math.max(...values, 1e-9);
  context.strokeStyle = colour;
  context.lineWidth = Math.max(1, devicePixelRatio);
  context.beginPath();
  values.forEach((value, i) => {
    const x = canvas.width - (values.length - 1 - i) * (canvas.width / series.values.length);
    context.lineTo(x, canvas.height - 1 - (value / most) * (canvas.height - 2));
  });
  context.stroke();
}

// Stacked areas: `layers` is a list of { series, colour }, from the bottom up.
export function drawStack(canvas, layers) {
  const context = fit(canvas);
  const lists = layers.map(({ series }) => [...series]);
  const length = Math.max(0, ...lists.map((list) => list.length));
  const at = (list, i) => list[i - (length - list.length)] ?? 0;
  let most = 1e-9;
  for (let i = 0; i < length; i++) most = Math.max(most, lists.reduce((sum, list) => sum + at(list, i), 0));
  const step = canvas.width / (layers[0]?.series.values.length ?? 1);
  const floor = new Float32Array(length);
  layers.forEach(({ colour }, k) => {
    context.fillStyle = colour;
    for (let i = 0; i < length; i++) {
      const height = (at(lists[k], i) / most) * canvas.height;
      context.fillRect(canvas.width - (length - i) * step, canvas.height - floor[i] - height, step + 0.5, height);
      floor[i] += height;
    }
  });
}

function fit(canvas) {
  const width = Math.round(canvas.clientWidth * devicePixelRatio) || canvas.width;
  const height = Math.round(canvas.clientHeight * devicePixelRatio) || canvas.height;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  return context;
}
