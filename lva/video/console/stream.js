// One stream: its picture with what was seen in it, its frames, its attempts, its events as they come.

import { showAge } from "./age.js";
import { bytes, count, h, lasted, millis, say, short, svg, time, timeElement } from "./dom.js";
import { EventList } from "./events.js";
import { Feed } from "./feed.js";
import { agentOf, isElsewhere } from "./fleet.js";
import { reconnectsOf, rows } from "./frames.js";
import { draw, seenNow } from "./overlay.js";
import { Part } from "./part.js";
import { flow, flowInWords } from "./pictures.js";
import { Preview, isWanted } from "./preview.js";
import { stateLane, stateMark, word, wordOf } from "./states.js";
import { OFF, Refused, Steering, ask } from "./steer.js";
import { patterns } from "./timeline.js";

const VERBS = {
  stop: { label: "Stop", done: "is stopped", sure: "Its frames are not looked at until it is resumed." },
  resume: { label: "Resume", done: "is resumed" },
};
/** States in which a stream is not worked on. */
const AT_REST = new Set(["stop", "done", "failure"]);
const EVENTS = 100;
/** After how many ticks the agent of a stream is asked again, where that is another one. */
const ASKED = 2;
const LANE = 26;

export class StreamPage {
  element;
  name = "Stream";
  #model;
  #plugin;
  #id;
  #feed;
  #steering = null;
  #preview;
  #shown = null;
  #told = "";
  #canvas = h("canvas", { role: "img" });
  #overlay = svg("svg", { class: "overlay", "aria-hidden": "true", preserveAspectRatio: "xMidYMid meet" });
  #age = h("span", { class: "age" });
  #note = h("p", { class: "no-picture" });
  #picture;
  #mark = h("span");
  #title = h("span");
  #state = h("span", { class: "word" });
  #since = h("small");
  #reason = h("p", { class: "reason" });
  #hidden = h("p", { class: "note" });
  #lost = h("p", { class: "note bad", hidden: true });
  #facts = h("dl", { class: "facts" });
  #seen = h("ul", { class: "now", "aria-label": "Seen now" });
  #place = h("div");
  #list = new EventList();
  #parts;
  #changes = null;
  #events = [];
  /** What the agent of the stream has said of it, where that is another one. */
  #asked = null;
  #ticks = 0;
  #clock;
  #sizes = new ResizeObserver(() => this.#resized());
  #width = 0;

  constructor(model, plugin, id) {
    this.#model = model;
    this.#plugin = plugin;
    this.#id = id;
    this.#picture = h("div", { class: "picture" }, this.#canvas, this.#overlay, this.#note, this.#age);
    this.#parts = {
      events: new Part("Events", () => this.#list.element),
      frames: new Part("Frames", (frames, width) => {
        if (!frames.decoded) return h("p", { class: "empty" }, "No frame yet.");
        const places = rows(frames);
        return [flow(frames.decoded, "decoded", places, width || 600), flowInWords(frames.decoded, "frame", "decoded", places)];
      }),
      attempts: new Part("Attempts", (_key, width) => this.#attempts(width || 600), "wide", h("small", {}, "last 15 minutes")),
      log: new Part("Log", (changes) => log(changes), "wide"),
      source: new Part("Source", source),
      analytics: new Part("Analytics", analytics),
    };
    this.element = h(
      "div",
      { class: "stream plugin" },
      patterns(),
      h("nav", { "aria-label": "Back" }, h("a", { href: "#/" }, "← All streams")),
      h("div", { class: "title" }, h("div", {}, h("h1", {}, this.#mark, this.#title), h("p", { class: "state" }, this.#state, this.#since)), this.#place),
      this.#lost,
      this.#reason,
      this.#hidden,
      h("div", { class: "seeing" }, h("div", {}, this.#picture, this.#seen), h("div", {}, this.#facts, this.#parts.events.element)),
      h("div", { class: "parts" }, this.#parts.frames.element, this.#parts.source.element, this.#parts.attempts.element, this.#parts.analytics.element, this.#parts.log.element),
    );
    document.title = "LVA: stream";
    this.#feed = new Feed(plugin, id);
    this.#feed.addEventListener("change", ({ detail }) => this.#change(detail));
    this.#preview = new Preview(this.#canvas, `/${plugin}/${id}/preview.jpg?size=960`, (shown) => isWanted(this.#feed, this.#stream, shown), (at) => this.#drawn(at));
    this.#clock = setInterval(() => {
      this.#tick();
      this.#askAgent();
    }, 1000);
    this.#sizes.observe(this.element);
  }

  close() {
    clearInterval(this.#clock);
    this.#sizes.disconnect();
    this.#preview.close();
    this.#feed.close();
  }

  update() {
    this.#offer();
  }

  get #stream() {
    const stream = this.#feed.streams.get(this.#id) ?? null;
    return stream && isElsewhere(stream) && this.#asked ? { ...stream, ...this.#asked } : stream;
  }

  #drawn(at) {
    this.#shown = at;
    this.#tick();
    this.#drawOver();
  }

  #change({ kind, changes }) {
    this.#lost.hidden = !this.#feed.lost;
    say(this.#lost, "The service does not respond: what you see is old.");
    if (kind === "lost") return this.#missing();
    const stream = this.#stream;
    if (!stream) return this.#unknown();
    if (kind === "hello") {
      if (!isElsewhere(stream)) this.#events = stream.newest;
      this.#begin(stream);
    }
    if (this.#changes !== null && changes.length) this.#changes.unshift(...changes.toReversed());
    this.#write(stream);
  }

  #begin(stream) {
    if (this.#steering === null) {
      const path = `/${this.#plugin}/${this.#id}`;
      const act = (action) => ask(path, "PATCH", undefined, { action });
      this.#steering = new Steering(stream.name, VERBS, act, () => {});
      this.#place.replaceWith(this.#steering.element);
    }
    this.#readLog();
  }

  /** The reader was refused: there may be no such stream. */
  async #missing() {
    if (this.#feed.known) return;
    try {
      await ask(`/${this.#plugin}/${this.#id}`);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (error.status === 404) this.#unknown();
    }
  }

  /** Ask the agent of the stream for what only that one knows. */
  async #askAgent() {
    const stream = this.#feed.streams.get(this.#id);
    if (!stream || !isElsewhere(stream) || document.hidden || this.#ticks++ % ASKED) return;
    const path = `/${this.#plugin}/${this.#id}`;
    try {
      const [status, { events }] = await Promise.all([ask(path), ask(`${path}/events?limit=${EVENTS}`)]);
      this.#asked = status.frames === null ? null : { ...status, heard: performance.now() };
      this.#events = events.toReversed();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.#asked = null;
    }
    if (this.#stream) this.#write(this.#stream);
  }

  #unknown() {
    this.element.replaceChildren(h("nav", { "aria-label": "Back" }, h("a", { href: "#/" }, "← All streams")), h("h1", {}, "There is no such stream"));
    this.close();
  }

  async #readLog() {
    try {
      const { logs } = await ask(`/${this.#plugin}/${this.#id}/logs`);
      this.#changes = logs;
      this.#parts.log.show(this.#changes);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
    }
  }

  #write(stream) {
    const { status } = stream;
    if (this.#mark.dataset.status !== status) {
      this.#mark.dataset.status = status;
      this.#mark.replaceChildren(stateMark(status));
    }
    say(this.#title, stream.name);
    document.title = `LVA: ${stream.name}`;
    say(this.#state, wordOf(stream));
    say(this.#reason, stream.reason ?? "");
    if (stream.fleet) this.#fact("Agent", agentOf(stream));
    this.#fact("Frames a second", status === "in_progress" ? short(stream.fps) : "–");
    this.#fact("Age of frames when analysed, p95", millis(stream.frame_age_ms?.p95));
    this.#fact("Reconnects", count(reconnectsOf(stream)), reconnectsOf(stream) ? "warn" : "");
    this.#fact("Events", count(stream.events));
    this.#fact("Worker's memory", stream.worker?.memory ? bytes(stream.worker.memory) : "–");
    this.#parts.events.show(true);
    this.#list.show(this.#events.slice(-EVENTS));
    this.#parts.frames.show(stream.frames);
    this.#parts.source.show({ source: stream.source, version: stream.version, ...stream.video, ...stream.input, reconnects: undefined });
    this.#parts.analytics.show(stream.analytics);
    this.#parts.log.show(this.#changes);
    this.#tick();
    this.#drawOver();
    this.#offer();
  }

  #fact(name, text, kind = "") {
    let row = this.#facts.querySelector(`[data-name="${name}"]`);
    if (!row) this.#facts.append((row = h("div", { "data-name": name }, h("dt", {}, name), h("dd"))));
    say(row.lastChild, text);
    row.lastChild.className = kind;
  }

  #offer() {
    const stream = this.#stream;
    if (stream && this.#steering) this.#steering.offer(this.#model.off ? [] : [AT_REST.has(stream.status) ? "resume" : "stop"], false);
    say(this.#hidden, this.#model.off ? OFF : "");
  }

  /** Write what the clock changes. */
  #tick() {
    const stream = this.#stream;
    if (!stream) return;
    say(this.#since, stream.since ? `for ${lasted(this.#feed.at - stream.since)}` : "");
    showAge(this.#picture, this.#note, this.#age, stream, this.#feed, this.#shown);
    this.#canvas.setAttribute("aria-label", `Picture of ${stream.name}`);
    this.#parts.attempts.show([stream.status, stream.since, Math.floor(this.#feed.at / 5), stream.input?.reconnects]);
  }

  #drawOver() {
    const stream = this.#stream;
    if (!stream?.video || this.#shown === null) return;
    const seen = seenNow(this.#sinceConnected(stream), this.#shown);
    draw(this.#overlay, stream.video, stream, seen);
    const told = JSON.stringify(seen.map(({ what }) => what));
    if (this.#told === told) return;
    this.#told = told;
    this.#seen.replaceChildren(...seen.map(({ what }) => h("li", { class: "tag" }, what)));
  }

  /** The events since frames come: what began before has no end. */
  #sinceConnected(stream) {
    if (stream.status !== "in_progress") return [];
    const begun = stream.changes.findLast(({ status, before }) => status === "in_progress" && before !== status)?.time ?? 0;
    return this.#events.filter((event) => event.time > begun - 1);
  }

  #attempts(width) {
    const stream = this.#stream;
    const end = this.#feed.at;
    const begin = end - this.#feed.window;
    const reconnects = Object.entries(stream.input?.reconnects ?? {});
    return [
      svg("svg", { width, height: LANE + 16, viewBox: `0 0 ${width} ${LANE + 16}`, "aria-hidden": "true" }, ruler(begin, end, width), stateLane(stream, begin, end, width, LANE / 2)),
      reconnects.length
        ? h("p", { class: "note" }, `Reconnects: ${reconnects.map(([code, value]) => `${count(value)} after ${code.replaceAll("_", " ")}`).join(", ")}.`)
        : h("p", { class: "note" }, "No reconnects."),
    ];
  }

  #resized() {
    const width = this.element.clientWidth;
    if (width === this.#width) return;
    this.#width = width;
    this.#parts.frames.redraw();
    this.#parts.attempts.redraw();
  }
}

function ruler(begin, end, width) {
  const marks = [];
  for (let at = Math.ceil(begin / 300) * 300; at < end; at += 300) {
    const x = ((at - begin) / (end - begin)) * width;
    if (x > 16 && x < width - 16) marks.push(svg("line", { class: "rule", x1: x, x2: x, y1: 0, y2: LANE }), svg("text", { class: "label middle", x, y: LANE + 13 }, time(at).split(" ").pop().slice(0, 5)));
  }
  return marks;
}

function log(changes) {
  if (!changes.length) return h("p", { class: "empty" }, "Nothing yet.");
  const item = ({ time: at, status, code, reason }) => h("li", {}, timeElement(at), h("span", { class: "to" }, stateMark(status), word(status)), h("span", { class: "reason" }, reason, code ? h("small", { class: "tag" }, code) : null));
  return h("div", { class: "scroll", tabIndex: 0, role: "group", "aria-label": "Changes of state" }, h("ol", { class: "steps own" }, changes.map(item)));
}

const LABELS = {
  source: "Address", version: "Version of its definition", codec: "Codec", size: "Size", declared_fps: "Declared frames a second", packets: "Packets", bytes: "Bytes", decode_errors: "Decode errors",
  time_jumps: "Jumps of its clock", size_changes: "Changes of size",
};

function source({ width, height, ...others }) {
  const facts = { ...others, size: width ? `${width}×${height}` : null };
  const text = (key, value) => (key === "bytes" ? bytes(value) : typeof value === "number" ? short(value) : value);
  return h("table", { class: "plain" }, h("tbody", {}, Object.entries(LABELS).filter(([key]) => facts[key] !== null && facts[key] !== undefined).map(([key, label]) => h("tr", {}, h("th", { scope: "row" }, label), h("td", {}, h("code", {}, text(key, facts[key])))))));
}

function analytics(list) {
  if (!list.length) return h("p", { class: "empty" }, "No analytics plugin looks at it.");
  return h("ul", { class: "analytics" }, list.map(({ name, set_aside: why }) => h("li", {}, h("a", { href: `/#/plugins/${name}` }, name), why ? h("span", { class: "bad" }, ` set aside: ${why}`) : null)));
}
