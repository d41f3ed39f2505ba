// All streams: how many are well and which are not, then a tile for each.

import { announce, counted, h, lasted, mark, say } from "./dom.js";
import { Feed } from "./feed.js";
import { Agents, agentOf } from "./fleet.js";
import { isWarned, markOf, needsSomebody, urgency, wordOf } from "./states.js";
import { Tile } from "./tile.js";
import { patterns } from "./timeline.js";

const NAMED = 6;

export class Grid {
  element;
  name = "All streams";
  #model;
  #plugin;
  #feed;
  #tiles = new Map();
  #heading = h("h1", { id: "verdict" }, "Streams");
  #why = h("ul", { class: "why" });
  #lost = h("p", { class: "note bad", hidden: true });
  #agents = new Agents();
  #list = h("ul", { class: "tiles" });
  #search = h("input", { type: "search", id: "search", placeholder: "Name or state", autocomplete: "off", spellcheck: false, oninput: () => this.#arrange() });
  #count = h("small");
  #head;
  #empty;
  #said = "";
  #failed = new Set();
  #clock;

  constructor(model, plugin) {
    this.#model = model;
    this.#plugin = plugin;
    this.#head = h(
      "div",
      { class: "head", hidden: true },
      h("p", {}, this.#count),
      h("div", { class: "search" }, h("label", { class: "hidden", for: "search" }, "Show only streams whose name or state contains"), this.#search),
    );
    this.#empty = empty(plugin);
    this.element = h("div", { class: "streams" }, patterns(), h("section", { class: "verdict", "aria-labelledby": "verdict" }, this.#heading, this.#lost, this.#why), this.#agents.element, this.#head, this.#empty, this.#list);
    document.title = "LVA: streams";
    this.#feed = new Feed(plugin);
    this.#feed.addEventListener("change", ({ detail }) => this.#change(detail));
    this.#clock = setInterval(() => this.#tick(), 1000);
  }

  close() {
    clearInterval(this.#clock);
    this.#feed.close();
    for (const tile of this.#tiles.values()) tile.close();
  }

  update() {
    this.#showLost();
  }

  #change({ kind }) {
    this.#showLost();
    if (kind === "lost") return;
    this.#agents.show(this.#feed.fleet);
    if (kind === "hello") this.#build();
    else this.#arrange(); // the state of one may be what is sought
    for (const tile of this.#tiles.values()) tile.write();
    this.#judge();
  }

  #tick() {
    for (const tile of this.#tiles.values()) tile.age();
    if (this.#feed.known) this.#judge();
  }

  #build() {
    const { streams } = this.#feed;
    for (const [id, tile] of this.#tiles)
      if (!streams.has(id)) {
        tile.close();
        this.#tiles.delete(id);
      }
    for (const [id, stream] of streams) if (!this.#tiles.has(id)) this.#tiles.set(id, new Tile(this.#feed, this.#plugin, stream));
    this.#empty.hidden = streams.size > 0;
    this.#head.hidden = streams.size < 2;
    this.#arrange();
  }

  /** Show the tiles that are sought, in the order in which the streams were made: a wall has them at their places. */
  #arrange() {
    const sought = this.#search.value.trim().toLowerCase();
    const { streams } = this.#feed;
    const shown = [...streams.values()].filter((stream) => stream.name.toLowerCase().includes(sought) || wordOf(stream).startsWith(sought) || agentOf(stream).toLowerCase().startsWith(sought));
    const elements = shown.map(({ stream_id: id }) => this.#tiles.get(id).element);
    if (elements.length !== this.#list.children.length || elements.some((element, index) => this.#list.children[index] !== element)) {
      const focused = document.activeElement;
      this.#list.replaceChildren(...elements);
      if (this.#list.contains(focused)) focused.focus({ preventScroll: true });
    }
    say(this.#count, shown.length === streams.size ? counted(streams.size, "stream") : `${shown.length} of ${streams.size} streams`);
  }

  /** Say how the streams are as a whole, and name those that need somebody. */
  #judge() {
    const all = [...this.#feed.streams.values()];
    const bad = all.filter(needsSomebody).sort((a, b) => urgency(b) - urgency(a));
    const key = JSON.stringify([this.#feed.fleet?.trouble, all.map((stream) => [stream.name, wordOf(stream), stream.reason]), bad.map(({ stream_id: id }) => id)]);
    if (key === this.#said) return;
    this.#said = key;
    const unknown = !all.length && Boolean(this.#feed.fleet?.trouble);
    this.#empty.hidden = all.length > 0 || unknown;
    this.#heading.replaceChildren(...(all.length ? [mark(bad.length ? markName(bad[0]) : "running")] : []), unknown ? "The streams are not known now" : inWords(all, bad.length));
    const items = bad.slice(0, NAMED).map((stream) => h("li", {}, mark(markName(stream)), h("a", { href: `#/${stream.stream_id}` }, stream.name), h("span", { class: "word" }, wordOf(stream)), h("span", { class: "reason" }, this.#trouble(stream))));
    if (bad.length > NAMED) items.push(h("li", { class: "more" }, `and ${bad.length - NAMED} more`));
    this.#why.replaceChildren(...items);
    this.#why.hidden = !items.length;
    document.title = bad.length ? `LVA: streams (${bad.length} with problems)` : "LVA: streams";
    const fresh = bad.filter(({ stream_id: id }) => !this.#failed.has(id));
    this.#failed = new Set(bad.map(({ stream_id: id }) => id));
    if (fresh.length) announce(fresh.map((stream) => `${stream.name}: ${wordOf(stream)}`).join("; "));
  }

  #trouble(stream) {
    if (stream.status !== "in_progress" || !stream.old) return stream.reason ?? "";
    const age = this.#feed.ageOf(stream);
    return age === null ? "no frame yet" : `no frame since ${lasted(age)}`;
  }

  #showLost() {
    const plugin = this.#model.plugins.get(this.#plugin);
    const stopped = plugin && plugin.state !== "running";
    this.#lost.hidden = !(this.#feed.lost || stopped);
    say(this.#lost, stopped ? `The plugin ${this.#plugin} is ${plugin.state}: no stream is worked on, and what you see is old.` : this.#feed.lost ? "The service does not respond: what you see is old." : "");
  }
}

/** The mark of a stream: of its state, or that it is to be looked at although it is in progress. */
const markName = (stream) => (stream.fleet?.waiting || isWarned(stream) ? "warn" : markOf(stream.status));

function inWords(all, bad) {
  if (!all.length) return "No streams yet";
  const well = all.filter((stream) => stream.status === "in_progress" && !isWarned(stream)).length;
  const whole = all.length === 1 ? "The one stream is" : `All ${all.length} streams are`;
  if (well === all.length) return `${whole} in progress`;
  const told = [`${well} of ${counted(all.length, "stream")} in progress`];
  for (const status of ["pending", "paused", "stop", "done"]) {
    const some = all.filter((stream) => stream.status === status && !needsSomebody(stream));
    for (const what of new Set(some.map(wordOf))) told.push(`${some.filter((stream) => wordOf(stream) === what).length} ${what}`);
  }
  if (bad) told.push(`${bad} ${bad === 1 ? "needs" : "need"} attention`);
  return told.join(", ");
}

/** How to add a stream. */
const empty = (plugin) =>
  h(
    "section",
    { class: "empty-state", hidden: true, "aria-label": "How to add a stream" },
    h("p", {}, "Add a camera by its address, or a generated picture to try it out:"),
    h("pre", { tabIndex: 0 }, `lva streams add door test: --analytics motion\n\ncurl ${location.origin}/${plugin} -d '{"name": "door", "source": "rtsp://user:password@camera/stream"}'`),
    h("p", { class: "note" }, "The stream appears here as soon as it is there. ", h("a", { href: "/docs" }, "API documentation")),
  );
