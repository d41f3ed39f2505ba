// The first screen: whether the service is ready and why, its requests, its plugins, what has happened.

import { announce, h, mark, markOf, word } from "./dom.js";
import { FailingRoutes } from "./failing.js";
import { requestPlots } from "./plots.js";
import { OFF } from "./steer.js";
import { Table } from "./table.js";
import { Timeline, patterns } from "./timeline.js";

const NAMED = 6;

export class Overview {
  element;
  name = "All plugins";
  #model;
  #verdict = h("section", { class: "verdict", "aria-labelledby": "verdict" });
  #heading = h("h1", { id: "verdict" });
  #why = h("ul", { class: "why" });
  #off = h("p", { class: "note", hidden: true }, OFF);
  #plots = requestPlots();
  #table;
  #timeline;
  #failing = new FailingRoutes();
  #ticks = 0;
  #said = "";
  #troubled = new Set();

  constructor(model) {
    this.#model = model;
    this.#table = new Table(model);
    this.#timeline = new Timeline(model);
    this.#verdict.append(this.#heading, this.#why, this.#off);
    this.element = h(
      "div",
      { class: "overview" },
      patterns(),
      this.#verdict,
      h("section", { class: "plots", "aria-label": "Requests of the last 15 minutes" }, this.#plots.map(({ element }) => element)),
      this.#table.element,
      this.#failing.element,
      this.#timeline.element,
    );
    if (model.known) this.#all();
  }

  /** Take in a change of the model. */
  update({ kind, changed }) {
    if (kind === "hello") return this.#all();
    this.#table.update(changed);
    if (kind === "transition") {
      this.#judge();
      this.#timeline.list();
      this.#timeline.draw();
    } else {
      this.#judge();
      this.#draw();
      if (this.#ticks++ % 5 === 0) {
        this.#table.age();
        this.#timeline.draw();
      }
    }
  }

  recolour() {
    for (const plot of this.#plots) plot.recolour();
  }

  #all() {
    this.#off.hidden = !this.#model.off;
    this.#judge();
    this.#table.build();
    this.#draw();
    // Only now is the element in the page, with a width to draw in.
    requestAnimationFrame(() => this.#timeline.draw());
    this.#timeline.list();
  }

  #draw() {
    const { series, at, window } = this.#model;
    for (const plot of this.#plots) plot.draw(series, at, window);
    this.#failing.show(this.#model.failing);
  }

  /** Say whether the service is ready, and which plugins need somebody. */
  #judge() {
    const { ready, draining, plugins, details } = this.#model;
    const out = this.#model.notRunning;
    const troubled = this.#model.troubled;
    const named = [...out, ...troubled];
    const key = JSON.stringify([ready, draining, details, plugins.size, named.map(({ name, state, reason, troubles }) => [name, state, reason, troubles])]);
    if (key === this.#said) return;
    this.#said = key;
    const whole = ready ? (troubled[0] ? markOf(troubled[0]) : "running") : (out[0]?.state ?? "initializing");
    this.#verdict.dataset.verdict = draining ? "stopping" : ready ? "ready" : "not-ready";
    this.#heading.replaceChildren(mark(draining ? "stopping" : whole), this.#inWords(out.length, troubled.length));
    const items = named.slice(0, NAMED).map((plugin) => this.#item(plugin));
    if (named.length > NAMED) items.push(h("li", { class: "more" }, `and ${named.length - NAMED} more, first in the table below`));
    this.#why.replaceChildren(...items);
    this.#why.hidden = !items.length;
    const problems = troubled.length ? ` (${troubled.length} with problems)` : "";
    document.title = draining ? "LVA: stopping" : ready ? `LVA: ready${problems}` : `LVA: not ready (${out.length})`;
    this.#announce(troubled);
  }

  #item(plugin) {
    const running = plugin.state === "running";
    const hidden = this.#model.details || this.#model.off ? "" : "enter the admin token to see the reason";
    const reason = running ? plugin.troubles.map(({ text }) => text).join("; ") : (plugin.reason ?? hidden);
    return h(
      "li",
      {},
      mark(markOf(plugin)),
      h("a", { href: `#/plugins/${plugin.name}` }, plugin.name),
      h("span", { class: "word" }, word(plugin.state)),
      h("span", { class: "reason" }, reason),
    );
  }

  /** Tell listeners of plugins that begin to have problems. */
  #announce(troubled) {
    const fresh = troubled.filter(({ name }) => !this.#troubled.has(name));
    this.#troubled = new Set(troubled.map(({ name }) => name));
    if (fresh.length) announce(fresh.map(({ name, troubles }) => `${name}: ${troubles[0].text}`).join("; "));
  }

  #inWords(out, troubled) {
    const { ready, draining, plugins } = this.#model;
    if (draining) return "The service is stopping";
    const all = plugins.size;
    const problems = troubled ? `, ${troubled}${out ? " more" : ""} with problems` : "";
    if (ready && out) return `Ready: ${all - out} of ${all} plugins running, ${out} stopped${problems}`;
    if (ready) return all ? `Ready: ${all === 1 ? "the one plugin is" : `all ${all} plugins`} running${problems}` : "Ready: no plugin is active";
    return `Not ready: ${out} of ${all} plugin${all === 1 ? "" : "s"} ${out === 1 ? "is" : "are"} not running${problems}`;
  }
}
