// The first screen: whether the service is ready and why, its requests, its plugins, what has happened.

import { h, mark, urgency, word } from "./dom.js";
import { requestPlots } from "./plots.js";
import { OFF } from "./steer.js";
import { Table } from "./table.js";
import { Timeline, patterns } from "./timeline.js";

const NAMED = 6;

export class Overview {
  element;
  title = "LVA";
  #model;
  #verdict = h("section", { class: "verdict", "aria-labelledby": "verdict" });
  #heading = h("h1", { id: "verdict" });
  #why = h("ul", { class: "why" });
  #off = h("p", { class: "note", hidden: true }, OFF);
  #plots = requestPlots();
  #table;
  #timeline;
  #ticks = 0;
  #said = "";

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
      this.#timeline.element,
    );
    if (model.known) this.#all();
  }

  /** Take in a change of the model. */
  update({ kind, changed }) {
    if (kind === "hello") return this.#all();
    this.#table.update(changed, kind === "transition");
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
  }

  /** Say whether the service is ready, and which plugins keep it from being. */
  #judge() {
    const { ready, draining, plugins, details } = this.#model;
    const out = this.#model.notRunning.sort((a, b) => urgency(b.state) - urgency(a.state));
    const key = JSON.stringify([ready, draining, details, plugins.size, out.map(({ name, state, reason }) => [name, state, reason])]);
    if (key === this.#said) return;
    this.#said = key;
    const state = draining ? "stopping" : ready ? "running" : (out[0]?.state ?? "initializing");
    this.#verdict.dataset.verdict = draining ? "stopping" : ready ? "ready" : "not-ready";
    this.#heading.replaceChildren(mark(state), this.#inWords(out.length));
    const named = out.slice(0, NAMED).map((plugin) =>
      h(
        "li",
        {},
        mark(plugin.state),
        h("a", { href: `#/plugins/${plugin.name}` }, plugin.name),
        h("span", { class: "word" }, word(plugin.state)),
        h("span", { class: "reason" }, plugin.reason ?? (details || this.#model.off ? "" : "the reason takes the admin token")),
      ),
    );
    if (out.length > NAMED) named.push(h("li", { class: "more" }, `and ${out.length - NAMED} more, first in the table below`));
    this.#why.replaceChildren(...named);
    this.#why.hidden = !named.length;
    document.title = draining ? "LVA: stopping" : ready ? "LVA: ready" : `LVA: not ready (${out.length})`;
  }

  #inWords(out) {
    const { ready, draining, plugins } = this.#model;
    if (draining) return "The service is stopping";
    const all = plugins.size;
    const they = all === 1 ? "the one plugin runs" : `all ${all} plugins run`;
    if (ready && out) return `Ready: ${all - out} of ${all} plugins run, ${out} ${out === 1 ? "is" : "are"} stopped`;
    if (ready) return all ? `Ready: ${they}` : "Ready: no plugin is active";
    return `Not ready: ${out} of ${all} plugin${all === 1 ? "" : "s"} ${out === 1 ? "does" : "do"} not run`;
  }
}
