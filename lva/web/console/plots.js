// The plots of the last fifteen minutes: requests, errors, latency; drawn by uPlot, with one cursor for all.

/* global uPlot */
import { h, say, short, time } from "./dom.js";

const HEIGHT = 132;

/** A value of the theme. */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const clock = (seconds) => time(seconds).split(" ").pop().slice(0, 5);

/**
 * A figure with a plot of some series, and their values above it: the newest, or those under the cursor.
 * Each series: {key, label, colour, dash?, fill?}.
 */
export class Plot {
  element;
  #title;
  #series;
  #format;
  #values;
  #labels;
  #when = h("span", { class: "when" });
  #place = h("div", { class: "plot" });
  #plot = null;
  #data = null;
  #window = 900;
  #at = 0;
  #least;
  #empty = h("p", { class: "empty over" });

  constructor({ title, unit, series, format = short, least = 1, empty }) {
    this.#title = title;
    this.#series = series;
    this.#format = format;
    this.#least = least;
    this.#empty.textContent = empty;
    this.#values = series.map(() => h("b", {}, "–"));
    this.#labels = series.map(({ label }) => h("span", {}, label));
    this.element = h(
      "figure",
      { class: "figure" },
      h("figcaption", {}, h("h2", {}, title, h("small", {}, unit)), this.#when),
      h(
        "dl",
        { class: "readings" },
        series.map(({ colour: name, dash }, index) =>
          h("div", {}, h("dt", {}, h("i", { class: `key key-${name}${dash ? " dashed" : ""}` }), this.#labels[index]), h("dd", {}, this.#values[index])),
        ),
      ),
      this.#place,
      this.#empty,
    );
    new ResizeObserver(() => this.#fit()).observe(this.#place);
  }

  /** Draw what there is as of a time. */
  draw(data, at, window) {
    this.#data = [data.at, ...this.#series.map(({ key }) => data[key])];
    this.#at = at;
    this.#window = window;
    this.#empty.hidden = this.#data.slice(1).some((values) => values.some((value) => value > 0));
    if (this.#plot === null) this.#make();
    else {
      this.#plot.batch(() => {
        this.#plot.setData(this.#data, false);
        this.#plot.setScale("x", { min: at - window, max: at });
      });
    }
    this.#read();
  }

  /** Draw anew, in the colours of another theme. */
  recolour() {
    this.#plot?.destroy();
    this.#plot = null;
    if (this.#data) this.#make();
  }

  #fit() {
    const width = this.#place.clientWidth;
    if (this.#plot && width && this.#plot.width !== width) this.#plot.setSize({ width, height: HEIGHT });
    else if (!this.#plot && this.#data) this.#make();
  }

  #make() {
    const width = this.#place.clientWidth;
    if (!width || typeof uPlot === "undefined") return;
    const axis = { stroke: colour("muted"), font: `11px ${getComputedStyle(document.body).fontFamily}` };
    const line = { stroke: colour("line"), width: 1 };
    this.#plot = new uPlot(
      {
        width,
        height: HEIGHT,
        padding: [6, 14, 0, 0],
        legend: { show: false },
        cursor: { sync: { key: "lva" }, points: { size: 6 }, drag: { x: false, y: false }, y: false },
        scales: {
          x: { time: true, min: this.#at - this.#window, max: this.#at },
          y: { range: (_plot, _min, max) => [0, Math.max(this.#least, (max ?? 0) * 1.08)] },
        },
        axes: [
          { ...axis, size: 24, space: 60, grid: { show: false }, ticks: { ...line, size: 4 }, values: (_plot, splits) => splits.map(clock) },
          { ...axis, size: 46, space: 28, gap: 6, grid: line, ticks: { show: false }, values: (_plot, splits) => splits.map((value) => short(value)) },
        ],
        series: [
          {},
          ...this.#series.map(({ label, colour: name, dash, fill }) => ({
            label,
            stroke: colour(name),
            width: 1.5,
            dash,
            fill: fill ? colour(fill) : undefined,
            points: { show: (plot, index) => lonely(plot.data[index]), size: 4 },
            spanGaps: false,
          })),
        ],
        hooks: { setCursor: [() => this.#read()] },
      },
      this.#data,
      this.#place,
    );
    const { canvas } = this.#plot.ctx;
    canvas.setAttribute("role", "img");
    this.#read();
  }

  #read() {
    const [times, ...values] = this.#data;
    const under = this.#plot?.cursor.idx;
    const pointed = under !== null && under !== undefined && this.#plot.cursor.left >= 0;
    const index = pointed ? under : times.length - 1;
    say(this.#when, pointed ? time(times[index]) : "");
    this.#labels.forEach((element, series) => {
      const { label } = this.#series[series];
      say(element, pointed && label === "now" ? "then" : label);
    });
    this.#values.forEach((element, series) => say(element, this.#format(values[series][index])));
    if (!pointed) {
      const told = this.#series.map(({ label }, series) => {
        const most = Math.max(0, ...values[series].filter((value) => value !== null));
        return `${label} ${this.#format(values[series][index])}, at most ${this.#format(most)}`;
      });
      this.#plot?.ctx.canvas.setAttribute("aria-label", `${this.#title}, last 15 minutes: ${told.join("; ")}`);
    }
  }
}

/** Whether a series has values that no line would join, so that they need points. */
function lonely(values) {
  return values.some(
    (value, index) => value !== null && (values[index - 1] ?? null) === null && (values[index + 1] ?? null) === null,
  );
}

/** The three plots of the first screen. */
export const requestPlots = () => [
  new Plot({
    title: "Requests",
    unit: "per second",
    series: [{ key: "requests", label: "now", colour: "accent", fill: "accent-soft" }],
    empty: "No requests in the last 15 minutes",
  }),
  new Plot({
    title: "Errors",
    unit: "per second",
    series: [
      { key: "server_errors", label: "5xx", colour: "bad", fill: "bad-soft" },
      { key: "client_errors", label: "4xx", colour: "warn", dash: [4, 3] },
    ],
    empty: "No errors in the last 15 minutes",
  }),
  new Plot({
    title: "Latency",
    unit: "milliseconds",
    series: [
      { key: "p50", label: "p50", colour: "p50" },
      { key: "p95", label: "p95", colour: "p95" },
      { key: "p99", label: "p99", colour: "p99" },
    ],
    empty: "No requests in the last 15 minutes",
  }),
];
