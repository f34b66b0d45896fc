// Formats of figures, and DOM elements whose texts are never parsed as markup.

export const NONE = "–";

export function size(bytes) {
  if (bytes === null || bytes === undefined) return NONE;
  const mb = bytes / 1048576;
  if (mb >= 1024) return `${(mb / 1024).toFixed(mb >= 10240 ? 1 : 2)} GB`;
  return `${mb.toFixed(Math.abs(mb) >= 100 ? 0 : 1)} MB`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 0.0995) return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds); // before it is divided: 119.7 s are 2 min 0 s
  if (whole < 100) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function share(value) {
  if (value === null || value === undefined) return NONE;
  return `${(value * 100).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %`;
}

// Return the time of day of a `Date` value, with 24 hours in every locale so that log and chart agree.
export function clock(moment, seconds = true) {
  const parts = { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(seconds ? { second: "2-digit" } : {}) };
  return new Date(moment).toLocaleTimeString([], parts);
}

export function element(name, properties = {}, ...children) {
  const target = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "data") Object.assign(target.dataset, value);
    else if (key in target) target[key] = value;
    else target.setAttribute(key, value);
  }
  target.append(...children);
  return target;
}

// Set a text only if it differs, so that a selection or focus in the page survives.
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
