// Figures in words.

export const ms = (value) => (value < 0 ? "0 ms" : value < 9.95 ? `${value.toFixed(1)} ms` : value < 9999 ? `${Math.round(value)} ms` : span(value));

export function span(milliseconds) {
  const s = Math.max(0, milliseconds) / 1000;
  if (s < 120) return `${Math.round(s)} s`;
  return s < 7200 ? `${Math.floor(s / 60)} min` : `${Math.floor(s / 3600)} h`;
}

export const bytes = (count) => (count < 2 ** 30 ? `${Math.round(count / 2 ** 20)} MiB` : `${(count / 2 ** 30).toFixed(1)} GiB`);

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[sorted.length >> 1] : 0;
}

export const plain = (count) => count.toLocaleString("en");
