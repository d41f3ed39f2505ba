// What the service tells of its streams: `hello` has all, `update` what is new.

import { isElsewhere } from "./fleet.js";

/** How long, in milliseconds, until a lost connection is tried again, and for how long a page may be hidden. */
const PAUSE = 2000;
const HIDDEN = 60000;
/** Most events and changes that are kept of a stream; of all streams, the newest events only, without their data. */
const EVENTS = 200;
const FEW = 20;
const CHANGES = 200;
/** Seconds after which a picture is old. */
export const OLD = 10;

export class Feed extends EventTarget {
  streams = new Map();
  /** What is told of the fleet; null without one. */
  fleet = null;
  known = false;
  lost = false;
  #url;
  #one;
  #source = null;
  #timer = 0;
  #at = 0;
  #heard = 0;
  #hide = 0;
  #shown = () => this.#visibility();

  constructor(plugin, stream = null) {
    super();
    this.#one = stream !== null;
    this.#url = `/${plugin}/live${stream === null ? "" : `?stream=${encodeURIComponent(stream)}`}`;
    document.addEventListener("visibilitychange", this.#shown);
    this.#open();
  }

  /** The service's time now. */
  get at() {
    return this.#at + (performance.now() - this.#heard) / 1000;
  }

  close() {
    document.removeEventListener("visibilitychange", this.#shown);
    clearTimeout(this.#hide);
    this.#stop();
  }

  /** How old a stream's newest frame is, in seconds; null before the first. */
  ageOf(stream) {
    return stream.picture_age === null ? null : stream.picture_age + (performance.now() - stream.heard) / 1000;
  }

  /** Whether a stream's newest frame is old, or there is none where one should be. */
  isOld(stream) {
    if (isElsewhere(stream)) return stream.fleet !== null && !stream.fleet.alive && stream.fleet.agent !== null;
    const age = this.ageOf(stream);
    return age === null ? stream.status === "in_progress" && this.at - (stream.since ?? this.at) > OLD : age > OLD;
  }

  #visibility() {
    clearTimeout(this.#hide);
    if (document.hidden) this.#hide = setTimeout(() => this.#stop(), HIDDEN);
    else if (this.#source === null) this.#open();
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  #open() {
    this.#stop();
    const source = (this.#source = new EventSource(this.#url));
    source.addEventListener("hello", ({ data }) => this.#hello(JSON.parse(data)));
    source.addEventListener("update", ({ data }) => this.#update(JSON.parse(data)));
    source.addEventListener("error", () => {
      this.#stop();
      this.#timer = setTimeout(() => this.#open(), PAUSE * (0.75 + Math.random() / 2));
      this.lost = true;
      this.#tell("lost");
    });
  }

  #listen(at) {
    this.#at = at;
    this.#heard = performance.now();
    this.lost = false;
  }

  #hello({ at, window, streams, fleet }) {
    this.#listen(at);
    this.fleet = fleet ?? null;
    this.window = window;
    this.known = true;
    const heard = performance.now();
    this.streams = new Map(streams.map((stream) => [stream.stream_id, { newest: [], ...stream, heard }]));
    this.#tell("hello");
  }

  #update({ at, streams, changes, events, fleet, left_out: leftOut }) {
    this.#listen(at);
    this.fleet = fleet ?? this.fleet;
    for (const [id, news] of Object.entries(streams)) {
      const stream = this.streams.get(id);
      if (!stream) continue;
      Object.assign(stream, news);
      if ("picture_age" in news) stream.heard = performance.now();
    }
    for (const change of changes) keep(this.streams.get(change.stream_id)?.changes, change, CHANGES);
    for (const event of events) keep(this.streams.get(event.stream_id)?.newest, this.#one ? event : brief(event), this.#one ? EVENTS : FEW);
    this.#tell("update", { changes, events, leftOut });
  }

  #tell(kind, more = {}) {
    this.dispatchEvent(new CustomEvent("change", { detail: { kind, changes: [], events: [], ...more } }));
  }
}

const brief = ({ event_type, time }) => ({ event_type, time });

function keep(list, item, most) {
  if (!list) return;
  list.push(item);
  if (list.length > most) list.shift();
}
