// The plugins as rows. A row is made once; after that, only what has changed is written.

import { count, h, lasted, mark, markOf, millis, percent, say, short, urgency, word } from "./dom.js";
import { drawGauge, drawSpark, gauge, spark } from "./pictures.js";

const COLUMNS = [
  { key: "state", label: "State", order: (a, b) => urgency(b) - urgency(a) },
  { key: "name", label: "Plugin", order: (a, b) => a.name.localeCompare(b.name) },
  { key: "rate", label: "Throughput", order: (a, b) => b.rate - a.rate },
  { key: "queued", label: "Queue", order: (a, b) => (b.fill ?? -1) - (a.fill ?? -1) || (b.queued ?? -1) - (a.queued ?? -1) },
  { key: "dropped", label: "Dropped", order: (a, b) => (b.dropped ?? -1) - (a.dropped ?? -1), number: true },
  { key: "restarts", label: "Restarts", order: (a, b) => b.restarts - a.restarts, number: true },
  { key: "share", label: "Loop share", order: (a, b) => (b.share ?? -1) - (a.share ?? -1), number: true },
];

/** What a running plugin is to be looked at for. */
const blocked = (block) => (block ? `blocked ${block.what} for ${millis(block.seconds * 1000)} at ${block.where}` : "");

class Row {
  element;
  #state = h("span", { class: "word" });
  #mark = h("span");
  #for = h("small", { class: "for" });
  #reason = h("div", { class: "reason" });
  #spark = spark();
  #rate = h("span", { class: "amount" });
  #gauge = gauge();
  #queued = h("span", { class: "amount" });
  #dropped = h("td", { class: "number", "data-label": "Dropped" });
  #restarts = h("td", { class: "number", "data-label": "Restarts" });
  #share = h("td", { class: "number", "data-label": "Loop share" });
  #shown = null;
  #unit;

  constructor(plugin) {
    this.#unit = plugin.unit;
    const unit = { points: "points/s", requests: "requests/s" }[plugin.unit] ?? "";
    this.element = h(
      "tr",
      {},
      h("td", { class: "state" }, this.#mark, this.#state, this.#for),
      h(
        "th",
        { scope: "row", class: "name" },
        h("a", { href: `#/plugins/${plugin.name}` }, plugin.name),
        plugin.critical ? h("small", { class: "tag", title: "The service stops when this plugin has failed" }, "critical") : null,
        this.#reason,
      ),
      h("td", { class: `rate${plugin.unit ? "" : " none"}` }, this.#spark, h("span", { class: "reading" }, this.#rate, h("small", {}, unit))),
      h("td", { class: `queue${plugin.unit === "points" ? "" : " none"}` }, this.#gauge.element, this.#queued),
      this.#dropped,
      this.#restarts,
      this.#share,
    );
  }

  /** Write what has changed. */
  write(plugin) {
    const marked = markOf(plugin);
    if (this.#shown !== marked) {
      this.#mark.replaceChildren(mark(marked));
      this.#shown = marked;
    }
    this.element.dataset.state = plugin.state;
    say(this.#state, word(plugin.state));
    const running = plugin.state === "running";
    const told = running ? [...plugin.troubles.map(({ text }) => text), blocked(plugin.block)].filter(Boolean) : [plugin.reason ?? ""];
    say(this.#reason, told.join("; "));
    this.#reason.className = `reason ${running ? (plugin.troubles[0]?.kind ?? "") : ""}`;
    drawSpark(this.#spark, this.#unit ? plugin.spark : []);
    say(this.#rate, this.#unit ? short(plugin.rate) : "–");
    const takes = plugin.queued !== null;
    this.#gauge.element.hidden = !takes;
    drawGauge(this.#gauge, plugin.fill);
    say(this.#queued, takes ? count(plugin.queued) : "–");
    this.#number(this.#dropped, plugin.dropped, count(plugin.dropped), plugin.dropped > 0 && "bad");
    this.#number(this.#restarts, plugin.restarts, count(plugin.restarts), plugin.restarts > 0 && "warn");
    this.#number(this.#share, plugin.share, percent(plugin.share), plugin.share > 0.25 && "warn");
  }

  /** Write how long the state has lasted. */
  age(plugin, at) {
    say(this.#for, lasted(at - plugin.since));
  }

  #number(cell, value, text, kind) {
    say(cell, text);
    cell.className = `number ${kind || (value ? "" : "none")}`;
  }
}

/** The table of all plugins, which can be sorted and searched. */
export class Table {
  element;
  #model;
  #rows = new Map();
  #order = "";
  #body = h("tbody");
  #by = COLUMNS[0];
  #search = h("input", {
    type: "search",
    id: "search",
    placeholder: "Name or state",
    autocomplete: "off",
    spellcheck: false,
    oninput: () => this.#arrange(),
  });
  #heads;
  #nothing = h("p", { class: "empty", hidden: true }, "No match.");
  #count = h("small");

  constructor(model) {
    this.#model = model;
    this.#heads = COLUMNS.map((column) =>
      h(
        "th",
        { scope: "col", class: `${column.key}${column.number ? " number" : ""}` },
        h("button", { type: "button", onclick: () => this.#sort(column) }, column.label),
      ),
    );
    this.element = h(
      "section",
      { class: "plugins", "aria-labelledby": "plugins-title" },
      h(
        "div",
        { class: "head" },
        h("h2", { id: "plugins-title" }, "Plugins", this.#count),
        h("div", { class: "search" }, h("label", { class: "hidden", for: "search" }, "Show only plugins whose name or state contains"), this.#search),
      ),
      h("table", {}, h("thead", {}, h("tr", {}, this.#heads)), this.#body),
      this.#nothing,
    );
  }

  /** Make all rows anew. */
  build() {
    this.#rows = new Map([...this.#model.plugins.values()].map((plugin) => [plugin.name, new Row(plugin)]));
    for (const [name, row] of this.#rows) row.write(this.#model.plugins.get(name));
    this.age();
    this.#arrange();
  }

  /** Write the rows of these plugins; put all in order again if one needs a person more or less than before. */
  update(changed) {
    for (const name of changed) {
      const plugin = this.#model.plugins.get(name);
      if (plugin) this.#rows.get(name)?.write(plugin);
    }
    const order = [...this.#model.plugins.values()].map(urgency).join();
    if (order !== this.#order) this.#arrange();
    this.#order = order;
  }

  age() {
    for (const [name, row] of this.#rows) row.age(this.#model.plugins.get(name), this.#model.at);
  }

  #sort(column) {
    this.#by = column;
    this.#arrange();
  }

  #arrange() {
    const sought = this.#search.value.trim().toLowerCase();
    const shown = [...this.#model.plugins.values()]
      .filter(({ name, state }) => name.toLowerCase().includes(sought) || word(state).startsWith(sought))
      .sort((a, b) => this.#by.order(a, b) || a.order - b.order);
    const elements = shown.map(({ name }) => this.#rows.get(name).element);
    const focused = document.activeElement;
    if (elements.length !== this.#body.children.length || elements.some((element, index) => this.#body.children[index] !== element)) {
      this.#body.replaceChildren(...elements);
      if (this.#body.contains(focused)) focused.focus({ preventScroll: true });
    }
    this.#heads.forEach((head, index) => {
      if (COLUMNS[index] === this.#by) head.setAttribute("aria-sort", index === 1 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    const all = this.#model.plugins.size;
    say(this.#count, shown.length === all ? `${all}` : `${shown.length} of ${all}`);
    this.#nothing.hidden = shown.length > 0;
  }
}
