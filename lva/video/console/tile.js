// One stream in the grid: its newest picture and how old that is, its state, its frames, its last minutes.

import { showAge } from "./age.js";
import { h, say, short, svg } from "./dom.js";
import { agentOf } from "./fleet.js";
import { bar, drawBar, droppedOf, inWords, reconnectsOf } from "./frames.js";
import { Preview, isWanted } from "./preview.js";
import { Seen } from "./seen.js";
import { stateLane, stateMark, wordOf } from "./states.js";

const LANE = { width: 300, height: 12 };

export class Tile {
  element;
  #feed;
  #id;
  #preview;
  #frame;
  #picture = h("canvas", { role: "img" });
  #mark = h("span");
  #word = h("span", { class: "word" });
  #name;
  #age = h("span", { class: "age" });
  #note = h("p", { class: "no-picture" });
  #seen = new Seen();
  #fps = h("span", { class: "fps" });
  #counts = h("span", { class: "counts" });
  #bar = bar();
  #words = h("span", { class: "hidden" });
  #agent = h("span", { class: "agent" });
  #reason = h("p", { class: "reason" });
  #lane = svg("svg", { class: "lane", viewBox: `0 0 ${LANE.width} ${LANE.height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  #shown = null;
  #marked = "";
  #drawn = "";

  constructor(feed, plugin, stream) {
    this.#feed = feed;
    this.#id = stream.stream_id;
    this.#frame = h("div", { class: "picture" }, this.#picture, this.#note, this.#seen.element, this.#age);
    this.#name = h("a", { href: `#/${stream.stream_id}` }, stream.name);
    this.element = h(
      "li",
      { class: "tile" },
      this.#frame,
      h("div", { class: "line" }, h("h2", {}, this.#name), h("span", { class: "state" }, this.#mark, this.#word)),
      h("div", { class: "line small" }, h("span", {}, this.#agent, this.#fps), this.#counts),
      this.#bar,
      this.#words,
      this.#lane,
      this.#reason,
    );
    this.#preview = new Preview(this.#picture, `/${plugin}/${stream.stream_id}/preview.jpg?size=480&quality=60`, (shown) => isWanted(this.#feed, this.#stream, shown), (at) => {
      this.#shown = at;
      this.age();
    });
    this.write();
  }

  close() {
    this.#preview.close();
  }

  get #stream() {
    return this.#feed.streams.get(this.#id);
  }

  /** Write how the stream is. */
  write() {
    const stream = this.#stream;
    if (!stream) return;
    const { status, reason, code, fps } = stream;
    this.element.dataset.status = status;
    if (this.#marked !== status) {
      this.#marked = status;
      this.#mark.replaceChildren(stateMark(status));
    }
    say(this.#word, wordOf(stream));
    say(this.#name, stream.name);
    say(this.#reason, status === "in_progress" && !code ? "" : (reason ?? ""));
    this.#reason.title = this.#reason.textContent;
    say(this.#agent, agentOf(stream));
    this.#agent.classList.toggle("bad", stream.fleet !== null && !stream.fleet.alive && stream.fleet.agent !== null);
    say(this.#fps, status === "in_progress" && fps !== null ? `${short(fps)} fps` : "");
    this.#figures(stream);
    this.age();
    this.lane();
  }

  /** Write what became of its frames; of a stream of another agent that is not known here. */
  #figures(stream) {
    const { frames } = stream;
    this.#bar.hidden = frames === null;
    if (frames === null) {
      say(this.#counts, "");
      say(this.#words, "");
      return;
    }
    const dropped = droppedOf(frames);
    const reconnects = reconnectsOf(stream);
    say(this.#counts, [dropped && `${short(dropped)} dropped`, frames.failed && `${short(frames.failed)} failed`, reconnects && `${short(reconnects)} reconnect${reconnects === 1 ? "" : "s"}`].filter(Boolean).join(" · "));
    drawBar(this.#bar, frames);
    say(this.#words, inWords(frames));
  }

  /** Write how old the picture is, and what was seen: by the clock, also when nothing is heard. */
  age() {
    const stream = this.#stream;
    if (!stream) return;
    stream.old = this.#feed.isOld(stream);
    showAge(this.#frame, this.#note, this.#age, stream, this.#feed, this.#shown);
    this.#seen.show(stream, this.#feed);
    this.#picture.setAttribute("aria-label", this.#shown === null ? `No picture of ${stream.name}` : `Picture of ${stream.name}`);
  }

  lane() {
    const stream = this.#stream;
    const end = this.#feed.at;
    const key = JSON.stringify([stream.status, stream.since, Math.floor(end / 5)]);
    if (key === this.#drawn) return;
    this.#drawn = key;
    this.#lane.replaceChildren(...stateLane(stream, end - this.#feed.window, end, LANE.width, LANE.height / 2));
  }
}
