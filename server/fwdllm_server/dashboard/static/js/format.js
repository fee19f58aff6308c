// Format numbers and times for people.

export const percent = (value, digits = 1) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(digits)}\u202f%`);

export const count = (value) => (value ?? 0).toLocaleString("en").replaceAll(",", "\u202f");

export function short(value) {
  if (value < 100) return decimal(value, 3);
  if (value < 10_000) return count(Math.round(value));
  if (value < 1e6) return `${(value / 1e3).toFixed(value < 1e5 ? 1 : 0)}k`;
  if (value < 1e9) return `${(value / 1e6).toFixed(value < 1e7 ? 2 : 1)}M`;
  return `${(value / 1e9).toFixed(1)}G`;
}

export function decimal(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(digits)));
}

export function bytes(value) {
  let unit = 0, size = value ?? 0;
  while (size >= 999.95 && unit < 4) { size /= 1000; unit += 1; }
  return `${unit ? size.toFixed(1) : size}\u00a0${["B", "kB", "MB", "GB", "TB"][unit]}`;
}

export function energy(joules) {
  if (joules < 1000) return `${Math.round(joules)}\u00a0J`;
  return joules < 3.6e6 ? `${(joules / 3600).toFixed(joules < 36_000 ? 1 : 0)}\u00a0Wh` : `${(joules / 3.6e6).toFixed(1)}\u00a0kWh`;
}

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds ?? 0));
  if (whole < 60) return `${whole}\u00a0s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}\u00a0min ${whole % 60}\u00a0s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor(whole % 3600 / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor(whole % 86_400 / 3600)} h`;
}

export const ago = (at, now) => (at ? `${duration(now - at)} ago` : "never");

export const moment = (at) => (at ? new Date(at * 1000).toLocaleString("sv-SE") : "–");

export const words = (name) => String(name).replaceAll("_", " ");

export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
