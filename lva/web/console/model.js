// What the console knows of the service: `hello` fills it, `tick` and `transition` keep it current.

import { urgency } from "./dom.js";
import { troubles } from "./trouble.js";

const SPARKS = 60;
const TIMELINE = 500;

export class Model extends EventTarget {
  plugins = new Map();
  timeline = [];
  series = null;
  known = false;
  failing = [];

  /** Take an event of the stream. */
  take(name, data) {
    if (name === "hello") this.#hello(data);
    else if (!this.known) return;
    else if (name === "tick") this.#tick(data);
    else if (name === "transition") this.#transition(data);
  }

  /** The newest values of the series by name. */
  get newest() {
    const last = this.series.at.length - 1;
    return Object.fromEntries(Object.entries(this.series).map(([name, values]) => [name, values[last]]));
  }

  /** Whether actions and details are for nobody who comes this way, with whatever token. */
  get off() {
    return this.known && !this.details && this.service.admin_token === false;
  }

  /** The plugins that are not running, the worst first. */
  get notRunning() {
    return this.#worst(({ state }) => state !== "running");
  }

  /** The plugins that are running and to be looked at all the same, the worst first. */
  get troubled() {
    return this.#worst(({ state, troubles: some }) => state === "running" && some.length);
  }

  #worst(wanted) {
    return [...this.plugins.values()].filter(wanted).sort((a, b) => urgency(b) - urgency(a) || a.order - b.order);
  }

  #hello(data) {
    Object.assign(this, {
      known: true,
      at: data.at,
      ready: data.ready,
      draining: data.draining,
      details: data.details,
      service: data.service,
      step: data.step,
      window: data.window,
      columns: data.columns,
      series: data.series,
      timeline: data.timeline,
    });
    this.skew = Date.now() / 1000 - data.at;
    this.plugins = new Map(
      data.plugins.map(({ row, ...plugin }, order) => [plugin.name, { order, ...plugin, ...this.#row(row) }]),
    );
    this.#noteBlocks(data.blocks);
    this.failing = data.failing ?? [];
    this.#judge();
    this.#tell("hello", null);
  }

  #row(row) {
    return Object.fromEntries(this.columns.map((column, index) => [column, row[index]]));
  }

  #tick(data) {
    this.at = data.at;
    this.ready = data.ready;
    this.draining = data.draining;
    this.#sample(data.sample);
    const changed = new Set(Object.keys(data.rows));
    for (const [name, row] of Object.entries(data.rows)) {
      const plugin = this.plugins.get(name);
      if (plugin) Object.assign(plugin, this.#row(row));
    }
    for (const name of this.#noteBlocks(data.blocks)) changed.add(name);
    if (data.new_spark)
      for (const [name, plugin] of this.plugins) {
        plugin.spark.push(0);
        if (plugin.spark.length > SPARKS) plugin.spark.shift();
        changed.add(name);
      }
    for (const [name, value] of Object.entries(data.sparks)) {
      const plugin = this.plugins.get(name);
      if (!plugin) continue;
      plugin.spark[Math.max(0, plugin.spark.length - 1)] = value;
      changed.add(name);
    }
    this.failing = data.failing ?? [];
    for (const name of this.#judge()) changed.add(name);
    this.#tell("tick", changed);
  }

  /** Note what plugins are to be looked at for; return the names of those of whom that is new. */
  #judge() {
    const moved = [];
    const failing = Map.groupBy(this.failing, ({ plugin }) => plugin);
    for (const plugin of this.plugins.values()) {
      const now = troubles(plugin, failing.get(plugin.name) ?? [], this.at);
      if (JSON.stringify(now) !== JSON.stringify(plugin.troubles)) moved.push(plugin.name);
      plugin.troubles = now;
    }
    return moved;
  }

  /** Note who blocked an event loop in the last minute; return the names of those of whom that is new. */
  #noteBlocks(blocks) {
    const moved = [...this.plugins.values()].filter(({ name, block }) => block?.at !== blocks[name]?.at || block?.seconds !== blocks[name]?.seconds);
    for (const plugin of moved) plugin.block = blocks[plugin.name];
    return moved.map(({ name }) => name);
  }

  #sample(sample) {
    const names = ["at", "requests", "client_errors", "server_errors", "p50", "p95", "p99"];
    const { at } = this.series;
    const same = at[at.length - 1] === sample[0];
    const first = at.findIndex((value) => value > this.at - this.window - this.step);
    names.forEach((name, index) => {
      const values = this.series[name];
      if (same) values[values.length - 1] = sample[index];
      else values.push(sample[index]);
      if (first > 0) values.splice(0, first);
    });
  }

  #transition(data) {
    const { ready, ...step } = data;
    this.ready = ready;
    this.at = Math.max(this.at, step.at); // or what is drawn as of now would leave it out
    this.timeline.push(step);
    if (this.timeline.length > TIMELINE) this.timeline.shift();
    const plugin = this.plugins.get(data.plugin);
    if (plugin) Object.assign(plugin, { state: data.state, since: data.at, reason: data.reason });
    this.#tell("transition", new Set([data.plugin]), step);
  }

  #tell(kind, changed, step = null) {
    this.dispatchEvent(new CustomEvent("change", { detail: { kind, changed, step } }));
  }
}
