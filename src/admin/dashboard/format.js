// Formats numbers and times for people: few digits, and units.

export const NONE = "–";

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const count = (value) => grouped.format(value);

/** A rate per second. */
export function rate(value) {
  if (value === 0) return "0";
  if (value < 0.1) return "<0.1";
  return value < 99.5 ? value.toFixed(1) : count(value);
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds >= 9.95) return `${seconds.toFixed(0)} s`;
  if (seconds >= 0.9995) return `${seconds.toFixed(1)} s`;
  const ms = seconds * 1000;
  if (ms >= 9.95) return `${ms.toFixed(0)} ms`;
  return ms >= 0.05 ? `${ms.toFixed(1)} ms` : "<0.1 ms";
}

export function share(value) {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "0 %";
  const percent = value * 100;
  if (percent < 0.1) return "<0.1 %";
  return percent < 99.95 ? `${percent.toFixed(1)} %` : "100 %";
}

export function bytes(value) {
  if (value === undefined || value === null) return NONE;
  let size = value;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (size < 1000) return `${size < 9.95 && unit !== "B" ? size.toFixed(1) : size.toFixed(0)} ${unit}`;
    size /= 1024;
  }
  return `${size.toFixed(1)} TiB`;
}

/** How long ago `then` was; both in milliseconds. */
export function ago(then, now) {
  const seconds = Math.max(0, Math.round((now - then) / 1000));
  if (seconds < 1) return "now";
  return `${span(seconds)} ago`;
}

/** A duration in its largest whole unit. */
export function span(seconds) {
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  const days = Math.floor(seconds / 86400);
  return days === 1 ? "1 day" : `${days} days`;
}

const time = (options) => new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", ...options });
const [minutes, seconds] = [time({}), time({ second: "2-digit" })];
const dated = time({ day: "numeric", month: "short", second: "2-digit" });

export const clock = (millis) => minutes.format(millis);
export const exact = (millis) => seconds.format(millis);

/** A time of day, with the date unless it is today. */
export function when(millis, now) {
  const isToday = new Date(millis).toDateString() === new Date(now).toDateString();
  return isToday ? exact(millis) : dated.format(millis);
}

export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
