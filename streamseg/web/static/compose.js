// Labels → colours, pure: arrays in, arrays out. A colour is 0xAABBGGRR, as a Uint32Array over ImageData has it.

export const IGNORE = 255;

// What each label value is painted as: classes in `hidden` (a Set of names) and unknown ones not at all.
export function paletteOf(classes, hidden) {
  const table = new Uint32Array(256);
  classes.forEach(({ name, colour: [r, g, b] }, id) => {
    if (!hidden.has(name)) table[id] = ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  });
  return table;
}

// Paint labels (row by row, `width` to a row) into `out`, a Uint32Array of their length.
export function paint(labels, width, table, outlines, out) {
  if (!outlines) {
    for (let i = 0; i < labels.length; i++) out[i] = table[labels[i]];
    return;
  }
  out.fill(0);
  const last = labels.length - width;
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i];
    const right = (i + 1) % width ? labels[i + 1] : label;
    const below = i < last ? labels[i + width] : label;
    if (right !== label || below !== label) {
      // The visible one of the two sides, so that hiding a class keeps its neighbours' outlines.
      const colour = table[label] || table[right !== label ? right : below];
      out[i] = colour;
      if (right !== label) out[i + 1] = colour;
      if (below !== label) out[i + width] = colour;
    }
  }
}

// The label at (u, v), each from 0 to 1 over the picture.
export function labelAt(labels, width, u, v) {
  const height = labels.length / width;
  const x = Math.min(width - 1, Math.max(0, Math.floor(u * width)));
  const y = Math.min(height - 1, Math.max(0, Math.floor(v * height)));
  return labels[y * width + x];
}

// The labels of a mask message: deflated bytes, row by row.
export async function inflate(bytes, length) {
  const stream = new DecompressionStream("deflate");
  const writer = stream.writable.getWriter();
  writer.write(bytes).catch(() => {});
  writer.close().catch(() => {});
  const out = new Uint8Array(length);
  const reader = stream.readable.getReader();
  for (let at = 0; ;) {
    const { value, done } = await reader.read();
    if (done) return out;
    out.set(value, at);
    at += value.length;
  }
}
