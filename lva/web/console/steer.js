// Acting on plugins, and the token that it takes. The token lives as long as the tab, and only there.

import { announce, h } from "./dom.js";

const KEY = "lva-token";

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set(value) {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
    dispatchEvent(new Event("token"));
  },
};

const bearer = (value) => (value ? { Authorization: `Bearer ${value}` } : {});

/** An answer that is no success: its status and problem document. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem?.detail ?? `The service responded with ${status}.`);
    this.status = status;
    this.problems = problem?.problems ?? [];
  }
}

/** Send a request, with the token or another one, and with a value as JSON; return the JSON that answers it. */
export async function ask(path, method = "GET", given = token.get(), value = undefined) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: { Accept: "application/json", ...(value === undefined ? {} : { "Content-Type": "application/json" }), ...bearer(given) },
      body: value === undefined ? undefined : JSON.stringify(value),
      cache: "no-store",
    });
  } catch {
    throw new Refused(0, { detail: "The service cannot be reached." });
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Refused(response.status, body);
  return body;
}

/** Why there are neither actions nor details where no token can help. */
export const OFF =
  "Actions, errors, log, tasks and settings are off: the service has no admin token, and without one they are only for those who reach it directly, listening on the loopback interface alone. Set LUNA_VIDEO_AGENT_ADMIN_TOKEN.";

let forms = 0;

/** A form that asks for the token until it is right; calls `done()` then, or `cancel()`. */
export function tokenForm(why, done, cancel) {
  const id = `token-${(forms += 1)}`;
  const field = h("input", { type: "password", id, autocomplete: "off", required: true, spellcheck: false });
  const label = h("label", { for: id }, why);
  const check = async (event) => {
    event.preventDefault();
    const given = field.value.trim();
    try {
      await ask("/plugins", "GET", given);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      label.textContent = error.status === 401 ? "That token was refused. Try another one:" : `${error.message} Try again:`;
      announce(label.textContent);
      field.value = "";
      return field.focus();
    }
    token.set(given);
    done();
  };
  queueMicrotask(() => field.focus());
  return h(
    "form",
    { class: "ask", onsubmit: check },
    label,
    field,
    h("button", { type: "submit", class: "primary" }, "Use this token"),
    h("button", { type: "button", onclick: cancel }, "Cancel"),
  );
}

/**
 * The buttons that steer one thing, with the question and the outcome below them.
 * `verbs`: {verb: {label, done, sure?}}; those with `sure` ask before they act. `act(verb)` does it, or raises Refused;
 * `done()` is called afterwards.
 */
export class Steering {
  element;
  #buttons = h("div", { class: "buttons" });
  #below = h("div", { class: "below" });
  #name;
  #verbs;
  #send;
  #legal = "";
  #done;

  constructor(name, verbs, act, done) {
    this.#name = name;
    this.#verbs = verbs;
    this.#send = act;
    this.#done = done;
    this.element = h("div", { class: "steering", role: "group", "aria-label": `Actions on ${name}` }, this.#buttons, this.#below);
  }

  /** Show the actions that are possible now. */
  offer(actions, fileChanged) {
    const key = JSON.stringify([actions, fileChanged]);
    if (key === this.#legal) return;
    this.#legal = key;
    const focused = this.#buttons.contains(document.activeElement) ? document.activeElement.dataset.verb : null;
    this.#buttons.replaceChildren(
      ...actions
        .filter((verb) => verb in this.#verbs)
        .map((verb) =>
          h(
            "button",
            { type: "button", "data-verb": verb, class: verb === "reload" && fileChanged ? "primary" : "", onclick: () => this.#begin(verb) },
            this.#verbs[verb].label,
          ),
        ),
    );
    this.#buttons.querySelector(`[data-verb="${focused}"]`)?.focus();
  }

  #begin(verb) {
    if (this.#verbs[verb].sure) this.#confirm(verb);
    else this.#act(verb);
  }

  #confirm(verb) {
    const { label, sure } = this.#verbs[verb];
    const yes = h("button", { type: "button", class: "primary", onclick: () => this.#act(verb) }, `${label} ${this.#name}`);
    const no = h("button", { type: "button", onclick: () => this.#close(verb) }, "Cancel");
    this.#below.replaceChildren(
      h(
        "div",
        { class: "ask", onkeydown: (event) => event.key === "Escape" && this.#close(verb) },
        h("p", { id: "sure" }, `${label} ${this.#name}? ${sure}`),
        yes,
        no,
      ),
    );
    yes.setAttribute("aria-describedby", "sure");
    yes.focus();
  }

  #close(verb) {
    this.#below.replaceChildren();
    this.#buttons.querySelector(`[data-verb="${verb}"]`)?.focus();
  }

  async #act(verb) {
    const { label, done } = this.#verbs[verb];
    this.#below.replaceChildren(h("p", { class: "outcome" }, `${label} ${this.#name}: under way …`));
    announce(`${label} ${this.#name}: under way`);
    try {
      await this.#send(verb);
      this.#tell("good", `${this.#name} ${done}.`);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (error.status === 401) return this.#askForToken(verb);
      this.#tell("bad", `${label} was refused: ${error.problems.length ? "" : error.message}`, error.problems);
    }
    this.#done();
  }

  #askForToken(verb) {
    if (token.get() !== null) token.set(null); // it was right once: the service has another one now
    const why = "This takes the admin token of the service:";
    announce(why);
    this.#below.replaceChildren(tokenForm(why, () => this.#act(verb), () => this.#close(verb)));
  }

  #tell(kind, text, problems = []) {
    announce([text, ...problems].join(" "));
    this.#below.replaceChildren(
      h("p", { class: `outcome ${kind}` }, text),
      problems.length ? h("ul", { class: "outcome bad" }, problems.map((problem) => h("li", {}, problem))) : "",
    );
  }
}
