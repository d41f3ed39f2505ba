// Small things that every view needs: elements, numbers, times, the marks of states.
// Text from the service only ever becomes text nodes.

/** Make an HTML element. Properties with a dash, `role` and `for` become attributes; null leaves out. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name in element && !name.includes("-") && name !== "role") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** Make an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set an element's text, if it is another. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Tell people who listen to the page what has happened. */
export function announce(text) {
  const region = document.getElementById("said");
  region.textContent = "";
  requestAnimationFrame(() => (region.textContent = text));
}

// Numbers

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A count: exact up to a million, then with three digits. */
export function count(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) < 1e6 ? whole.format(value) : short(value);
}

/** A number with its noun: "1 point", "2,000 points". */
export function counted(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** A measured value with about three digits. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return `${trim(value / 1e9)} G`;
  if (size >= 1e6) return `${trim(value / 1e6)} M`;
  if (size >= 1e4) return `${trim(value / 1e3)} k`;
  return size >= 100 ? whole.format(value) : trim(value);
}

function trim(value) {
  const size = Math.abs(value);
  return String(Number(value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 || !size ? 2 : 3)));
}

/** A number of milliseconds with its unit. */
export function millis(value) {
  if (value === null || value === undefined) return "–";
  return value >= 1000 ? `${short(value / 1000)} s` : `${short(value)} ms`;
}

/** A share of one. */
export function percent(value) {
  if (value === null || value === undefined) return "–";
  const hundredths = value * 100;
  return hundredths && hundredths < 0.1 ? "<0.1 %" : `${trim(Math.round(hundredths * 10) / 10)} %`;
}

export const bytes = (value) =>
  value >= 1 << 20 ? `${short(value / (1 << 20))} MiB` : value >= 1024 ? `${short(value / 1024)} KiB` : `${value} B`;

// Times

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** The local time of day; with the day, if it is not today's. */
export function time(seconds) {
  const date = new Date(seconds * 1000);
  const today = new Date().toDateString() === date.toDateString();
  return today ? clock.format(date) : `${day.format(date)} ${clock.format(date)}`;
}

/** The same as an element that machines can read. */
export const timeElement = (seconds, text = time(seconds)) =>
  h("time", { dateTime: new Date(seconds * 1000).toISOString(), title: new Date(seconds * 1000).toString() }, text);

/** How long something has lasted. */
export function lasted(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

/** Unix seconds of an ISO time or of a number. */
export const unix = (value) => (typeof value === "number" ? value : Date.parse(value) / 1000);

// States: told by shape and word, and by colour only as well

const SHAPES = {
  running: [["circle", { cx: 8, cy: 8, r: 5 }]],
  loaded: [["circle", { cx: 8, cy: 8, r: 4.5, class: "line" }]],
  initializing: [
    ["circle", { cx: 8, cy: 8, r: 4.5, class: "line" }],
    ["path", { d: "M8 3.5a4.5 4.5 0 0 1 0 9z" }],
  ],
  backoff: [["path", { d: "M8 2.2 14.4 13.4H1.6z" }]],
  stopping: [
    ["rect", { x: 3.5, y: 3.5, width: 9, height: 9, class: "line" }],
    ["path", { d: "M3.5 8h9v4.5h-9z" }],
  ],
  stopped: [["rect", { x: 3.5, y: 3.5, width: 9, height: 9, class: "line" }]],
  failed: [["path", { d: "M3 3l10 10M13 3 3 13", class: "line thick" }]],
  abandoned: [
    ["path", { d: "M3 3l10 10M13 3 3 13", class: "line thick" }],
    ["rect", { x: 1.2, y: 1.2, width: 13.6, height: 13.6, class: "line" }],
  ],
};

/** The marks of plugins that are running and to be looked at. */
SHAPES.bad = [
  ["circle", { cx: 8, cy: 8, r: 6.2, class: "line" }],
  ["path", { d: "M8 4.2v4.6M8 11v1", class: "line thick" }],
];
SHAPES.warn = SHAPES.bad;

/** The mark of a state. */
export function mark(state) {
  const shapes = (SHAPES[state] ?? SHAPES.loaded).map(([tag, attributes]) => svg(tag, attributes));
  return svg("svg", { class: `mark state-${state}`, viewBox: "0 0 16 16", "aria-hidden": "true" }, shapes);
}

/** The mark of a plugin: of its state, or of its worst trouble while it is running. */
export const markOf = ({ state, troubles }) => (state === "running" && troubles.length ? troubles[0].kind : state);

/** How much a plugin needs a person: the larger, the more. */
export const urgency = (plugin) =>
  ({ failed: 7, abandoned: 7, backoff: 6, bad: 5, warn: 4, initializing: 3, stopping: 2, stopped: 2, loaded: 1 })[markOf(plugin)] ?? 0;

/** The words of a state. */
export const word = (state) => ({ backoff: "back-off", loaded: "waiting" })[state] ?? state;
