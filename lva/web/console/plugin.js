// One plugin: its state and history, where its points went, what it last failed with, what it runs.

import { bytes, count, h, lasted, mark, markOf, millis, percent, say, timeElement, unix, word } from "./dom.js";
import { Part } from "./part.js";
import { flow, flowInWords, histogram, mean, places } from "./pictures.js";
import { Plot } from "./plots.js";
import { OFF, Refused, Steering, ask } from "./steer.js";
import { history, patterns } from "./timeline.js";

/** What can be done to a plugin. */
const VERBS = {
  start: { label: "Start", done: "is started" },
  stop: { label: "Stop", done: "is stopped", sure: "It gets no more points and its routes respond with 503 until it is started." },
  restart: { label: "Restart", done: "is restarted", sure: "Its points wait meanwhile; its routes respond with 503." },
  reload: { label: "Reload", done: "runs its new code", sure: "Its file is read anew. If it is broken, the old code goes on." },
};
/** Shortest time, in milliseconds, between two requests for the same thing. */
const PAUSE = 2000;
/** After how many seconds a plugin is looked at although nothing was told of it: its file may have changed. */
const LOOK = 3;

/** Calls `work` at once, and then at most once in PAUSE, however often it is asked to. */
function sparingly(work) {
  let timer = null;
  let again = false;
  return function call() {
    if (timer !== null) {
      again = true;
      return;
    }
    work();
    timer = setTimeout(() => {
      timer = null;
      if (again) {
        again = false;
        call();
      }
    }, PAUSE);
  };
}

export class PluginPage {
  element;
  name;
  #model;
  #name;
  #status = null;
  #logged = -1;
  #asked = 0;
  #mark = h("span");
  #state = h("span", { class: "word" });
  #since = h("small");
  #reason = h("p", { class: "reason" });
  #changed = h("p", { class: "changed", hidden: true }, "The file on disk is not the one that runs. Reload takes it.");
  #facts = h("dl", { class: "facts" });
  #hidden = h("p", { class: "note" });
  #steering;
  #plot;
  #throughput = h("section", { class: "part throughput", "aria-label": "Throughput" });
  #parts;
  #failure = new Part("Last error", failure, "wide");
  #failed = null;
  #fetchStatus = sparingly(() => this.#readStatus());
  #fetchLog = sparingly(() => this.#readLog());
  #sizes = new ResizeObserver(() => this.#resized());
  #width = 0;
  #closed = false;

  constructor(model, name) {
    this.#model = model;
    this.#name = name;
    this.name = `Plugin ${name}`;
    this.#steering = new Steering(name, VERBS, (verb) => ask(`/plugins/${encodeURIComponent(name)}/${verb}`, "POST"), () => this.#readStatus());
    this.#plot = new Plot({
      title: "Throughput",
      unit: "",
      series: [{ key: "rate", label: "now", colour: "accent", fill: "accent-soft" }],
      empty: "Nothing in the last 15 minutes",
    });
    this.#throughput.append(this.#plot.element);
    const refresh = h("button", { type: "button", class: "quiet", onclick: () => this.#readTasks() }, "Refresh");
    this.#parts = {
      ledger: new Part("Points", (ledger, width) => {
        const rows = places(ledger);
        return [flow(ledger.accepted, "accepted", rows, width || 600), flowInWords(ledger.accepted, "point", "accepted", rows), notes(ledger)];
      }),
      durations: new Part("Handling", durations),
      loop: new Part("Event loop", loop),
      history: new Part("History", (value, width) => this.#history(value, width)),
      log: new Part("Log", log, "wide"),
      tasks: new Part("Tasks", tasks, "", refresh),
      routes: new Part("Routes", routes),
      code: new Part("Code", code),
      settings: new Part("Settings", settings, "wide"),
    };
    this.element = h(
      "div",
      { class: "plugin" },
      patterns(),
      h("nav", { "aria-label": "Back" }, h("a", { href: "#/" }, "← All plugins")),
      h(
        "div",
        { class: "title" },
        h("div", {}, h("h1", {}, this.#mark, name), h("p", { class: "state" }, this.#state, this.#since)),
        this.#steering.element,
      ),
      this.#reason,
      this.#changed,
      this.#hidden,
      this.#facts,
      h(
        "div",
        { class: "parts" },
        this.#failure.element,
        this.#throughput,
        Object.values(this.#parts).map(({ element }) => element),
      ),
    );
    document.title = `LVA: ${name}`;
    this.#sizes.observe(this.element);
    if (model.known) this.update({ kind: "hello", changed: null });
  }

  close() {
    this.#closed = true;
    this.#sizes.disconnect();
  }

  recolour() {
    this.#plot.recolour();
  }

  /** Take in a change of the model. */
  update({ kind, changed }) {
    const plugin = this.#model.plugins.get(this.#name);
    if (!plugin) return this.#unknown();
    this.#top(plugin);
    if (kind === "hello") this.#greet();
    const quiet = kind !== "hello" && !changed.has(this.#name);
    if (quiet && this.#model.at - this.#asked < LOOK) return;
    this.#asked = this.#model.at;
    this.#fetchStatus();
    if (quiet) return;
    if (!this.#model.details) return;
    if (plugin.log !== this.#logged) {
      this.#logged = plugin.log;
      this.#fetchLog();
    }
    if (kind !== "tick") this.#readTasks();
  }

  /** Show details, or say why there are none. */
  #greet() {
    this.#logged = -1;
    if (this.#model.details) return say(this.#hidden, "");
    this.#failed = null;
    this.#status = null;
    for (const part of [this.#failure, this.#parts.log, this.#parts.tasks]) part.show(null);
    say(this.#hidden, this.#model.off ? OFF : "Errors, log, tasks and settings are shown to those who enter the admin token.");
  }

  #unknown() {
    this.element.replaceChildren(
      h("nav", { "aria-label": "Back" }, h("a", { href: "#/" }, "← All plugins")),
      h("h1", {}, `No active plugin is named ${this.#name}`),
    );
  }

  #top(plugin) {
    const { at } = this.#model;
    const marked = markOf(plugin);
    if (this.#mark.dataset.state !== marked) {
      this.#mark.dataset.state = marked;
      this.#mark.replaceChildren(mark(marked));
    }
    say(this.#state, word(plugin.state));
    say(this.#since, `for ${lasted(at - plugin.since)}`);
    const running = plugin.state === "running";
    say(this.#reason, running ? plugin.troubles.map(({ text }) => text).join("; ") : (plugin.reason ?? ""));
    this.#reason.className = `reason ${running ? (plugin.troubles[0]?.kind ?? "") : ""}`;
    const unit = { points: "points delivered per second", requests: "requests served per second" }[plugin.unit];
    this.#throughput.hidden = !unit;
    say(this.#plot.element.querySelector("small"), unit ?? "");
    const step = this.#model.window / 60;
    const begin = at - (plugin.spark.length - 1) * step;
    this.#plot.draw({ at: plugin.spark.map((_, index) => begin + index * step), rate: plugin.spark }, at, this.#model.window);
    this.#fact("Restarts", count(plugin.restarts), plugin.restarts > 0 ? "warn" : "");
    if (plugin.queued !== null) {
      this.#fact("Queue", count(plugin.queued), plugin.fill >= 0.9 ? "bad" : "");
      this.#fact("Dropped", count(plugin.dropped), plugin.dropped > 0 ? "bad" : "");
    }
    if (plugin.share !== null) this.#fact("Loop share", percent(plugin.share), plugin.share > 0.25 ? "warn" : "");
    this.#parts.history.show([plugin.state, plugin.since, Math.floor(at / 5), this.#model.timeline.filter((step) => step.plugin === this.#name).length]);
  }

  #fact(name, text, kind) {
    let row = this.#facts.querySelector(`[data-name="${name}"]`);
    if (!row) this.#facts.append((row = h("div", { "data-name": name }, h("dt", {}, name), h("dd"))));
    say(row.lastChild, text);
    row.lastChild.className = kind;
  }

  #history(_key, width) {
    const plugin = this.#model.plugins.get(this.#name);
    const steps = this.#model.timeline.filter((step) => step.plugin === this.#name);
    const whole = this.#status?.history?.map((step) => ({ ...step, at: unix(step.at) })) ?? steps;
    return [
      history(plugin, steps, this.#model.at, this.#model.window, width || 600),
      h(
        "div",
        { class: "scroll", tabIndex: 0, role: "group", "aria-label": "Changes of state" },
        h(
          "ol",
          { class: "steps own" },
          whole.toReversed().map((step) => h("li", {}, timeElement(step.at), h("span", { class: "to" }, mark(step.state), word(step.state)), h("span", { class: "reason" }, step.reason ?? ""))),
        ),
      ),
    ];
  }

  #resized() {
    const width = this.element.clientWidth;
    if (width === this.#width) return;
    this.#width = width;
    this.#parts.ledger.redraw();
    this.#parts.history.redraw();
  }

  // What the stream does not tell

  async #get(path) {
    try {
      const value = await ask(path);
      return this.#closed ? null : value;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (!this.#closed && error.status !== 404 && error.status !== 0) say(this.#hidden, error.message);
      return null;
    }
  }

  async #readStatus() {
    const status = await this.#get(`/plugins/${this.#name}`);
    if (!status) return;
    this.#status = status;
    const [delivery] = status.deliveries;
    this.#steering.offer(this.#model.off ? [] : (status.actions ?? []), status.file_changed ?? false);
    this.#changed.hidden = !status.file_changed;
    this.#parts.ledger.show(status.ledger ? { dropped: {}, ...status.ledger } : null);
    this.#parts.durations.show(delivery ? status.deliveries : null);
    this.#parts.loop.show(status.loop ?? null);
    this.#parts.routes.show(status.routes.length ? status.routes : null);
    this.#parts.settings.show(status.settings ? { ...flat(status.config), ...status.settings } : null);
    this.#parts.code.show({ file: status.file, sha256: status.sha256, classes: status.classes, kind: status.kind, runtime: status.runtime });
    this.#parts.history.redraw();
    this.#showFailure();
  }

  async #readLog() {
    const answer = await this.#get(`/plugins/${this.#name}/log`);
    if (!answer) return;
    this.#parts.log.show(answer.records);
    this.#failed = answer.last_failure;
    this.#showFailure();
  }

  #showFailure() {
    const error = this.#status?.last_error ?? null;
    this.#failure.show(error || this.#failed ? { error, at: this.#status?.last_error_at, failed: this.#failed } : null);
  }

  async #readTasks() {
    const answer = await this.#get(`/plugins/${this.#name}/tasks`);
    if (answer) this.#parts.tasks.show(answer);
  }
}

// The parts

/** What failed last, and the newest traceback, which may be of something earlier: not every error has one. */
function failure({ error, at, failed }) {
  const same = failed && error && failed.message.includes(error);
  return [
    error && !same ? h("p", { class: "message" }, at ? [timeElement(unix(at)), " "] : null, error) : null,
    failed ? h("p", { class: "message" }, timeElement(failed.at), " ", failed.message) : null,
    failed ? h("pre", { tabIndex: 0, "aria-label": "Traceback" }, failed.traceback) : null,
  ];
}

function notes(ledger) {
  const told = [
    ledger.recovered && `${count(ledger.recovered)} of the accepted came from an earlier run`,
    ledger.retries && `${count(ledger.retries)} ${ledger.retries === 1 ? "call was a repeated attempt" : "calls were repeated attempts"}`,
    ledger.filtered && `${count(ledger.filtered)} others were filtered, by the plugin's settings`,
    ledger.refused && `${count(ledger.refused)} came too late and were refused`,
  ].filter(Boolean);
  return told.length ? h("p", { class: "note" }, `${told.join("; ")}.`) : null;
}

const CIRCUIT = { open: "Circuit open: no calls until the next probe.", probing: "Circuit open: one call probes the receiver." };

function circuit({ circuit: state, next_probe: seconds }) {
  return state === "open" && seconds ? `Circuit open; next probe in ${Math.ceil(seconds)} s.` : CIRCUIT[state];
}

function durations(deliveries) {
  return deliveries.flatMap((delivery) => [
    deliveries.length > 1 ? h("h3", {}, delivery.class) : null,
    delivery.circuit === "closed" ? null : h("p", { class: "outcome bad" }, circuit(delivery)),
    h(
      "div",
      { class: "pair" },
      h("div", {}, h("h3", {}, "Time of a call", h("small", {}, `mean ${mean(delivery.handle_seconds, (value) => millis(value * 1000))}`)), histogram(delivery.handle_seconds, (value) => millis(value * 1000), "No call yet")),
      h("div", {}, h("h3", {}, "Points in a call", h("small", {}, `mean ${mean(delivery.batch_sizes)}`)), histogram(delivery.batch_sizes, count, "No call yet")),
    ),
    delivery.spool_bytes ? h("p", { class: "note" }, `${bytes(delivery.spool_bytes)} wait on disk.`) : null,
  ]);
}

/** What a plugin may have blocked. */
const BLOCKED = {
  service: "the event loop",
  plugin: "its own event loop",
  thread: "a worker thread of a request",
};

function loop({ share, cpu_share: cpu, blocks, last_block: block }) {
  return [
    h(
      "dl",
      { class: "facts" },
      h("div", {}, h("dt", {}, "Share, last minute"), h("dd", {}, percent(share))),
      cpu === null || cpu === undefined ? null : h("div", {}, h("dt", {}, "CPU of its thread"), h("dd", {}, percent(cpu))),
      h("div", {}, h("dt", {}, "Blocks"), h("dd", { class: blocks ? "bad" : "" }, count(blocks))),
    ),
    block
      ? [
          h("p", { class: "message" }, timeElement(unix(block.at)), ` blocked ${BLOCKED[block.of] ?? "it"} for ${millis(block.seconds * 1000)} at ${block.where}`),
          block.stack ? h("pre", { tabIndex: 0, "aria-label": "Stack of the last block" }, Array.isArray(block.stack) ? block.stack.join("\n") : block.stack) : null,
        ]
      : null,
  ].flat();
}

function routes(list) {
  return h(
    "table",
    { class: "plain" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Path"), h("th", { scope: "col" }, "Methods"))),
    h("tbody", {}, list.map(({ path, methods }) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, path)), h("td", {}, methods.join(", "))))),
  );
}

/** The configurations of a plugin's classes, key by key. */
const flat = (configs) =>
  Object.fromEntries(Object.values(configs).flatMap((config) => Object.entries(config ?? {}).map(([key, value]) => [`config.${key}`, value])));

function settings(values) {
  const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  const rows = Object.entries(values).map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, h("code", {}, text(value)))));
  return h("dl", { class: "settings" }, rows);
}

function code({ file, sha256, classes, kind, runtime }) {
  const rows = { File: file, "SHA-256": sha256, Classes: classes?.join(", "), Kind: kind, Runtime: runtime };
  return h(
    "table",
    { class: "plain" },
    h("tbody", {}, Object.entries(rows).filter(([, value]) => value).map(([key, value]) => h("tr", {}, h("th", { scope: "row" }, key), h("td", {}, h("code", {}, value))))),
  );
}

function tasks({ at, tasks: roots }) {
  const item = (task) =>
    h("li", {}, h("span", { class: "task" }, task.name, task.runtime === "asyncio" ? h("small", { class: "tag" }, "asyncio") : null), task.where ? h("code", {}, task.where) : null, task.children?.length ? h("ul", {}, task.children.map(item)) : null);
  return [
    roots.length ? h("ul", { class: "tree" }, roots.map(item)) : h("p", { class: "empty" }, "No tasks."),
    h("p", { class: "note" }, "As of ", timeElement(unix(at)), "."),
  ];
}

function log(records) {
  if (!records.length) return h("p", { class: "empty" }, "Nothing yet.");
  const lines = records.map((record) =>
    h(
      "li",
      { class: `level-${record.level.toLowerCase()}` },
      timeElement(record.at),
      h("span", { class: "level" }, record.level),
      h("span", { class: "message" }, record.logger.startsWith("lva.plugin.") ? null : h("small", {}, `${record.logger} `), record.message, record.traceback ? h("details", {}, h("summary", {}, "Traceback"), h("pre", { tabIndex: 0 }, record.traceback)) : null),
    ),
  );
  const list = h("div", { class: "scroll log", tabIndex: 0, role: "group", "aria-label": "Newest log records" }, h("ol", {}, lines));
  requestAnimationFrame(() => (list.scrollTop = list.scrollHeight));
  return list;
}
