// The frame of the console and of plugins' pages: what is shown in it, how the connection is, the theme, the token.

import { Connection } from "./connection.js";
import { announce, h, lasted, say, time } from "./dom.js";
import { Model } from "./model.js";
import { token, tokenForm } from "./steer.js";

const element = (id) => document.getElementById(id);
const main = element("main");
const model = new Model();
/** The plugin whose page this is; empty on the console's own. */
const own = document.documentElement.dataset.plugin;
let make = null;
let view = null;

// Views

/**
 * Show what `makeView(model, plugin)` returns, and make it anew when the address's fragment changes:
 * {element, name, update?({kind, changed, step}), recolour?(), close?()}; `name` is told to listeners.
 */
export function frame(makeView) {
  make = makeView;
  showTheme();
  showToken();
  route();
}

function route() {
  const moved = view !== null;
  view?.close?.();
  view = make(model, own);
  main.replaceChildren(view.element);
  if (moved) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
    announce(view.name);
  }
}

addEventListener("hashchange", route);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment is the view's address
  main.focus();
});
model.addEventListener("change", ({ detail }) => {
  if (detail.kind === "hello") {
    greet();
    // For measurements: the next frame shows what there is.
    requestAnimationFrame(() => setTimeout(() => performance.mark("lva-shown")));
  }
  if (detail.kind === "transition") tell(detail.step);
  view.update?.(detail);
  about();
});

function about() {
  const { service, at } = model;
  element("metrics").hidden = !model.plugins.has("prometheus");
  say(element("about"), `${service.version} · up ${lasted(at - service.started)}`);
  showPages();
}

/** Name the pages there are: the console's own, and those of plugins that are running. */
function showPages() {
  const pages = [...model.plugins.values()].filter(({ page, state, name }) => page && (state === "running" || name === own));
  const key = JSON.stringify(pages.map(({ name, page }) => [name, page]));
  const place = element("pages");
  if (place.dataset.shown === key) return;
  place.dataset.shown = key;
  const link = (href, text, name) => h("a", { href, "aria-current": name === own ? "page" : null }, text);
  place.replaceChildren(...(pages.length ? [link("/#/", "Plugins", ""), ...pages.map(({ name, page }) => link(`/console/${name}`, page, name))] : []));
}

/** Tell listeners of trouble and of its end. */
function tell({ plugin, state }) {
  if (["backoff", "failed", "abandoned"].includes(state)) announce(`${plugin}: ${state === "backoff" ? "crashed, will be restarted" : state}`);
  else if (state === "running") announce(`${plugin}: running`);
}

/** A page of another version than the service's may misread it: offer to load the new one. */
function greet() {
  if (model.service.build !== document.documentElement.dataset.build) {
    notice(h("span", {}, "The service runs another version than this page. "), h("button", { type: "button", onclick: () => location.reload() }, "Load it"));
  }
  showToken();
}

// The connection

let countdown = 0;
let refused = false;
const connection = new Connection(
  (name, data) => model.take(name, data),
  (state) => showConnection(state),
);

function showConnection({ state, until, why, at }) {
  clearInterval(countdown);
  const place = element("connection");
  place.dataset.state = state;
  document.body.classList.toggle("old", state === "lost" || state === "stopped" || state === "paused");
  if (state === "live") {
    if (!refused) notice();
    refused = false;
    return say(place, "live");
  }
  if (state === "refused") {
    refused = true;
    announce("The token was refused");
    return askForToken("That token was refused. Try another one:");
  }
  if (state === "connecting") return say(place, model.known ? place.textContent : "connecting");
  if (state === "paused") return say(place, "paused");
  say(place, state === "stopped" ? "stopped" : "no connection");
  const left = h("span");
  const count = () => say(left, `${Math.max(0, Math.ceil((until - Date.now()) / 1000))} s`);
  count();
  countdown = setInterval(count, 500);
  const since = model.known ? ` What you see is as of ${time(model.at)}.` : "";
  notice(
    h("span", {}, state === "stopped" ? `The service stopped at ${time(at)}: ${why}.${since}` : `No connection: ${why}${since ? `.${since}` : ""}`),
    h("span", { class: "next", "aria-hidden": "true" }, " Next try in ", left),
    h("button", { type: "button", onclick: () => connection.reconnect() }, "Try now"),
  );
}

function notice(...parts) {
  const place = element("notice");
  place.replaceChildren(...parts);
  place.hidden = !parts.length;
}

// The theme

const themes = ["auto", "light", "dark"];
const themeButton = element("theme");

function showTheme() {
  const chosen = document.documentElement.dataset.theme ?? "auto";
  say(themeButton, `Theme: ${chosen}`);
}

themeButton.addEventListener("click", () => {
  const chosen = document.documentElement.dataset.theme ?? "auto";
  const next = themes[(themes.indexOf(chosen) + 1) % themes.length];
  if (next === "auto") {
    delete document.documentElement.dataset.theme;
    localStorage.removeItem("lva-theme");
  } else {
    document.documentElement.dataset.theme = next;
    localStorage.setItem("lva-theme", next);
  }
  showTheme();
  view.recolour?.();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => view?.recolour?.());

// The token

const tokenButton = element("token");

function showToken() {
  tokenButton.hidden = model.off || (model.known && model.details && token.get() === null);
  say(tokenButton, token.get() === null ? "Enter token" : "Forget token");
}

tokenButton.addEventListener("click", () => {
  if (token.get() !== null) return token.set(null);
  askForToken("Admin token of the service:");
});

function askForToken(why) {
  const close = () => notice();
  notice(tokenForm(why, close, close));
}

addEventListener("token", () => {
  showToken();
  connection.reconnect();
});
