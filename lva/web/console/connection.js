// The one stream. It is read with fetch and not with EventSource, which cannot send a token.

/* global openStream */
import { token } from "./steer.js";

/** Longest silence, in milliseconds, before the connection counts as lost: ticks come each second. */
const SILENCE = 5000;
/** How long a page may be hidden before it gives its stream back. */
const HIDDEN = 60000;
const LONGEST_DELAY = 10000;

/**
 * Keep a stream open for as long as the page lives.
 * `onevent(name, data)` gets the events; `onstate({state, until, why})` what becomes of the connection.
 */
export class Connection {
  #onevent;
  #onstate;
  #abort = null;
  #failures = 0;
  #timer = 0;
  #silence = 0;
  #farewell = null;

  constructor(onevent, onstate) {
    this.#onevent = onevent;
    this.#onstate = onstate;
    addEventListener("online", () => this.reconnect());
    let hide = 0;
    document.addEventListener("visibilitychange", () => {
      clearTimeout(hide);
      if (document.hidden) hide = setTimeout(() => this.#pause(), HIDDEN);
      else if (this.#abort === null) this.reconnect();
    });
    this.#open();
  }

  /** Connect anew, now. */
  reconnect() {
    this.#failures = 0;
    this.#open();
  }

  #pause() {
    this.#stop();
    this.#onstate({ state: "paused" });
  }

  #stop() {
    clearTimeout(this.#timer);
    clearTimeout(this.#silence);
    this.#abort?.abort();
    this.#abort = null;
  }

  async #open() {
    this.#stop();
    const { abort, answer } = globalThis.firstStream ?? openStream();
    globalThis.firstStream = null;
    this.#abort = abort;
    this.#onstate({ state: "connecting" });
    let why = "the connection was lost";
    try {
      this.#listen(abort);
      const response = await answer;
      if (response.ok) await this.#read(response.body, abort);
      else if (response.status === 401) return this.#refused();
      else why = (await response.json().catch(() => null))?.detail ?? `the service responded with ${response.status}`;
    } catch {
      // Said below: why a fetch failed is not told to scripts.
    }
    if (this.#abort !== abort) return; // another connection has taken its place
    this.#retry(this.#farewell?.reason ?? why);
  }

  /** The token is wrong: go on without it, with what everybody may see. */
  #refused() {
    this.#stop();
    this.#onstate({ state: "refused" });
    token.set(null);
  }

  #retry(why) {
    const stopped = this.#farewell;
    this.#stop();
    const delay = Math.min(LONGEST_DELAY, 500 * 2 ** Math.min(this.#failures++, 10)) * (0.75 + Math.random() / 2);
    this.#timer = setTimeout(() => this.#open(), delay);
    this.#onstate({ state: stopped ? "stopped" : "lost", until: Date.now() + delay, why, at: stopped?.at });
  }

  #listen(abort) {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => abort.abort(), SILENCE);
  }

  async #read(body, abort) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let buffer = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      this.#listen(abort);
      const frames = (buffer + value).split("\n\n");
      buffer = frames.pop();
      for (const frame of frames) this.#handle(frame);
    }
  }

  #handle(frame) {
    let name = "message";
    let data = "";
    for (const line of frame.split("\n")) {
      if (line.startsWith("event: ")) name = line.slice(7);
      else if (line.startsWith("data: ")) data += line.slice(6);
    }
    const value = JSON.parse(data);
    if (name === "bye") this.#farewell = value;
    if (name === "hello") {
      this.#farewell = null; // until then, that it has stopped is what there is to say
      this.#failures = 0;
      this.#onstate({ state: "live" });
    }
    this.#onevent(name, value);
  }
}
